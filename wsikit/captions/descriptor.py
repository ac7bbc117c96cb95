"""A patch in a few numbers of stain and texture, to tell which patches look alike. No model, no facts, no words.

Per pixel: optical density of each channel; per patch: their mean, spread and tails, and how rough they are at three
scales. Frames: uint8 (B, H, W, 3) in, float32 (B, D) out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DESCRIPTOR_REVISION = 1
"""Raised when the same patch gets other numbers."""

_DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
_SCALES = 3  # each twice as coarse as the one before: 0.5, 1 and 2 µm at 0.5 µm/px
_TAILS = (10.0, 50.0, 90.0)  # per cent
_LEAST_SIDE = 4  # px; on less there is no texture


def describe_patches(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Numbers of patches, float32 (B, D): each depends on its own patch alone. `images` is uint8 (B, H, W, 3)."""
    return np.stack([_one(image) for image in images]) if len(images) else np.zeros((0, 0), np.float32)


def _one(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    density = _DENSITY[image]  # (H, W, 3)
    values: list[npt.NDArray[np.float32]] = []
    for scale in range(_SCALES):
        if scale and min(density.shape[:2]) >= 2 * _LEAST_SIDE:
            density = _halved(density)
        if scale == 1:  # tails of single pixels are noise
            values.append(np.percentile(density, _TAILS, axis=(0, 1)).ravel())
            values.append(density.mean(axis=(0, 1)))
        down, right = np.abs(np.diff(density, axis=0)), np.abs(np.diff(density, axis=1))
        values += [down.mean(axis=(0, 1)) + right.mean(axis=(0, 1)), density.std(axis=(0, 1))]
    return np.concatenate(values).astype(np.float32)


def _halved(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    height, width = (side // 2 * 2 for side in plane.shape[:2])
    rows = plane[0:height:2] + plane[1:height:2]
    return np.asarray((rows[:, 0:width:2] + rows[:, 1:width:2]) / 4, dtype=np.float32)
