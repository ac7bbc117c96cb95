"""Encoders of the packaged model in plain torch, for prediction: no timm, no transformers, no torchvision.

These libraries take several times as long to import as torch itself, and a run would wait for them. The parameters have
the libraries' names, so that one file of weights fits both, and the features are equal bit for bit (checked by the
tests). Any other configuration is built by the libraries: `plain_image_body` and `plain_text_body` then give None.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.config import ImageEncoderConfig, TextEncoderConfig


class _Block(nn.Module):
    """A basic residual block; its shortcut is averaged where it is narrower or larger than the output."""

    def __init__(self, given: int, wanted: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, wanted, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wanted)
        self.conv2 = nn.Conv2d(wanted, wanted, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wanted)
        self.downsample: nn.Module | None = None
        if stride != 1 or given != wanted:
            shrink = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride != 1 else nn.Identity()
            self.downsample = nn.Sequential(shrink, nn.Conv2d(given, wanted, 1, bias=False), nn.BatchNorm2d(wanted))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.bn2(self.conv2(x))
        x += shortcut
        return functional.relu(x, inplace=True)


class ResNet10T(nn.Module):
    """timm's resnet10t without a classifier: normalised patches (B, 3, H, W) to features (B, channels[3])."""

    def __init__(self, channels: tuple[int, ...] = (64, 128, 256, 512), stem_width: int = 32) -> None:
        super().__init__()
        narrow, wide = 3 * (stem_width // 4), 2 * stem_width
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, stem_width, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_width),
            nn.ReLU(inplace=True),
            nn.Conv2d(stem_width, wide, 3, padding=1, bias=False),
        )
        self.bn1 = nn.BatchNorm2d(wide)
        first, second, third, fourth = channels
        self.layer1 = nn.Sequential(_Block(wide, first, 1))
        self.layer2 = nn.Sequential(_Block(first, second, 2))
        self.layer3 = nn.Sequential(_Block(second, third, 2))
        self.layer4 = nn.Sequential(_Block(third, fourth, 2))
        self.num_features = fourth

    def forward(self, x: Tensor) -> Tensor:
        return self.map_and_features(x)[1]

    def map_and_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last but one feature map (B, channels[2], H / 16, W / 16), and the features (B, channels[3])."""
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        cells = self.layer3(self.layer2(self.layer1(x)))
        return cells, functional.adaptive_avg_pool2d(self.layer4(cells), 1).flatten(1)


def plain_image_body(config: ImageEncoderConfig) -> nn.Module | None:
    """The image encoder of a configuration, with random weights; None if it is not one of these."""
    options = dict(config.options)
    channels, stem_width = options.pop("channels", (64, 128, 256, 512)), options.pop("stem_width", 32)
    if config.name != "resnet10t" or options or not isinstance(channels, list | tuple) or len(channels) != 4:
        return None
    if not _counts([*channels, stem_width]) or stem_width < 4:
        return None
    return ResNet10T(tuple(channels), stem_width)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        query, key, value = (part(x).view(shape).transpose(1, 2) for part in (self.query, self.key, self.value))
        found = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return found.transpose(1, 2).reshape(batch, length, width)


class _Output(nn.Module):
    """A linear layer, added to the block's input and normalised."""

    def __init__(self, given: int, width: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(given, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        found: Tensor = self.LayerNorm(self.dropout(self.dense(x)) + before)
        return found


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, between: int, eps: float, dropout: float, in_attention: float) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": _Attention(width, heads, in_attention), "output": _Output(width, width, eps, dropout)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, between)})
        self.output = _Output(between, width, eps, dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, mask), x)
        found: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return found


class _Embeddings(nn.Module):
    def __init__(self, words: int, places: int, kinds: int, width: int, pad: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, width, padding_idx=pad)
        self.position_embeddings = nn.Embedding(places, width)
        self.token_type_embeddings = nn.Embedding(kinds, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        first_kind = self.token_type_embeddings(torch.zeros_like(ids))
        x = self.word_embeddings(ids) + first_kind + self.position_embeddings.weight[: ids.shape[1]]
        found: Tensor = self.dropout(self.LayerNorm(x))
        return found


class Bert(nn.Module):
    """transformers' BertModel: token ids (B, L) and mask (B, L), 1 where there is a token, to features (B, width)."""

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_dropout_prob: float = 0.1,
        attention_probs_dropout_prob: float = 0.1,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        layer_norm_eps: float = 1e-12,
        pad_token_id: int = 0,
    ) -> None:
        super().__init__()
        width, eps, dropout = hidden_size, layer_norm_eps, hidden_dropout_prob
        self.embeddings = _Embeddings(
            vocab_size, max_position_embeddings, type_vocab_size, width, pad_token_id, eps, dropout
        )
        layers = nn.ModuleList(
            _Layer(width, num_attention_heads, intermediate_size, eps, dropout, attention_probs_dropout_prob)
            for _ in range(num_hidden_layers)
        )
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.num_features = width

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return torch.tanh(self.pooler["dense"](self.hidden(ids, mask)[:, 0]))

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Features of each token after the last layer, (B, L, width)."""
        x: Tensor = self.embeddings(ids)
        # without padding there is no mask: torch then may choose another kernel, as it does in transformers
        seen = None if bool(mask.all()) else mask.bool()[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        for layer in self.encoder["layer"].children():
            x = layer(x, seen)
        return x


_BERT = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
_BERT_COUNTS = (*_BERT, "max_position_embeddings", "type_vocab_size")
_BERT_NUMBERS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps")


def plain_text_body(config: TextEncoderConfig) -> Bert | None:
    """The text encoder of a configuration, with random weights; None if it is not one of these."""
    options: dict[str, Any] = config.options
    counts = {name: options[name] for name in _BERT_COUNTS if name in options}
    numbers = {name: options[name] for name in _BERT_NUMBERS if name in options}
    if config.model_type != "bert" or options.keys() - counts.keys() - numbers.keys():
        return None
    if not _counts([*counts.values()]) or not all(isinstance(value, int | float) for value in numbers.values()):
        return None
    if counts.get("hidden_size", 768) % counts.get("num_attention_heads", 12):
        return None  # the library says what does not fit
    return Bert(**counts, **numbers)


def _counts(values: list[Any]) -> bool:
    return all(isinstance(value, int) and value > 0 for value in values)
