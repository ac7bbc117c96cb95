"""Patches from a slide or store: neighbours are read as one super-tile and cut from it.

A patch comes out the same, to the last bit, whether it is read alone or among others. Frames: coords are level-0 px;
super-tiles are px of the level that is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.geometry import PatchGrid
from wsikit.slides.base import Slide
from wsikit.slides.region import RegionPlan, plan_region, resample

SUPER_TILE_PX = 4 << 20
"""At most this many pixels are read as one: 12 MB as RGB."""


@dataclass(frozen=True)
class PatchBatch:
    """Some consecutive patches of a table."""

    images: npt.NDArray[np.uint8]
    """(B, patch_px, patch_px, 3) RGB; zeros where not readable."""
    readable: npt.NDArray[np.bool_]
    """(B,); False where any pixel of the patch could not be read. Such an image must not be looked at."""


@dataclass(frozen=True)
class SuperTile:
    """One read for several patches that lie side by side."""

    level: int
    box: tuple[int, int, int, int]
    """x, y, width, height, px of the level."""
    members: tuple[tuple[int, RegionPlan], ...]
    """Index of each patch, and its own plan."""


def plan_super_tiles(slide: Slide, grid: PatchGrid, coords: npt.NDArray[np.int64]) -> list[SuperTile]:
    """Group patches, given row-major as (N, 2) level-0 px, into super-tiles of neighbours in one grid row."""
    plans = [
        plan_region(
            slide.level_downsamples, slide.mpp, int(x), int(y), grid.patch_px, grid.patch_px, mpp=grid.target_mpp
        )
        for x, y in coords
    ]
    super_tiles: list[SuperTile] = []
    members: list[tuple[int, RegionPlan]] = []
    for index, plan in enumerate(plans):
        if members and not _fits(members, plan):
            super_tiles.append(_super_tile(members))
            members = []
        members.append((index, plan))
    if members:
        super_tiles.append(_super_tile(members))
    return super_tiles


def read_patches(slide: Slide, grid: PatchGrid, coords: npt.NDArray[np.int64]) -> PatchBatch:
    """Read the patches at `coords`, int64 (B, 2) level-0 px.

    Patches that cannot be read are marked, the others are delivered: nothing unreadable turns into white.
    """
    images = np.zeros((len(coords), grid.patch_px, grid.patch_px, 3), dtype=np.uint8)
    readable = np.ones(len(coords), dtype=bool)
    for super_tile in plan_super_tiles(slide, grid, coords):
        try:
            block: npt.NDArray[np.uint8] | None = slide.read_box(super_tile.level, super_tile.box)
        except ReadError:
            block = None  # once more, patch by patch, to lose none but those that are damaged
        for index, plan in super_tile.members:
            x, y, width, height = plan.box
            try:
                if block is None:
                    pixels = slide.read_box(plan.level, plan.box)
                else:
                    left, top = x - super_tile.box[0], y - super_tile.box[1]
                    pixels = block[top : top + height, left : left + width]
            except ReadError:
                readable[index] = False
                continue
            images[index] = resample(pixels, plan.crop, plan.out)
    return PatchBatch(images, readable)


def iterate_patches(
    slide: Slide, grid: PatchGrid, coords: npt.NDArray[np.int64], row_ranges: Sequence[slice]
) -> Iterator[tuple[slice, PatchBatch]]:
    """Yield (rows, batch) for each range of table rows; the next one is read while the caller works on this one."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, thread_name_prefix="wsikit-read") as pool:
        pending = None
        for rows in row_ranges:
            following = (rows, pool.submit(read_patches, slide, grid, coords[rows]))
            if pending is not None:
                yield pending[0], pending[1].result()
            pending = following
        if pending is not None:
            yield pending[0], pending[1].result()


def _fits(members: list[tuple[int, RegionPlan]], plan: RegionPlan) -> bool:
    """Whether `plan` continues the row of `members`: same level and rows, next to the last, not too wide."""
    first, last = members[0][1], members[-1][1]
    if plan.level != last.level or (plan.box[1], plan.box[3]) != (last.box[1], last.box[3]):
        return False
    gap = plan.box[0] - (last.box[0] + last.box[2])
    width = plan.box[0] + plan.box[2] - first.box[0]
    return plan.box[0] >= last.box[0] and gap <= plan.box[2] and width * plan.box[3] <= SUPER_TILE_PX


def _super_tile(members: list[tuple[int, RegionPlan]]) -> SuperTile:
    first, last = members[0][1], members[-1][1]
    width = max(plan.box[0] + plan.box[2] for _, plan in members) - first.box[0]
    return SuperTile(last.level, (first.box[0], first.box[1], width, first.box[3]), tuple(members))
