"""Operations on masks: processing in strips, connected regions, holes and small regions. Sizes are mask pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_STRIP_PX = 1 << 20  # pixels processed at once: about 4 MB per float32 plane, for any slide
_EIGHT = np.ones((3, 3), bool)


def row_strips(height: int, width: int, multiple: int = 4) -> Iterator[tuple[int, int]]:
    """(top, bottom) of strips of whole rows that cover `height`, each starting at a multiple of `multiple`.

    >>> list(row_strips(10, 1 << 18))
    [(0, 4), (4, 8), (8, 10)]
    """
    rows = max(1, _STRIP_PX // max(1, width) // multiple) * multiple
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def extremes(image: npt.NDArray[Any], axis: int = -1) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Maximum and minimum of the three channels along `axis`. Plane by plane: NumPy is slow along an axis of three."""
    one, two, three = np.moveaxis(image, axis, 0)
    return np.maximum(np.maximum(one, two), three), np.minimum(np.minimum(one, two), three)


def dilate(mask: Mask, radius_px: float, within: Mask | None = None) -> Mask:
    """`mask` dilated by an octagon of `radius_px`; with `within`, only along the pixels of that mask.

    >>> dilate(np.array([[False, False, True]]), 1).tolist()
    [[False, True, True]]
    """
    grown = mask
    for step in range(round(radius_px)):
        grown = _grow(grown, diagonal=step % 2 == 1)
        if within is not None:
            grown &= within
    return grown


def erode(mask: Mask, radius_px: float) -> Mask:
    """`mask` eroded by an octagon of `radius_px`. Pixels beyond the image count as mask."""
    return ~dilate(~mask, radius_px)


def close_gaps(mask: Mask, radius_px: float) -> Mask:
    """`mask` with gaps narrower than twice `radius_px` closed. Pixels beyond the image count as empty."""
    pad = round(radius_px) + 1
    closed = erode(dilate(np.pad(mask, pad), radius_px), radius_px)
    return closed[pad:-pad, pad:-pad]


def _grow(mask: Mask, *, diagonal: bool) -> Mask:
    """`mask` dilated by one pixel along both axes, or also along the diagonals. Ten times faster than ndimage."""
    tall = mask.copy()
    tall[1:] |= mask[:-1]
    tall[:-1] |= mask[1:]
    source = tall.copy() if diagonal else mask
    tall[:, 1:] |= source[:, :-1]
    tall[:, :-1] |= source[:, 1:]
    return tall


def drop_small(mask: Mask, min_px: float) -> Mask:
    """`mask` without its 8-connected regions of fewer than `min_px` pixels.

    >>> drop_small(np.array([[True, False, True, True]]), 2).tolist()
    [[False, False, True, True]]
    """
    labels, areas = label(mask)
    keep = areas >= min_px
    keep[0] = False
    return choose(labels, keep)


def fill_holes(mask: Mask, max_px: float) -> Mask:
    """`mask` with holes of at most `max_px` pixels filled. A region that touches the image border is not a hole."""
    from scipy import ndimage as ndi

    labels, n = ndi.label(~mask)
    small = count(labels, n + 1) <= max_px
    small[0] = False
    small[np.unique(edge_values(labels))] = False
    filled = choose(labels, small)
    filled |= mask
    return filled


def label(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """8-connected regions, int32 (h, w), 0 for none; and the area of each in pixels, int64 (n + 1,), 0 for none."""
    from scipy import ndimage as ndi

    labels, n = ndi.label(mask, _EIGHT)
    areas = count(labels, n + 1)
    areas[0] = 0
    return labels, areas


def count(labels: npt.NDArray[np.int32], n: int, within: Mask | None = None) -> npt.NDArray[np.int64]:
    """Pixels of each label, int64 (n,), of those in `within`. In strips, because
    NumPy converts the labels to 8 bytes."""
    counts = np.zeros(n, np.int64)
    for top, bottom in row_strips(*labels.shape):
        strip = labels[top:bottom]
        counts += np.bincount(strip.ravel() if within is None else strip[within[top:bottom]], minlength=n)
    return counts


def choose(labels: npt.NDArray[np.int32], keep: Mask) -> Mask:
    """Pixels whose label is to be kept, bool (h, w); `keep` is (n,). In strips, as in `count`."""
    chosen = np.empty(labels.shape, bool)
    for top, bottom in row_strips(*labels.shape):
        np.take(keep, labels[top:bottom], out=chosen[top:bottom])
    return chosen


def edge_values(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values along the four edges of `image` (h, w)."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
