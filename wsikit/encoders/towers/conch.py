"""CONCH (MahmoodLab/CONCH): a CoCa of a ViT-B/16 at 448 px and a 12-layer text tower, shared space of 512.

The published file holds `visual.*`, `text.*` and `logit_scale`; its captioning decoder was not published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.towers.coca import CausalText, QueryPool
from wsikit.encoders.towers.texts import TextReader, tokenizer_file
from wsikit.encoders.towers.weights import read_state, resized_positions, with_weights

OPTIONS: dict[str, int] = {
    "image_px": 448,
    "patch_px": 16,
    "vision_width": 768,
    "vision_layers": 12,
    "vision_heads": 12,
    "pool_heads": 8,
    "caption_queries": 256,
    "text_width": 768,
    "text_layers": 12,
    "text_heads": 12,
    "vocabulary": 32007,
    "context": 128,
    "shared_width": 512,
}
UNUSED = ("text_decoder.",)
TOKENIZER_FILES = ("conch_byte_level_bpe_uncased.json", "tokenizer.json")
TOKENIZER_ADVICE = (
    "Put conch_byte_level_bpe_uncased.json there, from conch/open_clip_custom/tokenizers of "
    "https://github.com/mahmoodlab/CONCH, or tokenizer.json of MahmoodLab/TITAN."
)


class _Visual(nn.Module):
    def __init__(self, o: Mapping[str, int]) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.trunk = VisionTransformer(
            img_size=o["image_px"],
            patch_size=o["patch_px"],
            embed_dim=o["vision_width"],
            depth=o["vision_layers"],
            num_heads=o["vision_heads"],
            num_classes=0,
            dynamic_img_size=True,
        )
        width, shared = o["vision_width"], o["shared_width"]
        self.attn_pool_contrast = QueryPool(shared, width, heads=o["pool_heads"])
        self.ln_contrast = nn.LayerNorm(shared)
        self.proj_contrast = nn.Parameter(torch.zeros(shared, shared))
        self.attn_pool_caption = QueryPool(width, width, heads=o["pool_heads"], queries=o["caption_queries"])
        self.ln_caption = nn.LayerNorm(width)


class Conch(nn.Module):
    """Both towers, with the parameter names of the published file."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        o = OPTIONS | dict(options)
        self.options = o
        self.text = CausalText(
            o["text_width"],
            o["text_layers"],
            o["text_heads"],
            vocabulary=o["vocabulary"],
            context=o["context"],
            out=o["shared_width"],
        )
        self.visual = _Visual(o)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 512) of normalised images (B, 3, 448, 448), before the projection to the shared space.

        These are the features that TRIDENT and CONCH's authors use for patches (`proj_contrast=False`).
        """
        visual = self.visual
        pooled: Tensor = visual.ln_contrast(visual.attn_pool_contrast(visual.trunk.forward_features(images))[:, 0])
        return pooled

    def shared(self, images: Tensor) -> Tensor:
        """Places of normalised images in the shared space, (B, 512), each of length 1."""
        return functional.normalize(self(images) @ self.visual.proj_contrast, dim=-1)

    def texts(self, ids: Tensor, given: Tensor) -> Tensor:
        """Places of texts in the shared space, (K, 512), each of length 1; arguments as `TextReader` gives them."""
        return functional.normalize(self.text(ids, given), dim=-1)

    def reader(self, folder: Path) -> TextReader:
        """The tokenizer in `folder`; one place of the context is the class token's."""
        path = tokenizer_file(folder, TOKENIZER_FILES, TOKENIZER_ADVICE)
        context, vocabulary = self.options["context"] - 1, self.options["vocabulary"]
        return TextReader(path, context=context, vocabulary=vocabulary, pad="<pad>")


def build(options: Mapping[str, Any]) -> Conch:
    """CONCH without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return Conch(options)


def load(path: Path | str, options: Mapping[str, Any] | None = None) -> Conch:
    """CONCH with the weights of a file (`pytorch_model.bin`).

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    state, options = read_state(path), options or {}
    place = "visual.trunk.pos_embed"
    if place in state:
        o = OPTIONS | dict(options)
        state[place] = resized_positions(state[place], o["image_px"] // o["patch_px"])
    module = with_weights(build, options, state, path, unused=UNUSED)
    assert isinstance(module, Conch)
    return module
