"""Reading many patches of a slide or store at once: each tile that they need is decoded once, and no other is read.

A patch is bit-identical whether it is read alone or with others. Frames: coords are level-0 px; boxes are px of the
level that is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.executor import available_cpus
from wsikit.geometry import PatchGrid
from wsikit.slides.base import Slide
from wsikit.slides.memory import borrowed
from wsikit.slides.paste import DecodePool, Goals, Target, paste_to
from wsikit.slides.region import RegionPlans, plan_regions, resample
from wsikit.slides.store import SlideStore
from wsikit.slides.tile_cache import DecodedTiles

SUPER_TILE_PX = 4 << 20
"""Maximum number of pixels of one read for slides without access to tiles: 12 MB as RGB."""

GROUP_BYTES = 10 << 20
"""Maximum size of the patches of several batches that are read together."""

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

    `threads` is the number of decoding threads, by default one per CPU. Consecutive batches are read together, up to
    `GROUP_BYTES`: a tile that several of them need is then still in the processor's cache. At most two groups are in
    memory.
    """
    with (
        DecodePool(threads or available_cpus()) as pool,
        ThreadPoolExecutor(1, thread_name_prefix="wsikit-read") as ahead,
    ):

        def begin(group: Sequence[slice]) -> Future[PatchBatch]:
            places = np.concatenate([coords[rows] for rows in group])
            return ahead.submit(_read, slide, plan_patches(slide, grid, places), pool, True)

        most_rows = GROUP_BYTES // (3 * grid.patch_px**2)
        pending: tuple[list[slice], Future[PatchBatch]] | None = None
        for group in (*_groups_of_batches(row_ranges, len(coords), most_rows), None):
            following = (group, begin(group)) if group is not None else None
            if pending is not None:
                yield from _parts(*pending, len(coords))
            pending = following


def _groups_of_batches(row_ranges: Sequence[slice], n_rows: int, most_rows: int) -> list[list[slice]]:
    """Batches of up to `most_rows` rows together; every batch alone that is larger."""
    groups: list[list[slice]] = []
    size = 0
    for rows in row_ranges:
        more = len(range(*rows.indices(n_rows)))
        if not groups or size + more > most_rows:
            groups.append([])
            size = 0
        groups[-1].append(rows)
        size += more
    return groups


def _parts(group: list[slice], read: Future[PatchBatch], n_rows: int) -> Iterator[tuple[slice, PatchBatch]]:
    """The batches of a group that was read together."""
    whole, first = read.result(), 0
    for rows in group:
        part = slice(first, first + len(range(*rows.indices(n_rows))))
        yield rows, PatchBatch(whole.images[part], whole.readable[part])
        first = part.stop


_RESAMPLED, _UNCHANGED, _HALVED = 0, 1, 2
"""Ways from a box to its patch: read and then resampled; copied; averages of 2 × 2 px, taken as tiles are decoded."""


def _read(slide: Slide, plans: RegionPlans, pool: DecodePool, in_order: bool) -> PatchBatch:
    width, height = plans.out
    images = borrowed((len(plans), height, width, 3))
    readable = np.ones(len(plans), dtype=bool)
    ways = _ways(slide, plans)
    sources = _sources(plans, ways)
    for rows in _groups(ways, len(sources)):
        part = RegionPlans(plans.level, plans.boxes[rows], plans.crops[rows], plans.out)
        readable[rows] = _read_group(slide, part, ways[rows], images[rows], sources, pool, in_order)
    images[~readable] = 0
    if isinstance(slide, SlideStore):
        slide.check_source(complete=bool(readable.all()))
    return PatchBatch(images, readable)


