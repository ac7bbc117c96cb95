"""Fusion of the stages of a hierarchical encoder: each place of the finest map is a mean of its 3 × 3 neighbours, with
weights that are read from the second stage, and then from the third.

After the contrast-driven feature aggregation of ConDSeg (arXiv 2412.08345), as CMSwinKAN (arXiv 2504.13754) uses it.
All layers are made once, maps stay maps (B, C, h, w), and the result has as many channels as the encoder's last map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

NEIGHBOURS = 3
"""Side of the neighbourhood, cells."""


class NeighbourMean(nn.Module):
    """Weighted mean of the 3 × 3 neighbours of each place; the weights of a head are read from a guiding map.

    Cells beyond the edge have no weight, so a constant map stays as it is.

    Parameters
    ----------
    channels
        Of the values, a multiple of `heads`.
    guide
        Channels of the guiding map.
    heads
        Groups of channels with weights of their own.
    """

    def __init__(self, channels: int, guide: int, *, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.weights = nn.Conv2d(guide, heads * NEIGHBOURS**2, 1)

    def forward(self, values: Tensor, guide: Tensor) -> Tensor:
        """Values (B, C, h, w) and guiding map (B, G, h, w) to (B, C, h, w)."""
        b, c, h, w = values.shape
        logits = self.weights(guide).view(b, self.heads, NEIGHBOURS**2, h, w)
        inside = functional.unfold(values.new_ones(1, 1, h, w), NEIGHBOURS, padding=1).view(1, 1, -1, h, w) > 0
        share = logits.masked_fill(~inside, -torch.inf).softmax(dim=2)
        padded = functional.pad(values, (1, 1, 1, 1)).view(b, self.heads, c // self.heads, h + 2, w + 2)
        # by shifts: all neighbours at once would take nine times the memory
        mean = torch.zeros_like(padded[..., :h, :w])
        for n in range(NEIGHBOURS**2):
            moved = padded[..., n // NEIGHBOURS :, n % NEIGHBOURS :][..., :h, :w]
            mean = mean + share[:, :, n : n + 1] * moved
        return mean.reshape(b, c, h, w)


class MultiScaleFusion(nn.Module):
    """Maps of the first three stages to an addition to the last map.

    Parameters
    ----------
    widths
        Channels of the first three stages, the finest first.
    out
        Channels of the encoder's last map.
    """

    def __init__(self, widths: Sequence[int], out: int, *, heads: int = 1) -> None:
        super().__init__()
        finest, second, third = widths
        self.second = NeighbourMean(finest, second, heads=heads)
        self.third = NeighbourMean(finest, third, heads=heads)
        self.norm = nn.GroupNorm(1, finest)
        self.widen = nn.Conv2d(finest, out, 1)

    def forward(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Three maps (B, C_k, h_k, w_k) to (B, out, *size)."""
        values, second, third = stages
        grid = values.shape[2:]
        second, third = (
            functional.interpolate(guide, size=grid, mode="bilinear", align_corners=False) for guide in (second, third)
        )
        mixed = self.third(self.second(values, second), third)
        # a 1 × 1 convolution and a mean over places commute; the mean first is cheaper
        widened: Tensor = self.widen(functional.adaptive_avg_pool2d(self.norm(mixed), size))
        return widened
