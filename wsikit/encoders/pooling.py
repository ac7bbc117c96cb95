"""From the tokens of an image to its features."""

from __future__ import annotations

import torch
from torch import Tensor

from wsikit.encoders.recipe import Pooling


def pooled(tokens: Tensor, pooling: Pooling, *, prefix: int) -> Tensor:
    """Features of tokens (B, N, D), of which the first `prefix` are no patches; the very first is the class token.

    >>> tokens = torch.tensor([[[1.0], [9.0], [2.0], [4.0]]])
    >>> pooled(tokens, "cls+mean", prefix=2).tolist()
    [[1.0, 3.0]]
    """
    if pooling == "cls":
        return tokens[:, 0]
    mean = tokens[:, prefix:].mean(dim=1)
    return mean if pooling == "mean" else torch.cat([tokens[:, 0], mean], dim=-1)