def _ways(slide: Slide, plans: RegionPlans) -> npt.NDArray[np.int64]:
    """(N,) the way of each box."""
    width, height = plans.out
    ways = np.where((plans.crops == (0.0, 0.0, width, height)).all(axis=1), _UNCHANGED, _RESAMPLED)
    if ways.all() or not isinstance(slide, DecodedTiles):
        return ways
    boxes, even_tiles = plans.boxes, not np.any(np.asarray(slide.tile_px(plans.level)) % 2)
    halves = (plans.crops == (0.0, 0.0, 2 * width, 2 * height)).all(axis=1) & (boxes[:, :2] % 2 == 0).all(axis=1)
    inside = (boxes[:, :2] >= 0) & (boxes[:, :2] + boxes[:, 2:] <= slide.level_dimensions[plans.level])
    ways[halves & inside.all(axis=1) & even_tiles] = _HALVED
    return ways


def _sources(plans: RegionPlans, ways: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Memory for the boxes that are resampled: for all of them, or as many as are read at a time."""
    resampled = np.flatnonzero(ways == _RESAMPLED)
    if not len(resampled):
        return np.empty((0, 1, 1, 3), dtype=np.uint8)
    width, height = plans.boxes[resampled, 2:].max(axis=0).tolist()
    at_once = max(1, min(len(resampled), SOURCE_BYTES // (3 * width * height)))
    return borrowed((at_once, height, width, 3))


def _groups(ways: npt.NDArray[np.int64], at_once: int) -> Iterator[slice]:
    """Consecutive boxes, of which up to `at_once` are resampled; those that are copied belong to any group."""
    if not len(ways):
        return
    number = np.maximum(np.cumsum(ways == _RESAMPLED) - 1, 0) // max(at_once, 1)
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(ways)]
    for first, last in itertools.pairwise(starts):
        yield slice(first, last)


def _read_group(
    slide: Slide,
    plans: RegionPlans,
    ways: npt.NDArray[np.int64],
    images: npt.NDArray[np.uint8],
    sources: npt.NDArray[np.uint8],
    pool: DecodePool,
    in_order: bool,
) -> npt.NDArray[np.bool_]:
    """Write the patches of a group to `images`; bool (N,): which of them could be read."""
    numbers = np.arange(len(plans))
    resampled = np.flatnonzero(ways == _RESAMPLED)
    slots = numbers.copy()
    slots[resampled] = np.arange(len(resampled))
    if isinstance(slide, DecodedTiles):
        goals = Goals([Target(sources), Target(images), Target(images, halved=True)], ways, slots)
        readable = paste_to(slide, plans.level, plans.boxes, goals, pool, in_order=in_order)
    else:
        readable = _read_boxes(slide, plans.level, plans.boxes, [(sources, images)[way] for way in ways], slots)
    seen = resampled[readable[resampled]]

    def resample_share(share: slice) -> None:
        for index in seen[share].tolist():
            plan = plans[index]
            resample(sources[slots[index], : plan.box[3], : plan.box[2]], plan.crop, plan.out, into=images[index])

    if len(seen):
        pool.share(resample_share)
    return readable


def _read_boxes(
    slide: Slide,
    level: int,
    boxes: npt.NDArray[np.int64],
    outs: Sequence[npt.NDArray[np.uint8]],
    slots: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Read boxes (N, 4) of a level without tiles into outs[i][slots[i], :height, :width]; bool (N,): which could be
    read."""
    readable = np.ones(len(boxes), dtype=bool)
    for super_tile in plan_super_tiles(boxes):
        left, top, _, _ = super_tile.box
        try:
            block: npt.NDArray[np.uint8] | None = slide.read_box(level, super_tile.box)
        except ReadError:
            block = None  # retry box by box, so that only damaged boxes are lost
        for index in range(super_tile.members.start, super_tile.members.stop):
            x, y, width, height = boxes[index].tolist()
            into = outs[index][slots[index], :height, :width]
            if block is not None:
                into[:] = block[y - top : y - top + height, x - left : x - left + width]
                continue
            try:
                into[:] = slide.read_box(level, (x, y, width, height))
            except ReadError:
                readable[index] = False
    return readable
