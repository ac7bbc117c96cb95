"""Optical densities of a patch at a working scale, and fast filters on (h, w) planes.

Patches are downsampled by integer factors, so that no pixel is interpolated; incomplete blocks at the edge are dropped.
Filters are OpenCV's: compiled, and without Python's lock. Masks stay bool; OpenCV reads them as uint8 without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.tissue.blocks import Blocks

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

OD_OF_VALUE = (-np.log10((np.arange(256) + 1) / 256)).astype(np.float32)
"""Optical density by grey value, (256,); 0 for 255 and 2.41 for 0, so that none is infinite."""

_BINOMIAL_VARIANCE = 0.5  # px² of one (1, 2, 1) / 4 pass
_MAX_PASSES = 12  # σ of 2.4 px: enough for all callers from 0.1 µm/px on

# The C library of Linux gives freed memory of 128 KB and more back to the system, and each page costs when it is needed
# again: up to a millisecond per patch. It stops doing so up to the size of the largest block that was ever freed. This
# one is never touched, so that it takes no memory.
np.empty(24 << 20, np.uint8)

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_SQUARE = np.ones((3, 3), np.uint8)
_SAMPLED = 2048  # values; of more than this, a quantile is first narrowed down by a sample
_SAMPLE = 128


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
    k = shrink_factor(image.shape[:2], mpp, finest_mpp)
    return (image if k == 1 else np.ascontiguousarray(Blocks(image[None]).means(k)[:, 0].transpose(1, 2, 0))), mpp * k


def shrink_factor(shape: tuple[int, ...], mpp: float, finest_mpp: float) -> int:
    """Side of the blocks that `shrink` averages, px."""
    # tolerance of 10 %: scans at 0.2738 µm/px are halved for 0.5 like those at 0.25
    return max(1, min(int(1.1 * finest_mpp / mpp), *shape))


def densities(image: Pixels, mpp: float) -> Densities:
    """Optical density, log10(256 / (value + 1)), of an image, uint8 (h, w, 3) at `mpp` µm per pixel.

    Examples
    --------
    >>> round(float(densities(np.full((1, 1, 3), 127, np.uint8), 0.5).green[0, 0]), 3)
    0.301
    """
    red, green, blue = densities_of(Blocks(image[None]).planes[:, 0])
    return Densities(red, green, blue, mpp)


def densities_of(planes: npt.NDArray[np.uint8]) -> Plane:
    """Optical densities of the grey values of planes, uint8 (..., w): float32 of the same shape."""
    if planes.ndim > 2:
        densities = np.empty(planes.shape, np.float32)
        for place, plane in enumerate(planes):
            cv2.LUT(plane.reshape(-1, planes.shape[-1]), OD_OF_VALUE, densities[place].reshape(-1, planes.shape[-1]))
        return densities
    return np.asarray(cv2.LUT(planes, OD_OF_VALUE), np.float32)


def smooth(plane: Plane, sigma_px: float) -> Plane:
    """Approximate Gaussian blur of (..., h, w) by a binomial kernel; edge pixels are repeated. None below 0.5 px."""
    passes = min(_MAX_PASSES, round(sigma_px**2 / _BINOMIAL_VARIANCE))
    if passes == 0:
        return plane
    if plane.ndim > 2:
        return in_one_call(plane, passes, None, lambda tall: smooth(tall, sigma_px))
    kernel = _binomial(passes)
    return np.asarray(cv2.sepFilter2D(plane, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REPLICATE))


@lru_cache(maxsize=_MAX_PASSES)
def _binomial(passes: int) -> Plane:
    return np.array([math.comb(2 * passes, k) / 4.0**passes for k in range(2 * passes + 1)], np.float32)


def box_side(sigma_px: float) -> int:
    """Odd side, px, of the square window whose standard deviation is about `sigma_px` along each axis.

    Examples
    --------
    >>> box_side(1.0), box_side(5.8)
    (3, 21)
    """
    return 2 * round(0.5 * (math.sqrt(12 * sigma_px**2 + 1) - 1)) + 1


def box_mean(planes: Plane, sigma_px: float) -> Plane:
    """Mean over a square window whose standard deviation is about `sigma_px`: a wide blur at constant cost.

    `planes` is float32 (..., h, w); edge pixels are repeated.
    """
    side = box_side(sigma_px)
    if planes.ndim > 2:
        return in_one_call(planes, side // 2, None, lambda tall: box_mean(tall, sigma_px))
    return np.asarray(cv2.blur(planes, (side, side), borderType=cv2.BORDER_REPLICATE))


def in_one_call(
    planes: npt.NDArray[Any], reach: int, fill: Any, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """A filter of (h, w) that reaches `reach` px, applied to all of some planes (..., h, w): each call has its price.

    They are put below one another, with rows of `fill` between them: what the filter takes to lie beyond the edge. For
    None, edge pixels are repeated.
    """
    height, width = planes.shape[-2:]
    many = planes.reshape(-1, height, width)
    if len(many) == 1:
        return change(many[0]).reshape(planes.shape)
    above = reach if fill is None else 0
    tall = np.empty((len(many), above + height + reach, width), planes.dtype)
    tall[:, above : above + height] = many
    if fill is None:
        tall[:, :above] = many[:, :1]
    tall[:, above + height :] = many[:, -1:] if fill is None else fill
    changed = change(tall.reshape(-1, width)).reshape(tall.shape)
    return np.ascontiguousarray(changed[:, above : above + height]).reshape(planes.shape)


def box_count(mask: Mask, sigma_px: float) -> tuple[Plane, int]:
    """Pixels of masks (..., h, w) within the same window around each pixel, float32, and the pixels of the window."""
    side = box_side(sigma_px)

    def count(plane: npt.NDArray[np.uint8]) -> Plane:
        return np.asarray(
            cv2.boxFilter(plane, cv2.CV_32F, (side, side), normalize=False, borderType=cv2.BORDER_REPLICATE)
        )

    return in_one_call(mask.view(np.uint8), side // 2, None, count), side * side


def halve(planes: Plane) -> Plane:
    """Mean of 2 × 2 blocks of (..., h, w): (..., h // 2, w // 2). A single row or column is kept.

    Examples
    --------
    >>> halve(np.array([[1, 3], [5, 7]], np.float32)).tolist()
    [[4.0]]
    """
    height, width = planes.shape[-2:]
    if planes.ndim > 2:
        if height % 2 or width < 2:
            return np.stack([halve(plane) for plane in planes])
        tall = planes.reshape(-1, width)  # the blocks of one plane never reach into the next
        return halve(tall).reshape(*planes.shape[:-2], height // 2, width // 2)
    if height > 1 and width > 1:
        even = planes[: height // 2 * 2, : width // 2 * 2]
        return np.asarray(cv2.resize(even, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    for axis, side in enumerate((height, width)):
        if side > 1:
            pairs = planes.take(range(side // 2 * 2), axis=axis)
            first, second = (pairs.take(range(start, side // 2 * 2, 2), axis=axis) for start in (0, 1))
            planes = (first + second) * np.float32(0.5)
    return planes


def halve_mask(mask: Mask, min_share: float) -> Mask:
    """(h // 2, w // 2): whether more than `min_share` of each 2 × 2 block lies in the mask."""
    return cover(mask) > 4 * min_share


def cover(mask: Mask) -> npt.NDArray[np.uint8]:
    """How many quarters of each 2 × 2 block of (..., h, w) lie in the mask, 0 to 4; a single row or column is kept.

    Examples
    --------
    >>> cover(np.array([[True, False, True], [True, True, False]])).tolist()
    [[3]]
    """
    height, width = mask.shape[-2] // 2, mask.shape[-1] // 2
    if height == 0 or width == 0:
        return np.asarray(np.rint(4 * halve(mask.astype(np.float32))), np.uint8)
    ones = mask.view(np.uint8)
    rows = ones[..., 0 : 2 * height : 2, : 2 * width] + ones[..., 1 : 2 * height : 2, : 2 * width]
    # two neighbours are read as one number of 16 bits; times 257, their sum is in its upper half
    pairs = rows.view(np.uint16)
    pairs *= 257
    pairs >>= 8
    return pairs.astype(np.uint8)


def depth_below(mask: Mask, max_px: int = 64) -> Plane:
    """Octagonal distance to the outside of the mask, px: the number of erosions, by a cross and a square in turn, after
    which a pixel is left.

    At most `max_px`. The edge of the patch does not erode: a nucleus continues beyond it.
    """
    inside = mask.view(np.uint8)
    depth = inside.copy()
    for step in range(max_px - 1):
        inside = np.asarray(cv2.erode(inside, _SQUARE if step % 2 else _CROSS), np.uint8)
        if not cv2.countNonZero(inside):
            break
        depth += inside
    return depth.astype(np.float32)


def dilate(mask: Mask, steps: int) -> Mask:
    """Dilate masks (..., h, w) by `steps` px, by a cross and a square in turn: approximately a disc."""
    return _turns(cv2.dilate, mask, steps, 0)


def erode(mask: Mask, steps: int) -> Mask:
    """Erode masks (..., h, w) by `steps` px, as `dilate`; the edge of the patch does not erode."""
    return _turns(cv2.erode, mask, steps, 1)


def _turns(change: Any, mask: Mask, steps: int, beyond: int) -> Mask:
    # the order of crosses and squares does not matter, so that each takes one call
    turns = [(shape, times) for shape, times in ((_CROSS, (steps + 1) // 2), (_SQUARE, steps // 2)) if times]

    def apply(plane: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        for shape, times in turns:
            plane = change(plane, shape, iterations=times)
        return plane

    return in_one_call(mask.view(np.uint8), steps, beyond, apply).view(np.bool_) if turns else mask


def dilate_square(mask: Mask, side: int) -> Mask:
    """Dilate masks (..., h, w) by a square of an odd side, px."""
    square = np.ones((side, side), np.uint8)
    return in_one_call(mask.view(np.uint8), side // 2, 0, lambda tall: cv2.dilate(tall, square)).view(np.bool_)


def quantile(values: npt.NDArray[Any], q: float) -> float:
    """The `q`-quantile of at least one value, the lower one if it lies between two: no interpolation.

    Examples
    --------
    >>> quantile(np.array([3.0, 1.0, 2.0]), 0.5)
    2.0
    """
    rank = int(q * (values.size - 1))
    values = values.ravel()
    if values.size > _SAMPLED:
        values, rank = _narrowed(values, rank)
    return float(np.partition(values, rank)[rank])


def _narrowed(values: npt.NDArray[Any], rank: int) -> tuple[npt.NDArray[Any], int]:
    """Those values between two of a sample, and the rank among them: the same value, found among fewer."""
    sample = np.sort(values[:: values.size // _SAMPLE])
    middle = rank * len(sample) // values.size
    margin = len(sample) // 10
    low = sample[max(0, middle - margin)]
    high = sample[min(len(sample) - 1, middle + margin)]
    within = values[(values >= low) & (values <= high)]
    left = rank - int(np.count_nonzero(values < low))
    return (within, left) if 0 <= left < within.size else (values, rank)
