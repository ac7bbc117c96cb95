"""CONCH v1.5: a ViT-L/16 at 448 px, pooled by one learned query to 768 features. Images only; TITAN's patch encoder.

Published as `conch_v1_5_pytorch_model.bin` in MahmoodLab/TITAN and `pytorch_model_vision.bin` in MahmoodLab/conchv1_5.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.towers.weights import read_state, resized_positions, with_weights

OPTIONS: dict[str, int] = {
    "position_px": 224,
    "patch_px": 16,
    "vision_width": 1024,
    "vision_layers": 24,
    "vision_heads": 16,
    "pool_heads": 8,
    "width": 768,
}
"""`position_px`: side of the image whose positions the file holds. They are resized to that of the image, 448 px."""


class _Trunk(VisionTransformer):
    """A ViT whose positions are resized as in DINO: bicubic, with a scale a little too large (by 0.1 patches)."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        high, wide = x.shape[1:3]
        class_token = self.get_parameter("cls_token")
        x = torch.cat([class_token.expand(len(x), -1, -1), x.flatten(1, 2)], dim=1)
        return x + self._positions(high, wide)

    def _positions(self, high: int, wide: int) -> Tensor:
        """Position embedding (1, 1 + high · wide, D)."""
        held = self.get_parameter("pos_embed")
        side = round((held.shape[1] - 1) ** 0.5)
        if (high, wide) == (side, side):
            return held
        places = held[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        scale = ((high + 0.1) / side, (wide + 0.1) / side)
        places = functional.interpolate(places, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([held[:, :1], places.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


class _QueryPool(nn.Module):
    """As `coca.QueryPool` with one query, but without biases, and with keys and values in one table."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, width))
        self.ln_k = nn.LayerNorm(context)
        self.ln_q = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, context) to (B, 1, width)."""
        queries = self.to_q(self.ln_q(self.query)).expand(len(tokens), 1, -1)
        keys, values = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (queries, keys, values))
        pooled: Tensor = self.to_out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return pooled


class ConchV15(nn.Module):
    """Normalised images (B, 3, 448, 448) to features (B, 768), with the parameter names of the published file."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        o = OPTIONS | dict(options)
        self.trunk = _Trunk(
            img_size=o["position_px"],
            patch_size=o["patch_px"],
            embed_dim=o["vision_width"],
            depth=o["vision_layers"],
            num_heads=o["vision_heads"],
            init_values=1.0,
            num_classes=0,
            dynamic_img_size=True,
        )
        self.attn_pool_contrast = _QueryPool(o["width"], o["vision_width"], o["pool_heads"])
        self.ln_contrast = nn.LayerNorm(o["width"])

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(images))[:, 0])
        return pooled


def build(options: Mapping[str, Any]) -> ConchV15:
    """CONCH v1.5 without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return ConchV15(options)


def load(path: Path | str, options: Mapping[str, Any] | None = None) -> ConchV15:
    """CONCH v1.5 with the weights of a file.

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    state, options = read_state(path), options or {}
    if "trunk.pos_embed" in state:
        o = OPTIONS | dict(options)
        state["trunk.pos_embed"] = resized_positions(state["trunk.pos_embed"], o["position_px"] // o["patch_px"])
    module = with_weights(build, options, state, path)
    assert isinstance(module, ConchV15)
    return module
