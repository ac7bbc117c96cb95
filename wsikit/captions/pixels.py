"""Optical densities of a patch at a working scale, and fast filters on (h, w) planes.

Patches are downsampled by integer factors, so that no pixel is interpolated; incomplete blocks at the edge are dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

# Optical density by grey value; 0 for 255 and 2.41 for 0, so that none is infinite
_DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
_BINOMIAL_VARIANCE = 0.5  # px² of one (1, 2, 1) / 4 pass
_MAX_PASSES = 12  # σ of 2.4 px: enough for all callers from 0.1 µm/px on


@dataclass(frozen=True, slots=True)
class Densities:
    """Optical density per channel, float32 (h, w) each, ≥ 0; `mpp` µm per pixel."""

    red: Plane
    green: Plane
    blue: Plane
    mpp: float

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""
        return self.red.shape[0], self.red.shape[1]


def shrink(image: Pixels, mpp: float, *, finest_mpp: float) -> tuple[Pixels, float]:
    """Downsample a patch by averaging blocks of k × k px, so that no pixel is finer than about `finest_mpp` µm.

    Parameters
    ----------
    image
        uint8 (H, W, 3).
    mpp
        µm per pixel of `image`.
    finest_mpp
        Target pixel size, µm per pixel; a patch that is as coarse or coarser is returned unchanged.

    Returns
    -------
    image, mpp
        uint8 (H // k, W // k, 3) and its µm per pixel, k · `mpp`.

    Examples
    --------
    >>> image, mpp = shrink(np.zeros((9, 8, 3), np.uint8), 0.25, finest_mpp=0.5)
    >>> image.shape, mpp
    ((4, 4, 3), 0.5)
    """
    # tolerance of 10 %: scans at 0.2738 µm/px are halved for 0.5 like those at 0.25
    k = max(1, min(int(1.1 * finest_mpp / mpp), *image.shape[:2]))
    if k == 1:
        return image, mpp
    height, width = (n // k * k for n in image.shape[:2])
    rows = image[0:height:k, :width].astype(np.uint32)
    for offset in range(1, k):
        rows += image[offset:height:k, :width]
    total = rows[:, 0::k].copy()
    for offset in range(1, k):
        total += rows[:, offset::k]
    return ((total + k * k // 2) // (k * k)).astype(np.uint8), mpp * k


def densities(image: Pixels, mpp: float) -> Densities:
    """Optical density, log10(256 / (value + 1)), of an image, uint8 (h, w, 3) at `mpp` µm per pixel.

    Examples
    --------
    >>> round(float(densities(np.full((1, 1, 3), 127, np.uint8), 0.5).green[0, 0]), 3)
    0.301
    """
    red, green, blue = (np.take(_DENSITY, image[..., channel]) for channel in range(3))
    return Densities(red, green, blue, mpp)


def smooth(plane: Plane, sigma_px: float) -> Plane:
    """Approximate Gaussian blur by a binomial kernel; edge pixels are repeated. No blur for σ below 0.5 px."""
    from scipy import ndimage as ndi

    passes = min(_MAX_PASSES, round(sigma_px**2 / _BINOMIAL_VARIANCE))
    if passes == 0:
        return plane
    if passes == 1:
        return _blend_columns(_blend_rows(plane))
    kernel = np.array([math.comb(2 * passes, k) for k in range(2 * passes + 1)]) / 4.0**passes
    rows = ndi.correlate1d(plane, kernel, axis=0, mode="nearest")
    return np.asarray(ndi.correlate1d(rows, kernel, axis=1, mode="nearest"))


def _blend_rows(plane: Plane) -> Plane:
    """One (1, 2, 1) / 4 pass along the first axis."""
    out = plane * np.float32(0.5)
    quarter = plane * np.float32(0.25)
    out[1:] += quarter[:-1]
    out[:-1] += quarter[1:]
    out[0] += quarter[0]
    out[-1] += quarter[-1]
    return out


def _blend_columns(plane: Plane) -> Plane:
    """One (1, 2, 1) / 4 pass along the second axis."""
    out = plane * np.float32(0.5)
    quarter = plane * np.float32(0.25)
    out[:, 1:] += quarter[:, :-1]
    out[:, :-1] += quarter[:, 1:]
    out[:, 0] += quarter[:, 0]
    out[:, -1] += quarter[:, -1]
    return out


def box_mean(planes: Plane, sigma_px: float) -> Plane:
    """Mean over a square window whose standard deviation is about `sigma_px`: a wide blur at constant cost.

    `planes` is float32 (..., h, w); edge pixels are repeated. One call for a stack is faster than one per plane.
    """
    from scipy import ndimage as ndi

    side = 2 * round(0.5 * (np.sqrt(12 * sigma_px**2 + 1) - 1)) + 1
    rows = ndi.uniform_filter1d(planes, side, axis=-2, mode="nearest")
    return np.asarray(ndi.uniform_filter1d(rows, side, axis=-1, mode="nearest"))


def halve(planes: Plane) -> Plane:
    """Mean of 2 × 2 blocks of (..., h, w): (..., h // 2, w // 2). A single row or column is kept.

    Examples
    --------
    >>> halve(np.array([[1, 3], [5, 7]], np.float32)).tolist()
    [[4.0]]
    """
    if planes.shape[-2] > 1:
        even = planes.shape[-2] // 2 * 2
        planes = (planes[..., 0:even:2, :] + planes[..., 1:even:2, :]) * np.float32(0.5)
    if planes.shape[-1] > 1:
        even = planes.shape[-1] // 2 * 2
        planes = (planes[..., 0:even:2] + planes[..., 1:even:2]) * np.float32(0.5)
    return planes


def halve_mask(mask: Mask, min_share: float) -> Mask:
    """(h // 2, w // 2): whether more than `min_share` of each 2 × 2 block lies in the mask."""
    counts = mask.view(np.uint8)
    parts = [1, 1]
    for axis in (0, 1):
        if counts.shape[axis] > 1:
            even = counts.shape[axis] // 2 * 2
            first, second = ([slice(None)] * axis + [slice(start, even, 2)] for start in (0, 1))
            counts = counts[tuple(first)] + counts[tuple(second)]
            parts[axis] = 2
    return counts > min_share * parts[0] * parts[1]


def double(plane: Plane, shape: tuple[int, int]) -> Plane:
    """Inverse of `halve`: repeat each value over its 2 × 2 block, and the last ones up to (h, w) `shape`."""
    rows = np.minimum(np.arange(shape[0]) // 2, plane.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // 2, plane.shape[1] - 1)
    return np.asarray(plane[rows][:, columns])


def depth_below(mask: Mask, max_px: int = 64) -> Plane:
    """Octagonal distance to the outside of the mask, px: the number of erosions, by a cross and a square in turn, after
    which a pixel is left.

    At most `max_px`. The edge of the patch does not erode: a nucleus continues beyond it.
    """
    outside, depth = ~mask, mask.astype(np.float32)
    for step in range(max_px - 1):
        outside = _grow(outside, square=step % 2 == 1)
        if outside.all():
            break
        depth += ~outside
    return depth


def dilate(mask: Mask, steps: int) -> Mask:
    """Dilate a mask by `steps` px, by a cross and a square in turn: approximately a disc."""
    for step in range(steps):
        mask = _grow(mask, square=step % 2 == 1)
    return mask


def _grow(mask: Mask, *, square: bool) -> Mask:
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    sideways = out.copy() if square else mask
    out[:, 1:] |= sideways[:, :-1]
    out[:, :-1] |= sideways[:, 1:]
    return out


def fill_holes(mask: Mask, max_px: float, plane: Plane, min_mean: float) -> Mask:
    """Fill holes of up to `max_px` px, off the patch's edge, in which the mean of `plane` is at least `min_mean`."""
    from scipy import ndimage as ndi

    labels, n = ndi.label(~mask)
    flat = labels.ravel()
    area = np.bincount(flat, minlength=n + 1)
    small = area <= max_px
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge] = False
    small[0] = False
    pixels = np.flatnonzero(small[flat])
    member = flat[pixels]
    dense = np.bincount(member, plane.ravel()[pixels], n + 1) >= min_mean * area
    filled = mask.copy()
    filled.ravel()[pixels[dense[member]]] = True
    return filled


def otsu(values: Plane, *, highest: float, n_bins: int = 96) -> float:
    """Otsu's threshold of values in [0, highest]; larger values count as `highest`. 0.0 if there are no values."""
    if values.size == 0:
        return 0.0
    bins = np.minimum((values.ravel() * np.float32(n_bins / highest)).astype(np.int32), n_bins - 1)
    counts = np.bincount(np.maximum(bins, 0), minlength=n_bins).astype(np.float64)
    centres = (np.arange(n_bins) + 0.5) * (highest / n_bins)
    below, moment = counts.cumsum(), (counts * centres).cumsum()
    spread = below * (below[-1] - below)
    spread[spread == 0] = np.inf  # never split off an empty side
    return float(centres[np.argmax((moment[-1] * below / below[-1] - moment) ** 2 / spread)])


def quantile(values: npt.NDArray[Any], q: float) -> float:
    """The `q`-quantile of at least one value, the lower one if it lies between two: no interpolation.

    Examples
    --------
    >>> quantile(np.array([3.0, 1.0, 2.0]), 0.5)
    2.0
    """
    index = int(q * (values.size - 1))
    return float(np.partition(values, index)[index])
