"""A feature vector of stain and texture for each patch, by which similar patches are grouped. No model, no facts.

Per pixel, after averaging 2 × 2 px: optical density, unmixed into haematoxylin and eosin by fixed vectors (for other
stains these are two directions in colour space). Per patch: means, percentiles, detail at five scales, and coherence of
the structure tensor. uint8 (B, H, W, 3) in, float32 (B, 28) out.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DESCRIPTOR_REVISION = 1
"""Raise it when the same patch gets other features."""

_DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
# Ruifrok and Johnston 2001: optical densities in red, green, blue of haematoxylin, eosin and DAB
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_UNMIX = np.linalg.inv(np.array(_STAINS)).astype(np.float32)[:, :2]
_PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
_BANDS_PX = (1.0, 2.0, 4.0, 8.0)  # of the halved patch: 1 to 8 µm at 0.5 µm/px
_FIBRE_PX = 16  # window for the direction of fibres
_MIN_PX = 4  # a smaller patch is not halved

Plane = npt.NDArray[np.float32]


def describe_patches(images: npt.NDArray[np.uint8]) -> Plane:
    """Features of patches, float32 (B, 28), of `images`, uint8 (B, H, W, 3). Each row depends on its own patch only.

    Examples
    --------
    >>> describe_patches(np.full((2, 8, 8, 3), 128, np.uint8)).shape
    (2, 28)
    """
    return np.stack([_one(image) for image in images]) if len(images) else np.zeros((0, 0), np.float32)


def _one(image: npt.NDArray[np.uint8]) -> Plane:
    density = _halved(_DENSITY[image])  # (H/2, W/2, 3)
    haematoxylin, eosin = np.moveaxis(density @ _UNMIX, 2, 0)
    values = [density.mean(axis=(0, 1)), density.std(axis=(0, 1))]
    for plane in (haematoxylin, eosin):
        values += [np.percentile(plane, _PERCENTILES), _detail(plane)]
    values.append(_direction(eosin))
    return np.concatenate(values).astype(np.float32)


def _detail(plane: Plane) -> npt.NDArray[np.float64]:
    """Standard deviation of the detail removed by each blur, and of the rest."""
    from scipy import ndimage as ndi

    spreads = []
    for sigma in _BANDS_PX:
        blurred = ndi.gaussian_filter(plane, sigma)
        spreads.append(float((plane - blurred).std()))
        plane = blurred
    return np.array([*spreads, float(plane.std())])


def _direction(plane: Plane) -> npt.NDArray[np.float64]:
    """Mean and standard deviation of the coherence of the structure tensor, 0 (no direction) to 1 (one direction)."""
    from scipy import ndimage as ndi

    smooth = ndi.gaussian_filter(plane, 1.0)
    down, right = np.gradient(smooth) if min(smooth.shape) > 1 else (smooth * 0, smooth * 0)
    xx, yy, xy = (ndi.uniform_filter(part, _FIBRE_PX) for part in (right * right, down * down, right * down))
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-6)
    return np.array([float(coherence.mean()), float(coherence.std())])


def _halved(density: Plane) -> Plane:
    """Mean of blocks of 2 × 2 px: removes scanner noise, which must not decide what is similar."""
    height, width = (side // 2 * 2 for side in density.shape[:2])
    if min(height, width) < _MIN_PX:
        return density
    rows = density[0:height:2, :width] + density[1:height:2, :width]
    return np.asarray((rows[:, 0::2] + rows[:, 1::2]) / 4, dtype=np.float32)
