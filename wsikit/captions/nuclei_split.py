"""Separate touching nuclei: each pixel belongs to the maximum of the depth that steepest ascent leads to.

Pixels are flat indices, row by row, and only those of the mask are followed; nuclei are the n maxima.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.nuclei_mask import Bits, Indices, smooth
from wsikit.captions.pixels import Plane

Keys = npt.NDArray[np.int32]

_DEPTH_STEPS = 4096.0  # per px of depth
_MAX_DEPTH = 64  # px
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_SQUARE = np.ones((3, 3), np.uint8)
_DOUBLINGS = 4  # of the steps climbed before the first check: paths of up to 16 px, as nearly all are
_UNCHECKED = 4  # erosions before the first check whether anything is left


def split(mask: Bits, pixels: Indices, blur_px: float, apart_px: float) -> tuple[Indices, int]:
    """Nucleus of each pixel of the mask.

    Parameters
    ----------
    mask
        (h, w).
    pixels
        Indices of the mask's pixels, ascending; at least one.
    blur_px
        Standard deviation of the blur of the depth.
    apart_px
        Maxima as near as this, or nearer, are one.

    Returns
    -------
    member, n
        Of each pixel, 0 … n - 1; some of these numbers may have no pixel.
    """
    depth = smooth(depth_below(mask), blur_px, _DEPTH_STEPS).ravel().take(pixels)
    top, tops = _climb(depth, pixels, mask.shape)
    into = np.empty(len(pixels), np.intp)
    into[tops] = _merge_near(pixels.take(tops), depth.take(tops), mask.shape, apart_px)
    return into.take(top), len(tops)


def depth_below(mask: Bits) -> Bits:
    """Octagonal distance to the outside, px, as `pixels.depth_below`."""
    depth, left = mask.copy(), mask
    for step in range(_MAX_DEPTH - 1):
        # nothing erodes from the edge of the patch
        left = np.asarray(cv2.erode(left, _SQUARE if step % 2 else _CROSS), np.uint8)
        if step >= _UNCHECKED and not cv2.countNonZero(left):
            break
        depth += left
    return depth


def _climb(depth: Plane, pixels: Indices, shape: tuple[int, ...]) -> tuple[Indices, Indices]:
    """For each pixel the position, among the pixels, of the maximum above it; and the positions of all maxima."""
    height, width = shape
    # The four low bits are the direction of the step, two for the column and two for the row, so that a maximum gives
    # height and direction at once: 0 previous, 1 next, 2 stay. Among equal heights the last of these is preferred.
    keys = np.zeros((height + 2, width), np.int32)
    line = keys.ravel()
    line[width:-width][pixels] = depth.astype(np.int32) << 4
    sided = line + np.int32(1 << 2)
    across = np.empty_like(keys)
    best = across.ravel()
    np.maximum(line[:-2], sided[2:], out=best[1:-1])
    if width > 1:
        across[:, 0], across[:, -1] = sided.reshape(keys.shape)[:, 1], keys[:, -2]  # rows do not continue each other
    else:
        across[:] = 0
    sided += np.int32(1 << 2)
    np.maximum(best, sided, out=best)
    sided = np.add(best[2 * width :], np.int32(1), out=line[: -2 * width])
    np.maximum(sided, best[: -2 * width], out=sided)
    best += np.int32(2)
    np.maximum(sided, best[width:-width], out=sided)
    sided &= 15
    step: Indices = _steps(width).take(sided.take(pixels))
    step += pixels
    position = np.empty(height * width, np.intp)
    order = np.arange(len(pixels))
    position[pixels] = order
    above: Indices = position.take(step)
    tops = np.flatnonzero(above == order)
    for _ in range(_DOUBLINGS):
        above = above.take(above)
    while not ((higher := above.take(above)) == above).all():
        above = higher
    return above, tops


@functools.lru_cache(maxsize=16)
def _steps(width: int) -> Indices:
    """Step of the flat index by direction code."""
    one = np.array([-1, 1, 0, 0])
    return np.asarray((one[:, None] + one * width).ravel())


def _merge_near(peaks: Indices, height: Plane, shape: tuple[int, ...], apart_px: float) -> Indices:
    """For each of n peaks, indices ascending, the peak it is merged into: the end of a chain of near, higher peaks."""
    n, reach = len(peaks), int(apart_px)
    # from the lowest, and of equals from the last; heights are not negative, so that their bits sort as they do
    order = np.argsort((height.view(np.int32).astype(np.int64) << 32) - np.arange(n))
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(1, n + 1, dtype=np.int32)
    wide = shape[1] + reach  # no reach goes into another row
    row, column = np.divmod(peaks, shape[1])
    place = (row + reach) * wide + column + reach
    ranks = np.zeros((shape[0] + 2 * reach + 1) * wide, np.int32)
    ranks[place] = rank
    highest = ranks.take(_disc(apart_px, wide)[:, None] + place).max(axis=0)
    into: Indices = order.take(highest - 1)
    while not ((onward := into.take(into)) == into).all():
        into = onward
    return into


@functools.lru_cache(maxsize=16)
def _disc(radius_px: float, width: int) -> Indices:
    """Steps of the flat index to all pixels within a radius."""
    reach = int(radius_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray((y * width + x)[y * y + x * x <= radius_px**2])
