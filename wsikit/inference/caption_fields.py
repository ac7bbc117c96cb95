"""Fields of a slide: which block of patches each holds, where it is read, and where each patch is in it.

Coordinates are level-0 px, x then y. A field holds each of its patches whole. Where it would extend beyond the slide
it is moved inwards; only on a slide smaller than a field does it include the glass around.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.captions.fields import Field, position_in_field
from wsikit.errors import RequestError
from wsikit.geometry import SCALE_TOLERANCE, PatchGrid
from wsikit.inference.budget import Budget
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable

Starts = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]]
"""Columns and rows (F, 2) of blocks to the corners (F, 2) of their fields."""

UNREADABLE_FIELD = "a part of its field could not be read"


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
