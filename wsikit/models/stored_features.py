"""The image branch of an MMLNB on stored features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.models.config import FeatureBranchConfig


class StoredFeatures(nn.Module):
    """Features (B, D) of a frozen encoder, standardised and projected: (B, width).

    Attributes
    ----------
    mean, scale : Tensor
        (D,), of the training patches.
    width : int
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: FeatureBranchConfig) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(config.width))
        self.project = nn.Linear(config.width, config.project)
        self.width = config.project

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.project((features.to(torch.float32) - self.mean) / self.scale)
        return projected
