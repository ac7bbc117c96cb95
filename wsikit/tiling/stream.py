"""Reading many patches of a slide or store at once: each tile that they need is decoded once, and no other is read.

A patch is bit-identical whether it is read alone or with others. Frames: coords are level-0 px; boxes are px of the
level that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.executor import available_cpus
from wsikit.geometry import PatchGrid
from wsikit.slides.base import Slide
from wsikit.slides.region import RegionPlans, plan_regions, resample
from wsikit.slides.tile_cache import DecodedTiles, DecodePool, paste_boxes

SUPER_TILE_PX = 4 << 20
"""Maximum number of pixels of one read for slides without access to tiles: 12 MB as RGB."""

SOURCE_BYTES = 16 << 20
"""Maximum size of pixels waiting to be resampled; further patches are read afterwards."""


@dataclass(frozen=True)
class PatchBatch:
    """Some consecutive patches of a table."""

    images: npt.NDArray[np.uint8]
    """(B, patch_px, patch_px, 3) RGB; zeros where not readable."""
    readable: npt.NDArray[np.bool_]
    """(B,); False where any pixel of the patch could not be read. Such an image must not be used."""


@dataclass(frozen=True)
class SuperTile:
    """One read for several adjacent boxes."""

    box: tuple[int, int, int, int]
    """x, y, width, height, px of the level."""
    members: slice
    """Indices of the boxes in it."""


def plan_patches(slide: Slide, grid: PatchGrid, coords: npt.NDArray[np.int64]) -> RegionPlans:
    """The reads for the patches at `coords`, int64 (N, 2) level-0 px, and how they are resampled."""
    size = grid.patch_px
    return plan_regions(slide.level_downsamples, slide.mpp, coords, size, size, mpp=grid.target_mpp, path=slide.path)


def plan_super_tiles(boxes: npt.NDArray[np.int64]) -> list[SuperTile]:
    """Group adjacent boxes of a row; `boxes` is (N, 4) of x, y, width, height, row-major."""
    super_tiles: list[SuperTile] = []
    first, (left, top, right, height) = 0, (0, 0, 0, 0)
    for index, (x, y, box_width, box_height) in enumerate(boxes.tolist()):
        adjacent = (y, box_height) == (top, height) and left <= x <= right + box_width
        if not (index and adjacent and (x + box_width - left) * height <= SUPER_TILE_PX):
            if index:
                super_tiles.append(SuperTile((left, top, right - left, height), slice(first, index)))
            first, left, top, right, height = index, x, y, x, box_height
        right = max(right, x + box_width)
    if len(boxes):
        super_tiles.append(SuperTile((left, top, right - left, height), slice(first, len(boxes))))
    return super_tiles


def read_patches(
    slide: Slide,
    grid: PatchGrid,
    coords: npt.NDArray[np.int64],
    *,
    threads: int = 1,
    in_order: bool = False,
) -> PatchBatch:
    """Read the patches at `coords`, int64 (B, 2) level-0 px, row-major.

    Patches that cannot be read are marked; their pixels are zeros, never white.

    Parameters
    ----------
    threads
        Decoding threads, for slides with access to tiles.
    in_order
        Whether this is one of several calls in row-major order without other readers of the slide: decoded tiles above
        are then dropped from the cache. Like `threads`, it changes the speed, not the pixels.
    """
    with DecodePool(threads) as pool:
        return _read(slide, plan_patches(slide, grid, coords), pool, in_order)


def iterate_patches(
    slide: Slide,
    grid: PatchGrid,
    coords: npt.NDArray[np.int64],
    row_ranges: Sequence[slice],
    *,
    threads: int | None = None,
) -> Iterator[tuple[slice, PatchBatch]]:
    """Yield (rows, batch) for each range of table rows; the next batch is read while the caller uses this one.

    `threads` is the number of decoding threads, by default one per CPU. At most two batches are in memory besides the
    caller's.
    """
    with (
        DecodePool(threads or available_cpus()) as pool,
        ThreadPoolExecutor(1, thread_name_prefix="wsikit-read") as ahead,
    ):

        def begin(rows: slice) -> Future[PatchBatch]:
            return ahead.submit(_read, slide, plan_patches(slide, grid, coords[rows]), pool, True)

        pending: tuple[slice, Future[PatchBatch]] | None = None
        for rows in row_ranges:
            following = (rows, begin(rows))
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = following
        if pending is not None:
            yield pending[0], pending[1].result()


def _read(slide: Slide, plans: RegionPlans, pool: DecodePool, in_order: bool) -> PatchBatch:
    width, height = plans.out
    images = np.empty((len(plans), height, width, 3), dtype=np.uint8)
    if plans.resampled:
        readable = _read_resampled(slide, plans, images, pool, in_order)
    else:
        readable = _read_boxes(slide, plans.level, plans.boxes, images, pool, in_order)
    images[~readable] = 0
    return PatchBatch(images, readable)


def _read_resampled(
    slide: Slide, plans: RegionPlans, images: npt.NDArray[np.uint8], pool: DecodePool, in_order: bool
) -> npt.NDArray[np.bool_]:
    """As `_read_boxes`, with every box resampled to the patch's pixel size, a few boxes at a time in one buffer."""
    readable = np.ones(len(plans), dtype=bool)
    if not len(plans):
        return readable
    width, height = plans.boxes[:, 2:].max(axis=0).tolist()
    at_once = max(1, min(len(plans), SOURCE_BYTES // (3 * width * height)))
    sources = np.empty((at_once, height, width, 3), dtype=np.uint8)
    for first in range(0, len(plans), at_once):
        rows = slice(first, min(first + at_once, len(plans)))
        readable[rows] = _read_boxes(slide, plans.level, plans.boxes[rows], sources, pool, in_order)
        seen = first + np.flatnonzero(readable[rows])

        def resample_share(share: slice, first: int = first, seen: npt.NDArray[np.intp] = seen) -> None:
            for index in seen[share].tolist():
                plan = plans[index]
                source = sources[index - first, : plan.box[3], : plan.box[2]]
                resample(source, plan.crop, plan.out, into=images[index])

        pool.share(resample_share)
    return readable


def _read_boxes(
    slide: Slide, level: int, boxes: npt.NDArray[np.int64], out: npt.NDArray[np.uint8], pool: DecodePool, in_order: bool
) -> npt.NDArray[np.bool_]:
    """Read boxes (N, 4) of a level into out[i, :height, :width]; bool (N,): which of them could be read."""
    if isinstance(slide, DecodedTiles):
        return paste_boxes(slide, level, boxes, out, pool, in_order=in_order)
    readable = np.ones(len(boxes), dtype=bool)
    for super_tile in plan_super_tiles(boxes):
        left, top, _, _ = super_tile.box
        try:
            block: npt.NDArray[np.uint8] | None = slide.read_box(level, super_tile.box)
        except ReadError:
            block = None  # retry box by box, so that only damaged boxes are lost
        for index in range(super_tile.members.start, super_tile.members.stop):
            x, y, width, height = boxes[index].tolist()
            into = out[index, :height, :width]
            if block is not None:
                into[:] = block[y - top : y - top + height, x - left : x - left + width]
                continue
            try:
                into[:] = slide.read_box(level, (x, y, width, height))
            except ReadError:
                readable[index] = False
    return readable
