"""Pixels of one patch for measuring: optical densities at a working scale, and small fast filters on (h, w) planes.

Shrinking is by whole factors, so that no pixel is interpolated; what does not fill a block is left out.
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

# Optical density of a grey value; 255 is density 0 and 0 is 2.41, so that nothing is infinite.
_DENSITY = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
_BINOMIAL_VARIANCE = 0.5  # px² of one (1, 2, 1) / 4 pass
_MOST_PASSES = 12  # σ of 2.4 px; more than any caller needs at 0.1 µm/px and up


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
    """Average blocks of k × k px so that no pixel is finer than about `finest_mpp` µm.

    Parameters
    ----------
    image
        uint8 (H, W, 3).
    mpp
        µm per pixel of `image`.
    finest_mpp
        Wanted µm per pixel; a patch that is as coarse or coarser is returned as it is.

    Returns
    -------
    image, mpp
        uint8 (H // k, W // k, 3) and its µm per pixel, k · `mpp`.
    """
    # 10 % of tolerance: 0.2738 µm/px scans are shrunk twofold for 0.5 like those at 0.25
    k = max(1, min(int(1.1 * finest_mpp / mpp), *image.shape[:2]))
    if k == 1:
        return image, mpp
    height, width = (n // k * k for n in image.shape[:2])
    rows = image[0:height:k, :width].astype(np.uint32)
    for place in range(1, k):
        rows += image[place:height:k, :width]
    total = rows[:, 0::k].copy()
    for place in range(1, k):
        total += rows[:, place::k]
    return ((total + k * k // 2) // (k * k)).astype(np.uint8), mpp * k


def densities(image: Pixels, mpp: float) -> Densities:
    """Optical density, log10(255 / value) but for half a grey level, of a uint8 (h, w, 3) image."""
    red, green, blue = (np.take(_DENSITY, image[..., channel]) for channel in range(3))
    return Densities(red, green, blue, mpp)


def smooth(plane: Plane, sigma_px: float) -> Plane:
    """Gaussian-like blur with a binomial kernel; edges repeat. Below σ = 0.5 px nothing is done."""
    from scipy import ndimage as ndi

    passes = min(_MOST_PASSES, round(sigma_px**2 / _BINOMIAL_VARIANCE))
    if passes == 0:
        return plane
    if passes == 1:
        return _blend_columns(_blend_rows(plane))
    kernel = np.array([math.comb(2 * passes, k) for k in range(2 * passes + 1)]) / 4.0**passes
    return ndi.correlate1d(ndi.correlate1d(plane, kernel, axis=0, mode="nearest"), kernel, axis=1, mode="nearest")


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
    """Mean over a square whose standard deviation is about `sigma_px`, for wide blurs at constant cost.

    `planes` is float32 (..., h, w); edges repeat. One call for a stack costs less than one for each plane.
    """
    from scipy import ndimage as ndi

    side = 2 * round(0.5 * (np.sqrt(12 * sigma_px**2 + 1) - 1)) + 1
    rows = ndi.uniform_filter1d(planes, side, axis=-2, mode="nearest")
    return ndi.uniform_filter1d(rows, side, axis=-1, mode="nearest")


def halve(planes: Plane) -> Plane:
    """Mean of 2 × 2 blocks of (..., h, w): (..., h // 2, w // 2); planes of one row or column keep it."""
    if planes.shape[-2] > 1:
        even = planes.shape[-2] // 2 * 2
        planes = (planes[..., 0:even:2, :] + planes[..., 1:even:2, :]) * np.float32(0.5)
    if planes.shape[-1] > 1:
        even = planes.shape[-1] // 2 * 2
        planes = (planes[..., 0:even:2] + planes[..., 1:even:2]) * np.float32(0.5)
    return planes


def halve_mask(mask: Mask, least: float) -> Mask:
    """(h // 2, w // 2): whether more than the share `least` of each 2 × 2 block is in the mask."""
    counts = mask.view(np.uint8)
    parts = [1, 1]
    for axis in (0, 1):
        if counts.shape[axis] > 1:
            even = counts.shape[axis] // 2 * 2
            first, second = ([slice(None)] * axis + [slice(start, even, 2)] for start in (0, 1))
            counts = counts[tuple(first)] + counts[tuple(second)]
            parts[axis] = 2
    return counts > least * parts[0] * parts[1]


def double(plane: Plane, shape: tuple[int, int]) -> Plane:
    """Undo `halve`: repeat each value over its 2 × 2 block, and the last ones to fill (h, w) `shape`."""
    rows = np.minimum(np.arange(shape[0]) // 2, plane.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // 2, plane.shape[1] - 1)
    return plane[rows][:, columns]


def depth_below(mask: Mask, most_px: int = 64) -> Plane:
    """Steps of erosion, by a cross and a square in turn, that each pixel outlives: the octagonal distance, px.

    Deeper than `most_px` counts as `most_px`. The edge of the patch erodes nothing: a nucleus goes on beyond it.
    """
    outside, depth = ~mask, mask.astype(np.float32)
    for step in range(most_px - 1):
        outside = _grow(outside, square=step % 2 == 1)
        if outside.all():
            break
        depth += ~outside
    return depth


def dilate(mask: Mask, steps: int) -> Mask:
    """Grow a mask by `steps` px, by a cross and a square in turn: nearly a disc."""
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


def fill_holes(mask: Mask, largest_px: float, plane: Plane, least_mean: float) -> Mask:
    """Fill holes of at most `largest_px` px, off the edge of the patch, where the mean of `plane` is `least_mean`."""
    from scipy import ndimage as ndi

    labels, n = ndi.label(~mask)
    flat = labels.ravel()
    area = np.bincount(flat, minlength=n + 1)
    small = area <= largest_px
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        small[edge] = False
    small[0] = False
    places = np.flatnonzero(small[flat])
    member = flat[places]
    dense = np.bincount(member, plane.ravel()[places], n + 1) >= least_mean * area
    filled = mask.copy()
    filled.ravel()[places[dense[member]]] = True
    return filled


def otsu(values: Plane, *, highest: float, n_bins: int = 96) -> float:
    """Otsu's threshold of values in [0, highest]; those above count as `highest`. 0.0 if there are none."""
    if values.size == 0:
        return 0.0
    bins = np.minimum((values.ravel() * np.float32(n_bins / highest)).astype(np.int32), n_bins - 1)
    counts = np.bincount(np.maximum(bins, 0), minlength=n_bins).astype(np.float64)
    centres = (np.arange(n_bins) + 0.5) * (highest / n_bins)
    below, moment = counts.cumsum(), (counts * centres).cumsum()
    spread = below * (below[-1] - below)
    spread[spread == 0] = np.inf  # one-sided splits never win
    return float(centres[np.argmax((moment[-1] * below / below[-1] - moment) ** 2 / spread)])


def quantile(values: npt.NDArray[Any], q: float) -> float:
    """The value below which a share `q` of at least one value lies; no interpolation."""
    place = int(q * (values.size - 1))
    return float(np.partition(values, place)[place])
