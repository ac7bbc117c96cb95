"""A patch in a few numbers of stain and texture, to tell which patches look alike. No model, no facts, no words.

Per pixel of the patch halved: optical density, unmixed into haematoxylin and eosin by fixed vectors (for other stains
just two directions of colour); per patch: amounts, tails, how much detail at each of five scales, and how far fibres
run together. Frames: uint8 (B, H, W, 3) in, float32 (B, D) out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DESCRIPTOR_REVISION = 1
"""Raised when the same patch gets other numbers."""

_DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
# Ruifrok and Johnston 2001: densities in red, green, blue of haematoxylin, eosin and DAB
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_UNMIX = np.linalg.inv(np.array(_STAINS)).astype(np.float32)[:, :2]
_TAILS = (5.0, 25.0, 50.0, 75.0, 95.0)  # per cent
_BANDS_PX = (1.0, 2.0, 4.0, 8.0)  # of the halved patch: 1 to 8 µm at 0.5 µm/px
_FIBRE_PX = 16  # a fibre's direction is looked for over so many pixels
_LEAST_PX = 4  # a smaller patch is not halved

Plane = npt.NDArray[np.float32]


def describe_patches(images: npt.NDArray[np.uint8]) -> Plane:
    """Numbers of patches, float32 (B, D): each depends on its own patch alone. `images` is uint8 (B, H, W, 3)."""
    return np.stack([_one(image) for image in images]) if len(images) else np.zeros((0, 0), np.float32)


def _one(image: npt.NDArray[np.uint8]) -> Plane:
    density = _halved(_DENSITY[image])  # (H/2, W/2, 3)
    haematoxylin, eosin = np.moveaxis(density @ _UNMIX, 2, 0)
    values = [density.mean(axis=(0, 1)), density.std(axis=(0, 1))]
    for plane in (haematoxylin, eosin):
        values += [np.percentile(plane, _TAILS), _detail(plane)]
    values.append(_direction(eosin))
    return np.concatenate(values).astype(np.float32)


def _detail(plane: Plane) -> npt.NDArray[np.float64]:
    """Spread of what each blur takes away, and of what is left."""
    from scipy import ndimage as ndi

    spreads = []
    for sigma in _BANDS_PX:
        blurred = ndi.gaussian_filter(plane, sigma)
        spreads.append(float((plane - blurred).std()))
        plane = blurred
    return np.array([*spreads, float(plane.std())])


def _direction(plane: Plane) -> npt.NDArray[np.float64]:
    """Mean and spread of how far edges point one way, 0 … 1: the structure tensor's coherence."""
    from scipy import ndimage as ndi

    smooth = ndi.gaussian_filter(plane, 1.0)
    down, right = np.gradient(smooth) if min(smooth.shape) > 1 else (smooth * 0, smooth * 0)
    xx, yy, xy = (ndi.uniform_filter(part, _FIBRE_PX) for part in (right * right, down * down, right * down))
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-6)
    return np.array([float(coherence.mean()), float(coherence.std())])


def _halved(density: Plane) -> Plane:
    """Blocks of 2 × 2 px averaged: the scanner's noise is no likeness."""
    height, width = (side // 2 * 2 for side in density.shape[:2])
    if min(height, width) < _LEAST_PX:
        return density
    rows = density[0:height:2, :width] + density[1:height:2, :width]
    return np.asarray((rows[:, 0::2] + rows[:, 1::2]) / 4, dtype=np.float32)
