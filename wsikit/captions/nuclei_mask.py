"""Which pixels of a patch are nuclei: haematoxylin above a limit that follows patch and surroundings, holes filled.

Written for OpenCV and for few passes over planes that fit the processor's cache.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.pixels import Densities, Plane

Bits = npt.NDArray[np.uint8]
"""A mask as OpenCV takes it: 1 inside, 0 outside."""
Indices = npt.NDArray[np.intp]

_STAINED = 0.24  # OD, sum over the channels: less is glass
_HIGHEST_OD, _N_BINS = 1.5, 96  # of the histogram; higher densities count in its last bin
_BINS_PER_OD = _N_BINS / _HIGHEST_OD
_ALL_BINS = 160  # up to the highest OD there is
_ROUND_DOWN = -0.49998  # makes OpenCV's rounding one downwards
_CENTRES = (np.arange(_N_BINS) + 0.5) / _BINS_PER_OD
_SHORT_LABELS_PX = 120_000  # up to here, numbers of components fit 16 bits
_BINOMIAL_VARIANCE, _MAX_PASSES = 0.5, 12  # as in `pixels.smooth`
_SAMPLE = 8  # px; one pixel in 8 × 8 is enough to find the largest component


@functools.lru_cache(maxsize=64)
def _kernel(sigma_px: float, scale: float) -> npt.NDArray[np.float64]:
    passes = min(_MAX_PASSES, round(sigma_px**2 / _BINOMIAL_VARIANCE))
    return np.array([math.comb(2 * passes, k) for k in range(2 * passes + 1)]) * (scale / 4.0**passes)


def smooth(plane: npt.NDArray[Any], sigma_px: float, scale: float = 1.0) -> Plane:
    """`scale` times a plane, float32 or uint8, blurred as by `pixels.smooth`; float32, a new array."""
    rows, columns = _kernel(sigma_px, 1.0), _kernel(sigma_px, scale)
    return np.asarray(cv2.sepFilter2D(plane, cv2.CV_32F, rows, columns, borderType=cv2.BORDER_REPLICATE))


def halve(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Mean of 2 × 2 blocks of (h, w): (h // 2, w // 2). A single row or column is kept."""
    height, width = (n // 2 * 2 or 1 for n in plane.shape)
    size = max(1, width // 2), max(1, height // 2)
    return np.asarray(cv2.resize(plane[:height, :width], size, interpolation=cv2.INTER_AREA))


def box_mean(plane: npt.NDArray[Any], sigma_px: float) -> Plane:
    """Mean over a square window whose standard deviation is about `sigma_px`; edge pixels are repeated. float32."""
    side = 2 * round(0.5 * (math.sqrt(12 * sigma_px**2 + 1) - 1)) + 1
    return np.asarray(cv2.boxFilter(plane, cv2.CV_32F, (side, side), borderType=cv2.BORDER_REPLICATE))


def haematoxylin_of(od: Densities, green_weight: float, blue_weight: float) -> Plane:
    """OD of haematoxylin in red: that in red less the parts of green and blue that are other colours'."""
    plane = od.blue * np.float32(-blue_weight)
    plane -= np.float32(green_weight) * od.green
    plane += od.red
    cv2.threshold(plane, 0, 0, cv2.THRESH_TOZERO, dst=plane)
    return plane


def edges_of(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values along the four edges of a plane."""
    return np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1]))


def otsu_of(blurred: Plane, od: Densities) -> float:
    """Otsu's threshold of the stained pixels. 0.0 if there are none."""
    # every second row and column: a quarter of the pixels gives the same threshold
    bins = np.ascontiguousarray(cv2.convertScaleAbs(blurred[::2], alpha=_BINS_PER_OD, beta=_ROUND_DOWN)[:, ::2])
    total = od.red[::2] + od.green[::2]
    total += od.blue[::2]
    stained = np.ascontiguousarray((total > np.float32(_STAINED))[:, ::2]).view(np.uint8)
    every = cv2.calcHist([bins], [0], stained, [_ALL_BINS], [0, _ALL_BINS]).ravel().astype(np.float64)
    counts = every[:_N_BINS]
    counts[-1] += every[_N_BINS:].sum()
    below, moment = counts.cumsum(), (counts * _CENTRES).cumsum()
    if below[-1] == 0:
        return 0.0
    spread = below * (below[-1] - below)
    spread[spread == 0] = np.inf  # never split off an empty side
    return float(_CENTRES[np.argmax((moment[-1] * below / below[-1] - moment) ** 2 / spread)])


def is_above(plane: Plane, limit: Plane) -> Bits:
    """Whether (h, w) `plane` is above `limit`, which has one value for each 2 × 2 block, as from `halve`."""
    height, width = plane.shape
    wide = cv2.merge([limit, limit]).reshape(limit.shape[0], -1)[:, :width]
    if wide.shape[1] < width:
        wide = np.concatenate([wide, wide[:, -1:]], axis=1)
    above = np.empty(plane.shape, bool)
    even = height // 2 * 2
    pairs = above[:even].reshape(-1, 2, width)
    np.greater(plane[:even].reshape(-1, 2, width), wide[: even // 2, None], out=pairs)
    if even < height:
        np.greater(plane[-1], wide[-1], out=above[-1])
    return above.view(np.uint8)


def fill_holes(mask: Bits, max_px: float, plane: Plane, min_mean: float) -> None:
    """Fill holes of up to `max_px` px, off the patch's edge, whose mean of `plane` is at least `min_mean`; in place."""
    kind = cv2.CV_16U if mask.size <= _SHORT_LABELS_PX else cv2.CV_32S
    n, labels = cv2.connectedComponents(mask ^ 1, connectivity=4, ltype=kind)
    if n <= 2:  # the mask itself, and one component outside
        return
    sample = np.bincount(labels[::_SAMPLE, ::_SAMPLE].ravel(), minlength=n)
    sample[0] = 0
    largest = int(sample.argmax())
    if sample[largest] <= max_px:  # not surely too large
        largest = 0
    others = labels > int(largest == 1)  # most pixels are left out with the largest component, as a rule the first
    if largest > 1:
        others &= labels != largest
    pixels = np.flatnonzero(others)
    member = labels.ravel().take(pixels).astype(np.intp)
    area = np.bincount(member, minlength=n)
    filled = area <= max_px
    filled &= np.bincount(member, plane.ravel().take(pixels), n) >= min_mean * area
    filled[edges_of(labels)] = False
    mask.ravel()[pixels[filled.take(member)]] = 1
