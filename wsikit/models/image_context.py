"""The image feature of a patch in the context of its slide: an image branch that sees the slide as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.models.slide_context import MIN_PATCHES

_DROPOUT = 0.1


def image_context(features: Tensor) -> Tensor:
    """Mean and standard deviation of the image features of a slide's patches, (n, d): (2, d).

    NaN for fewer than `wsikit.models.slide_context.MIN_PATCHES` patches: the slide is then not known.

    >>> image_context(torch.ones(10, 2)).tolist()
    [[1.0, 1.0], [0.0, 0.0]]
    """
    if len(features) < MIN_PATCHES:
        return features.new_full((2, features.shape[1]), torch.nan)
    return torch.stack([features.mean(dim=0), features.std(dim=0, correction=0)])


class ImageContext(nn.Module):
    """Image features (B, d) and the context of their slides (B, 2, d) to image features (B, d).

    v + MLP([v; mean; v − mean; sd]), where the slide is known, else v. At initialisation the sum is v: the branch
    begins as one that sees the patch alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(4 * width),
            nn.Linear(4 * width, width),
            nn.GELU(),
            nn.Dropout(_DROPOUT),
            nn.Linear(width, width),
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, context: Tensor) -> Tensor:
        known = context.isfinite().flatten(1).all(dim=1)[:, None]  # (B, 1)
        mean, spread = torch.nan_to_num(context).to(features.dtype).unbind(dim=1)
        added = self.layers(torch.cat([features, mean, features - mean, spread], dim=1))
        return torch.where(known, features + added, features)
