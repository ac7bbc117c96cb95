"""Fields of a slide: which block of patches each holds, where it is read, and where each patch is in it.

Coordinates are level-0 px, x then y. A field holds each of its patches whole. Where it would extend beyond the slide
it is moved inwards; only on a slide smaller than a field does it include the glass around.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.captions.fields import Field, position_in_field, share_in_words
from wsikit.errors import RequestError
from wsikit.geometry import SCALE_TOLERANCE, PatchGrid
from wsikit.inference.budget import Budget
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tiling.stream import read_patches

Starts = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]
"""Columns and rows (F, 2) of blocks to the corners (F, 2) of their fields."""

UNREADABLE_FIELD = "its field could not be read"
"""Beginning of the reason why the patches of a field have no caption; it goes on with the field and how much of it."""

UNSEEN = "its part of the field could not be read"
"""Why a patch has no caption where its field has one."""

MOST_LOST = 0.5
"""A field is described if no more than this share of it could not be read."""

UNREAD_GREY = 128
"""Value of the pixels of a field that could not be read: never white, which is glass, and no colour of tissue."""

_PART_PX, _PARTS = 32, 16
"""A damaged field is read in at least so many parts per side, each of so many px or less; a part is lost as a whole."""


@dataclass(frozen=True)
class SlideFields:
    """The fields of the N patches of a table."""

    grid: PatchGrid
    """How a field is read: its size in px and its µm/px."""
    corners: npt.NDArray[np.int64]
    """(F, 2) top-left corners, row-major."""
    of_patch: npt.NDArray[np.int64]
    """(N,) the field of each patch."""
    positions: tuple[str, ...]
    """N: where each patch is in its field, in words."""


@dataclass(frozen=True)
class FieldPart:
    """What could be read of a damaged field."""

    image: npt.NDArray[np.uint8]
    """(px, px, 3) RGB, grey where it could not be read."""
    unread: npt.NDArray[np.bool_]
    """(px, px)"""

    @property
    def lost(self) -> float:
        """The share that could not be read, 0–1."""
        return float(self.unread.mean())


def read_damaged(store: SlideStore, fields: SlideFields, number: int) -> FieldPart:
    """A field that cannot be read as a whole, read in small parts."""
    px = fields.grid.patch_px
    side = max(1, min(_PART_PX, px // _PARTS))
    starts = np.unique([*range(0, px - side + 1, side), px - side])
    places = np.stack(np.meshgrid(starts, starts, indexing="ij"), axis=-1).reshape(-1, 2)  # row, column
    grid = PatchGrid(store.dimensions, store.mpp, side, fields.grid.target_mpp, anchored=False)
    per_px = np.array(fields.grid.side) / px
    corners = np.rint(fields.corners[number] + places[:, ::-1] * per_px).astype(np.int64)
    batch = read_patches(store, grid, corners)
    image: npt.NDArray[np.uint8] = np.full((px, px, 3), UNREAD_GREY, dtype=np.uint8)
    unread = np.ones((px, px), dtype=bool)
    for (top, left), part, readable in zip(places.tolist(), batch.images, batch.readable, strict=True):
        if readable:
            image[top : top + side, left : left + side] = part
            unread[top : top + side, left : left + side] = False
    return FieldPart(image, unread)


def unseen_rows(table: PatchTable, fields: SlideFields, number: int, part: FieldPart) -> list[int]:
    """Rows of the patches of a field whose place in it could not be read: more than `MOST_LOST` of them."""
    px, rows = fields.grid.patch_px, np.flatnonzero(fields.of_patch == number)
    per_px, side = np.array(fields.grid.side) / px, np.array(table.grid.side)
    first = np.floor((table.coords[rows] - fields.corners[number]) / per_px)
    last = np.ceil((table.coords[rows] + side - fields.corners[number]) / per_px)
    boxes = np.clip(np.hstack([first, last]), 0, px).astype(np.int64)
    return [
        row
        for row, (left, top, right, bottom) in zip(rows.tolist(), boxes.tolist(), strict=True)
        if part.unread[top:bottom, left:right].mean() > MOST_LOST
    ]


def why_not_described(fields: SlideFields, number: int, lost: float) -> str:
    """The reason of a field of which too much could not be read."""
    x, y = fields.corners[number].tolist()
    px, side = fields.grid.patch_px, fields.grid.patch_px * fields.grid.target_mpp
    return (
        f"{UNREADABLE_FIELD}: {share_in_words(lost)} of the field of {px} px ({side:g} µm) at level-0 x={x}, y={y} is "
        f"unreadable; up to {100 * MOST_LOST:.0f} % is tolerated"
    )


def check_budget(budget: Budget | None, field_px: int | None) -> None:
    """RequestError if both a caption budget and a field are given."""
    if budget is not None and field_px is not None:
        raise RequestError(
            "a caption budget and a caption field exclude each other: a field has one caption for all its patches. "
            "Leave out --caption-budget or --caption-field."
        )


def fields_of(store: SlideStore, table: PatchTable, field: Field) -> SlideFields:
    """The fields that hold the patches of a table.

    Raises
    ------
    RequestError
        The store has no level as fine as the field, or a field is too small for a patch.
    """
    patches, mpp = table.grid, store.mpp
    finest = max(mpp[axis] * store.level_downsamples[0][axis] for axis in (0, 1))
    if finest > field.mpp * (1 + SCALE_TOLERANCE):
        raise RequestError(
            f"{store.path}: its finest stored level has {finest:.4g} µm/px, too coarse for fields at {field.mpp:.4g} "
            f"µm/px. Ask for --caption-mpp {finest:.4g} or more."
        )
    grid = PatchGrid(store.dimensions, mpp, field.px, field.mpp, anchored=False)
    side = np.array(grid.side)
    spare = side - patches.side
    if (spare < -0.5).any():
        raise RequestError(
            f"a caption field of {field.side_um:g} µm does not hold a patch of "
            f"{patches.patch_px * patches.target_mpp:g} µm: ask for a larger --caption-field or --caption-mpp."
        )
    blocks, starts = _blocks(patches, table.coords, np.maximum(spare, 0.0))
    unique, of_patch = np.unique(blocks[:, ::-1], axis=0, return_inverse=True)  # by row, then by column
    most = np.maximum(np.array(store.dimensions) - side, 0.0)
    corners = np.rint(np.clip(starts(unique[:, ::-1]), 0.0, most)).astype(np.int64)
    of_patch = of_patch.reshape(-1).astype(np.int64)
    centres = (table.coords + np.array(patches.side) / 2 - corners[of_patch]) / side
    return SlideFields(grid, corners, of_patch, tuple(position_in_field(x, y) for x, y in centres.tolist()))


def _blocks(
    patches: PatchGrid, coords: npt.NDArray[np.int64], spare: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], Starts]:
    """(N, 2) column and row of the block of each patch, and the corner of the field around a block."""
    if patches.anchored:
        stride = np.array(patches.stride)
        across = np.floor(spare / stride + 1e-6).astype(np.int64) + 1
        margin = (spare - (across - 1) * stride) / 2
        blocks = np.stack(patches.index_of(coords), axis=1) // across
        return blocks, lambda numbers: numbers * across * stride - margin
    # patches anywhere: those whose corner lies in the same cell, with sides of field minus patch
    cell = np.maximum(spare, 1.0)
    return np.floor(coords / cell).astype(np.int64), lambda numbers: numbers * cell
