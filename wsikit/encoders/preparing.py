"""From patches in uint8 to what a model takes, on the model's device."""

from __future__ import annotations

import torch
from torch import Tensor

from wsikit.encoders.resampling import resize
from wsikit.encoders.transform import Transform


def resized(images: Tensor, transform: Transform) -> Tensor:
    """Patches (B, P, P, 3) uint8, resized and cut to (B, 3, crop, crop) uint8, in memory as channels_last.

    Pixels are those of Pillow (`wsikit.encoders.resampling`). Patches that have the right side are not resized.
    """
    if images.shape[1] != transform.side:
        images = resize(images, transform.side, transform.interpolation)
    x = images.permute(0, 3, 1, 2)  # channels_last without a copy
    start = round((transform.side - transform.crop) / 2)
    return x[:, :, start : start + transform.crop, start : start + transform.crop]


def normalised(x: Tensor, transform: Transform) -> Tensor:
    """uint8 (B, 3, H, W) to float32 of the same shape: (x / 255 - mean) / std."""
    scale = torch.tensor([1 / (255 * std) for std in transform.std], device=x.device).view(1, 3, 1, 1)
    shift = torch.tensor([m / s for m, s in zip(transform.mean, transform.std)], device=x.device).view(1, 3, 1, 1)
    return x.to(torch.float32, copy=True).mul_(scale).sub_(shift)


def prepared(images: Tensor, transform: Transform) -> Tensor:
    """Patches (B, P, P, 3) uint8 to normalised float32 (B, 3, crop, crop)."""
    return normalised(resized(images, transform), transform)
