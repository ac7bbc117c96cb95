"""Resizing that gives the pixels of Pillow, on any device.

Pillow resizes rows, then columns, each as a sum of neighbours with whole-numbered weights of 22 bits, rounded and
clipped to 0–255. The same sums are products with two small matrices; in float64 they are exact.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wsikit.encoders.transform import Interpolation

_BITS = 22
_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_REACH = {"bilinear": 1.0, "bicubic": 2.0}


def resize(images: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """Patches (B, P, P, 3) uint8 to (B, side, side, 3) uint8, as `PIL.Image.resize` gives them.

    Equal to Pillow's on the CPU and on devices with float64; elsewhere they differ by 1 at most.
    """
    if images.device.type == "cpu":
        return _by_pillow(images, side, interpolation)
    return by_matrices(images, side, interpolation)


def by_matrices(images: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    """As `resize`, on the images' device."""
    dtype = torch.float32 if images.device.type == "mps" else torch.float64
    weights = torch.from_numpy(weights_of(images.shape[1], side, interpolation)).to(images.device, dtype)
    x = images.permute(0, 3, 1, 2).to(dtype)  # (B, 3, P, P)
    x = torch.matmul(x, weights.T).add_(0.5).floor_().clamp_(0, 255)  # rows
    x = torch.matmul(weights, x).add_(0.5).floor_().clamp_(0, 255)  # columns
    return x.to(torch.uint8).permute(0, 2, 3, 1)


@functools.lru_cache(maxsize=8)
def weights_of(given: int, wanted: int, interpolation: Interpolation) -> np.ndarray:
    """Weights of the `given` pixels for each of the `wanted`, float64 (wanted, given), multiples of 2⁻²².

    >>> weights_of(4, 2, "bilinear")[0].round(3).tolist()
    [0.429, 0.429, 0.143, 0.0]
    """
    scale = given / wanted
    stretch = max(scale, 1.0)
    reach = _REACH[interpolation] * stretch
    table = np.zeros((wanted, given))
    for place in range(wanted):
        center = (place + 0.5) * scale
        first, last = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), given)
        raw = [_kernel((at - center + 0.5) / stretch, interpolation) for at in range(first, last)]
        total = sum(raw)
        table[place, first:last] = [math.copysign(int(abs(w / total) * 2**_BITS + 0.5), w) / 2**_BITS for w in raw]
    return table


def _kernel(x: float, interpolation: Interpolation) -> float:
    x = abs(x)
    if interpolation == "bilinear":
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5 if x < 2.0 else 0.0


def _by_pillow(images: Tensor, side: int, interpolation: Interpolation) -> Tensor:
    out = np.empty((len(images), side, side, 3), np.uint8)
    for place, image in enumerate(images.numpy()):
        out[place] = np.asarray(
            Image.fromarray(np.ascontiguousarray(image)).resize((side, side), _PILLOW[interpolation])
        )
    return torch.from_numpy(out)
