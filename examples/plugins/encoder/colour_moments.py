"""An image encoder: mean, spread and skewness of each channel, nine numbers per patch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ColourMoments(nn.Module):
    """Entry point of `wsikit.encoders`: a callable `(**options)` that returns a module with `num_features`."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 9

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) float to (B, 9)."""
        pixels = images.flatten(2)
        mean = pixels.mean(dim=2)
        centred = pixels - mean[..., None]
        spread = centred.square().mean(dim=2).sqrt()
        skewness = centred.pow(3).mean(dim=2) / spread.clamp(min=1e-6).pow(3)
        return torch.cat([mean, spread, skewness], dim=1)
