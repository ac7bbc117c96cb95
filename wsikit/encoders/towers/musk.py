"""MUSK (xiangjx/musk): BEiT-3 large, patches of 16 at 384 px; images and texts share the attention, space of 1024.

Each matrix and norm of its 24 layers exists twice: A for images, B for texts. Published as `model.safetensors`, with a
sentencepiece tokenizer of XLM-R's kind (`tokenizer.spm`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.towers.texts import TextReader, tokenizer_file
from wsikit.encoders.towers.weights import read_state, with_weights

OPTIONS: dict[str, int] = {
    "image_px": 384,
    "patch_px": 16,
    "width": 1024,
    "layers": 24,
    "heads": 16,
    "hidden": 4096,
    "vocabulary": 64010,
    "positions": 1024,
    "context": 100,
    "multiscale": 0,
}
"""`multiscale`: 1 adds the mean of the four quarters at twice the scale to the features, 2 × 1024, as MUSK's authors do
for linear probes; TRIDENT leaves it out."""
UNUSED = ("beit3.vision_embed.mask_token",)  # of training
TOKENIZER_FILES = ("tokenizer.spm", "sentencepiece.bpe.model", "tokenizer.json")
TOKENIZER_ADVICE = "Put tokenizer.spm there, from musk/models of https://github.com/lilab-stanford/MUSK."
_FIRST_PLACE = 2  # row of the position table that the first token has, as in fairseq

Make = Callable[[], nn.Module]


class _Two(nn.Module):
    """One part for images and one for texts."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.A, self.B = make(), make()

    def forward(self, x: Tensor, text: bool) -> Tensor:
        out: Tensor = (self.B if text else self.A)(x)
        return out


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (_Two(lambda: nn.Linear(width, width)) for _ in range(4))
        self.inner_attn_ln = _Two(lambda: nn.LayerNorm(width))

    def forward(self, x: Tensor, text: bool, given: Tensor | None) -> Tensor:
        q, k, v = (
            part(x, text).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = None if given is None else given[:, None, None, :]
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        out: Tensor = self.out_proj(self.inner_attn_ln(seen, text), text)
        return out


class _Feed(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.ffn_layernorm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.ffn_layernorm(functional.gelu(self.fc1(x))))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, heads)
        self.self_attn_layer_norm = _Two(lambda: nn.LayerNorm(width))
        self.ffn = _Two(lambda: _Feed(width, hidden))
        self.final_layer_norm = _Two(lambda: nn.LayerNorm(width))

    def forward(self, x: Tensor, text: bool, given: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x, text), text, given)
        out: Tensor = x + self.ffn(self.final_layer_norm(x, text), text)
        return out


class _Encoder(nn.Module):
    def __init__(self, o: Mapping[str, int]) -> None:
        super().__init__()
        width, patches = o["width"], (o["image_px"] // o["patch_px"]) ** 2
        rows = iter((patches + 1 + _FIRST_PLACE, o["positions"]))
        self.embed_positions = _Two(lambda: nn.Embedding(next(rows), width))
        self.layers = nn.ModuleList(_Layer(width, o["heads"], o["hidden"]) for _ in range(o["layers"]))
        self.layer_norm = _Two(lambda: nn.LayerNorm(width))

    def forward(self, x: Tensor, text: bool, given: Tensor | None) -> Tensor:
        places = torch.arange(_FIRST_PLACE, x.shape[1] + _FIRST_PLACE, device=x.device)
        x = x + self.embed_positions(places, text)
        if given is not None:
            x = x * given[..., None]
        for layer in self.layers:
            x = layer(x, text, given)
        out: Tensor = self.layer_norm(x, text)
        return out


class _Vision(nn.Module):
    def __init__(self, width: int, patch_px: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_px, stride=patch_px)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, images: Tensor) -> Tensor:
        x = self.proj(images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


class _Beit3(nn.Module):
    def __init__(self, o: Mapping[str, int]) -> None:
        super().__init__()
        self.text_embed = nn.Embedding(o["vocabulary"], o["width"])
        self.vision_embed = _Vision(o["width"], o["patch_px"])
        self.encoder = _Encoder(o)


class Musk(nn.Module):
    """Both towers in one, with the parameter names of the published file."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        o = OPTIONS | dict(options)
        self.options = o
        self.beit3 = _Beit3(o)
        self.language_head = nn.Linear(o["width"], o["width"], bias=False)
        self.vision_head = nn.Linear(o["width"], o["width"], bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images (B, 3, 384, 384): the class token, (B, 1024), or (B, 2048) (`multiscale`)."""
        features = self._class_token(images)
        if not self.options["multiscale"]:
            return features
        large = functional.interpolate(images, scale_factor=2, mode="bicubic", align_corners=False)
        side = images.shape[-1]
        quarters = [large[..., y : y + side, x : x + side] for y in (0, side) for x in (0, side)]
        finer = torch.stack([self._class_token(quarter) for quarter in quarters]).mean(0)
        return torch.cat([features, finer], dim=-1)

    def shared(self, images: Tensor) -> Tensor:
        """Places of normalised images in the shared space, (B, 1024), each of length 1."""
        return functional.normalize(self.vision_head(self._class_token(images)), dim=-1)

    def texts(self, ids: Tensor, given: Tensor) -> Tensor:
        """Places of texts in the shared space, (K, 1024), each of length 1; arguments as `TextReader` gives them."""
        encoded = self.beit3.encoder(self.beit3.text_embed(ids), True, given)
        return functional.normalize(self.language_head(encoded[:, 0]), dim=-1)

    def reader(self, folder: Path) -> TextReader:
        """The tokenizer in `folder`."""
        path = tokenizer_file(folder, TOKENIZER_FILES, TOKENIZER_ADVICE)
        return TextReader(path, context=self.options["context"], vocabulary=self.options["vocabulary"], pad="<pad>")

    def _class_token(self, images: Tensor) -> Tensor:
        encoded: Tensor = self.beit3.encoder(self.beit3.vision_embed(images), False, None)
        return encoded[:, 0]


def build(options: Mapping[str, Any]) -> Musk:
    """MUSK without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return Musk(options)


def load(path: Path | str, options: Mapping[str, Any] | None = None) -> Musk:
    """MUSK with the weights of a file.

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    module = with_weights(build, options or {}, read_state(path), path, unused=UNUSED)
    assert isinstance(module, Musk)
    return module
