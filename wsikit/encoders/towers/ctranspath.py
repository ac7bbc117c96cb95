"""CTransPath (Xiyue-Wang/TransPath): Swin-T whose patches are embedded by convolutions; 768 features at 224 px.

The published `ctranspath.pth` (also CHIEF's `CHIEF_CTransPath.pth`) has the names of timm 0.5.4: what merges patches
stands at the end of a stage. In today's timm it is the beginning of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wsikit.encoders.towers.weights import State, read_state, with_weights

OPTIONS: dict[str, Any] = {
    "image_px": 224,
    "window": 7,
    "width": 96,
    "layers": (2, 2, 6, 2),
    "heads": (3, 6, 12, 24),
}
_COMPUTED = re.compile(r"\.(relative_position_index|attn_mask)$")
_MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")


class _Stem(nn.Module):
    """Normalised images (B, 3, H, W) to (B, H / 4, W / 4, width)."""

    def __init__(self, img_size: int, embed_dim: int, norm_layer: Any, **_: Any) -> None:
        super().__init__()
        self.grid_size = (img_size // 4, img_size // 4)
        narrow, middle = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(3, narrow, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, middle, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, embed_dim, 1),
        )
        self.norm = norm_layer(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return x


def build(options: Mapping[str, Any]) -> nn.Module:
    """CTransPath without weights: images (B, 3, 224, 224) to features (B, 768). `options` overrides `OPTIONS`."""
    from timm.models.swin_transformer import SwinTransformer

    o = OPTIONS | dict(options)
    module: nn.Module = SwinTransformer(
        img_size=o["image_px"],
        patch_size=4,
        num_classes=0,
        embed_dim=o["width"],
        depths=tuple(o["layers"]),
        num_heads=tuple(o["heads"]),
        window_size=o["window"],
        embed_layer=_Stem,
    )
    return module


def renamed(state: State) -> State:
    """The published names as today's timm has them; tables that are computed are left out."""
    shift = any(name.startswith("layers.0.downsample.") for name in state)  # else the names are today's already
    out = {}
    for name, value in state.items():
        if not _COMPUTED.search(name):
            out[_MERGING.sub(lambda found: f"layers.{int(found[1]) + shift}.downsample.", name)] = value
    return out


def load(path: Path | str, options: Mapping[str, Any] | None = None) -> nn.Module:
    """CTransPath with the weights of a file.

    Raises
    ------
    ModelError
        The file is missing, damaged, or of another architecture.
    """
    return with_weights(build, options or {}, renamed(read_state(path)), path, unused=("head.",))
