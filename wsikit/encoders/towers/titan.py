"""TITAN's slide encoder (MahmoodLab/TITAN): a ViT of 6 layers over the grid of CONCH v1.5 features, with ALiBi in 2D.

Of `model.safetensors` the names `vision_encoder.*` are used; its text tower is not. Patches must not overlap: two of
them in one cell of the grid would be added up in the published code, and are refused here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.encoders.slide_protocol import SlideEncoderInfo
from wsikit.encoders.towers.coca import QueryPool
from wsikit.encoders.towers.slide_module import SlideModule, digest, source_of
from wsikit.encoders.towers.weights import read_state, with_weights
from wsikit.errors import ModelError, RequestError

OPTIONS: dict[str, int] = {
    "given": 768,
    "width": 768,
    "layers": 6,
    "heads": 12,
    "pool_heads": 8,
    "caption_queries": 128,
    "projected": 0,
}
"""`projected`: 1 gives the places in the space shared with TITAN's texts."""
PREFIX = "vision_encoder."
EPSILON = 1e-6
ROWS = 256
"""Rows of the attention at a time: its bias has heads × rows × patches numbers."""


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """x (1 + N, width), the class token first; places, float (N, 2), cells of the grid."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # (heads, 1 + N, width / heads)
        slopes = torch.tensor(alibi_slopes(self.heads), dtype=x.dtype, device=x.device)[:, None, None]
        seen = torch.empty_like(q)
        room = x.new_zeros(self.heads, min(ROWS, len(x)), len(x))  # used again: else the heap is left in pieces
        for start in range(0, len(x), ROWS):
            stop = min(start + ROWS, len(x))
            bias = room[:, : stop - start].zero_()
            first = max(start, 1)  # the class token is at no distance from any patch
            near = places[first - 1 : stop - 1]
            distances = torch.cdist(near, places, compute_mode="donot_use_mm_for_euclid_dist")
            bias[:, first - start :, 1:].copy_(distances).mul_(-slopes)
            part = functional.scaled_dot_product_attention(
                q[None, :, start:stop], k[None], v[None], attn_mask=bias[None]
            )
            seen[:, start:stop] = part[0]
        out: Tensor = self.proj(seen.transpose(0, 1).flatten(1))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), places)
        out: Tensor = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return out


class Titan(nn.Module):
    """Features (N, 768), corners (N, 2) and the patches' side in px of level 0 to slide features (768,)."""

    def __init__(self, options: Mapping[str, int]) -> None:
        super().__init__()
        o = OPTIONS | dict(options)
        self.options = o
        width = o["width"]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = nn.Sequential(nn.Linear(o["given"], width), nn.GELU())
        blocks = nn.ModuleList(_Block(width, o["heads"]) for _ in range(o["layers"]))
        self.blocks = nn.ModuleDict({"modules_list": blocks})
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.attn_pool = QueryPool(width, width, heads=o["pool_heads"], queries=o["caption_queries"])
        self.attn_pool_contrastive = QueryPool(width, width, heads=o["pool_heads"])
        self.proj = nn.Parameter(torch.zeros(width, width))

    def forward(self, features: Tensor, coords: Tensor, patch_size_lv0: float) -> Tensor:
        cells = cells_of(coords, patch_size_lv0)
        kept = (features != 0).any(dim=1)  # no features, no tissue: as published
        if not bool(kept.any()):
            raise RequestError("slide encoder 'titan': all features of the slide are 0.")
        places = cells[kept].to(features.dtype)
        x = torch.cat([self.cls_token[0], self.patch_embed(features[kept])])
        for block in self.blocks["modules_list"].children():
            x = block(x, places)
        pooled: Tensor = self.attn_pool_contrastive(self.norm(x)[None])[0, 0]
        return pooled @ self.proj if self.options["projected"] else pooled


def cells_of(coords: Tensor, patch_size_lv0: float) -> Tensor:
    """Cell (x, y) of the grid of each patch, int64 (N, 2), from 0.

    Raises
    ------
    RequestError
        Two patches lie in one cell.
    """
    cells = torch.div(coords - coords.min(dim=0).values, patch_size_lv0, rounding_mode="floor").to(torch.int64)
    if doubled := len(cells) - len(torch.unique(cells, dim=0)):
        raise RequestError(
            f"slide encoder 'titan': {doubled} of {len(cells)} patches share a cell of {patch_size_lv0:g} px of the "
            "grid with another one. TITAN takes patches that do not overlap; tile the slide without overlap."
        )
    return cells


def alibi_slopes(heads: int) -> list[float]:
    """Slope of the distance bias of each head: powers of a half, filled up with those in between.

    >>> alibi_slopes(2), alibi_slopes(3)
    ([0.0625, 0.00390625], [0.0625, 0.00390625, 0.25])
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2.0 ** (-8 * (i + 1) / (2 * power)) for i in range(0, 2 * power, 2)]
    return slopes + between[: heads - power]


def build(options: Mapping[str, Any]) -> Titan:
    """TITAN's slide encoder without weights; `options` overrides `OPTIONS`, such as to shrink it."""
    return Titan(options)


def load(path: Path | str, options: Mapping[str, Any] | None = None, *, device: str = "cpu") -> SlideModule:
    """TITAN's slide encoder with the weights of a file (`model.safetensors`).

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    o = OPTIONS | dict(options or {})
    state = {name[len(PREFIX) :]: value for name, value in read_state(path).items() if name.startswith(PREFIX)}
    if not state:
        raise ModelError(f"{path}: has no names {PREFIX}*; expected model.safetensors of MahmoodLab/TITAN.")
    module = with_weights(build, o, state, path)
    assert isinstance(module, Titan)
    mark = digest(f"titan {o['projected']}", module.state_dict())
    info = SlideEncoderInfo("titan", o["width"], o["given"], mark, "conch-v1.5", source_of(path), "CC-BY-NC-ND-4.0")
    return SlideModule(module, module, info, device=device)
