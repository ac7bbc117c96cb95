"""Swin transformers whose MLPs are KAN layers and whose stages are fused: the network of CMSwinKAN (arXiv 2504.13754).

The blocks are those of timm. Sizes are those of the published code; its defects are in docs/cmswinkan.md. Imports timm:
ask for the names in `wsikit.models.encoders`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.layers import Mlp, PatchEmbed
from timm.models._features import feature_take_indices
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from wsikit.errors import ModelError
from wsikit.models.kan import KAN
from wsikit.models.multi_scale import MultiScaleFusion

DEPTHS = (2, 2, 8, 2)
PATCH_SIDE = 4
"""Pixels per token, one side."""
_LAST_STRIDE = PATCH_SIDE * 2 ** (len(DEPTHS) - 1)
"""Pixels per token of the last stage, one side."""
HIDDEN = 16
"""Width between the two KAN layers of a block."""
GRID = 5


class _PaddedEmbedding(PatchEmbed):
    """Takes sides that are no multiple of a token's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(dynamic_img_pad=True, **options)


class SwinKAN(SwinTransformer):  # type: ignore[misc, unused-ignore]
    """Normalised patches, float (B, 3, H, W), to features (B, 8 · embed_dim).

    Parameters
    ----------
    img_size
        Side of the patches, px; of small ones the windows are made smaller as well. Others are taken, too: sides that
        are no multiple of 4 are padded by 0, the mean colour.
    embed_dim, num_heads
        Channels after the first stage, doubled by each further one; attention heads of the four stages.
    kan
        KAN layers [dim, 16, dim] in the blocks. False: MLPs with as many weights, (dim → 160 → dim), for comparison.
    fusion
        Add the first three stages to the last map. False: the last map alone.
    drop_path_rate
        Share of residual branches left out in training, as in timm.

    Raises
    ------
    ModelError
        If heads do not divide the channels.

    >>> import torch
    >>> model = SwinKAN(img_size=50, embed_dim=8, num_heads=(1, 2, 4, 8)).eval()
    >>> model(torch.zeros(1, 3, 50, 50)).shape
    torch.Size([1, 64])
    """

    def __init__(
        self,
        *,
        img_size: int = 224,
        embed_dim: int,
        num_heads: tuple[int, ...],
        kan: bool = True,
        fusion: bool = True,
        window_size: int = 7,
        drop_path_rate: float = 0.1,
    ) -> None:
        widths = [embed_dim * 2**stage for stage in range(len(DEPTHS))]
        if odd := [(w, n) for w, n in zip(widths, num_heads, strict=True) if w % n]:
            raise ModelError(
                f"swin_kan: {odd[0][0]} channels and {odd[0][1]} heads; heads must divide them. Change embed_dim or "
                "num_heads."
            )
        super().__init__(
            # halved three times without remainder: timm before 1.0.31 rounds down, later ones up, and windows differ
            img_size=-(-img_size // _LAST_STRIDE) * _LAST_STRIDE,
            patch_size=PATCH_SIDE,
            num_classes=0,
            embed_dim=embed_dim,
            depths=DEPTHS,
            num_heads=num_heads,
            window_size=window_size,
            strict_img_size=False,
            drop_path_rate=drop_path_rate,
            embed_layer=_PaddedEmbedding,
            norm_layer=nn.LayerNorm,
        )
        for layer, width in zip(self.layers, widths, strict=True):
            for block in layer.get_submodule("blocks").children():
                block.mlp = KAN([width, HIDDEN, width], grid=GRID) if kan else _same_size(width)
        self.fusion = MultiScaleFusion(widths[:3], widths[3]) if fusion else None

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, fused and normalised, (B, h, w, C)."""
        return self._joined(self._stages(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As timm's: the last map (B, h, w, C), and maps of stages, (B, C, h, w), before fusion and norm."""
        if norm or stop_early or output_fmt != "NCHW":
            raise ModelError("swin_kan: maps of stages are NCHW, as they are; leave out norm, stop_early, output_fmt.")
        stages = self._stages(x)
        chosen, _ = feature_take_indices(len(stages), indices)
        taken = [_channels_first(stages[stage]) for stage in chosen]
        return taken if intermediates_only else (self._joined(stages), taken)

    def _stages(self, x: Tensor) -> list[Tensor]:
        """Maps after each stage, (B, h, w, C)."""
        stages = [self.patch_embed(x)]
        for layer in self.layers:
            stages.append(layer(stages[-1]))
        return stages[1:]

    def _joined(self, stages: list[Tensor]) -> Tensor:
        last = stages[-1]
        if self.fusion is not None:
            size = (last.shape[1], last.shape[2])
            added = self.fusion([_channels_first(stage) for stage in stages[:3]], size)
            last = last + added.permute(0, 2, 3, 1)
        normalised: Tensor = self.norm(last)
        return normalised


def _channels_first(stage: Tensor) -> Tensor:
    return stage.permute(0, 3, 1, 2).contiguous()


def _same_size(width: int) -> nn.Module:
    """An MLP with the number of matrix weights of KAN [width, 16, width]: a KAN edge has grid + 3 + 2 of them."""
    hidden = HIDDEN * (GRID + 3 + 2)
    return Mlp(width, hidden)


SIZES: dict[str, Callable[..., nn.Module]] = {
    "swin_kan_micro": partial(SwinKAN, embed_dim=24, num_heads=(4, 8, 16, 32)),
    "swin_kan_tiny": partial(SwinKAN, embed_dim=56, num_heads=(4, 8, 16, 32)),
    "swin_kan_mini": partial(SwinKAN, embed_dim=24, num_heads=(2, 4, 8, 16)),
}
"""By name of the encoder."""
