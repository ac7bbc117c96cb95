"""The whole slide at mask resolution, read in blocks from the coarsest level that has the detail.

Blocks are in overview pixels; the memory per block is bounded in pixels of the level read, for any slide.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.geometry import plan_read
from wsikit.memory import give_back_memory

if TYPE_CHECKING:
    from wsikit.slides.base import Slide

_BLOCK_SIDE = 2048  # px of the level read: 12 MB as RGB, and few tiles are decoded twice
_LEAST_SIDE = 16  # overview px: an unreadable block is halved down to this size to find its readable parts
_MAX_FAILURES = 1000  # failed reads without any success, after which reading stops


def read_overview(slide: Slide, mpp: float) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read all of `slide` at `mpp` µm/px.

    Returns
    -------
    rgb : uint8 (h, w, 3)
        From level-0 (0, 0); white where unreadable.
    unreadable : bool (h, w)

    Raises
    ------
    ReadError
        Nothing of the slide could be read.
    """
    scale = (mpp / slide.mpp[0], mpp / slide.mpp[1])  # level-0 px per overview px
    # 1e-6: rounding errors must not add a pixel to a slide that is a whole number of pixels wide
    width, height = (max(1, math.ceil(n / s - 1e-6)) for n, s in zip(slide.dimensions, scale))
    rgb = np.full((height, width, 3), 255, np.uint8)
    unreadable = np.zeros((height, width), bool)
    # halves of a block wait until all blocks were tried: one with nothing readable must not use up all failures
    todo = deque(_blocks(width, height, _block_side(slide, mpp)))
    n_read = n_failed = 0
    while todo:
        x, y, w, h = todo.popleft()
        try:
            rgb[y : y + h, x : x + w] = slide.read_region(x * scale[0], y * scale[1], w, h, mpp=mpp)
            n_read += 1
        except ReadError:
            n_failed += 1
            if not n_read and n_failed >= _MAX_FAILURES:
                raise
            halves = _halves(x, y, w, h)
            if not halves:
                unreadable[y : y + h, x : x + w] = True
                if not n_read and not todo:
                    raise
            todo += halves
    drop = getattr(slide, "drop_tiles", None)
    if drop is not None:
        drop()  # each was needed once, and they take twice the memory of the overview
    give_back_memory()
    _replace_edges(rgb, unreadable, (slide.dimensions[0] / scale[0], slide.dimensions[1] / scale[1]))
    return rgb, unreadable


def _replace_edges(rgb: npt.NDArray[np.uint8], unreadable: npt.NDArray[np.bool_], size: tuple[float, float]) -> None:
    """Replace the last column and row by their neighbours if they extend beyond the slide: pixels beyond it are white,
    which in a dark field would be mistaken for signal. `size` is the width and height of the slide in overview px."""
    height, width = unreadable.shape
    if width > 1 and size[0] < width - 1e-6:
        rgb[:, -1], unreadable[:, -1] = rgb[:, -2], unreadable[:, -2]
    if height > 1 and size[1] < height - 1e-6:
        rgb[-1], unreadable[-1] = rgb[-2], unreadable[-2]


def _block_side(slide: Slide, mpp: float) -> int:
    """Overview px per block: `_BLOCK_SIDE` px of the level that the read comes from."""
    level_mpps = [slide.mpp[0] * ds[0] for ds in slide.level_downsamples]
    source_mpp = level_mpps[plan_read(level_mpps, target_mpp=mpp)]
    return max(_LEAST_SIDE, int(_BLOCK_SIDE * source_mpp / mpp))


def _blocks(width: int, height: int, side: int) -> list[tuple[int, int, int, int]]:
    """(x, y, w, h) of blocks that cover the overview."""
    places = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    return [(x, y, min(side, width - x), min(side, height - y)) for x, y in places]


def _halves(x: int, y: int, w: int, h: int) -> list[tuple[int, int, int, int]]:
    """The two halves of a block along its longer side; none if it is small enough."""
    if max(w, h) <= _LEAST_SIDE:
        return []
    if w >= h:
        return [(x, y, w // 2, h), (x + w // 2, y, w - w // 2, h)]
    return [(x, y, w, h // 2), (x, y + h // 2, w, h - h // 2)]
