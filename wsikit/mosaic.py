"""The slide cut at every patch border, so that each place belongs to one patch and no area is counted twice.

Edges are level-0 pixels and equal the patches' own coordinates; cells end at the slide's edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid

Scalar = TypeVar("Scalar", bound=np.generic)

MIN_CELL_PX = 0.5
"""Level-0 px. A strip narrower than this is rounding of the grid, not overlap of its patches."""


@dataclass(frozen=True, eq=False)
class Mosaic:
    """A rectangle of cells around all patches of a map."""

    x_edges: npt.NDArray[np.int64]
    """(n_cols + 1,) borders of the columns, level-0 px, rising."""
    y_edges: npt.NDArray[np.int64]
    """(n_rows + 1,) borders of the rows, level-0 px, rising."""
    patch: npt.NDArray[np.int64]
    """(n_rows, n_cols) row in the patch table of the patch that owns the cell; -1 = no patch."""

    @property
    def area_px(self) -> npt.NDArray[np.int64]:
        """(n_rows, n_cols) area of each cell, level-0 px²."""
        return np.diff(self.y_edges)[:, None] * np.diff(self.x_edges)[None, :]

    def spread(self, values: npt.NDArray[Scalar], nothing: float) -> npt.NDArray[Scalar]:
        """(n_rows, n_cols) of `values` (N,), one per patch, with `nothing` where there is no patch."""
        padded = np.append(values, np.asarray([nothing], dtype=values.dtype))
        return padded[self.patch]  # -1 picks the last


def cut_mosaic(grid: PatchGrid, coords: npt.NDArray[np.int64], priority: npt.NDArray[np.floating]) -> Mosaic:
    """Cut the slide at the borders of the patches at `coords` (N, 2) of `grid`.

    Where patches overlap, a place belongs to the patch with the highest `priority` (N,), then to the first in
    the table. No two patches may have the same place.
    """
    x, cols, y, rows = _axes(grid, coords)
    n_cols, n_rows = len(x.edges) - 1, len(y.edges) - 1
    first_to_last = np.lexsort((-np.arange(len(coords)), priority))
    rank = np.empty(len(coords), dtype=np.int64)
    rank[first_to_last] = np.arange(len(coords))
    owner = np.full((n_rows, n_cols), -1, dtype=np.int64)
    for col, row, inside in _cells(x, cols, y, rows):
        place = row[inside], col[inside]
        owner[place] = np.maximum(owner[place], rank[inside])
    patch = np.append(first_to_last, -1)[owner]
    return Mosaic(x.edges, y.edges, patch)


def shared_areas(grid: PatchGrid, coords: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Area that each of the patches at `coords` (N, 2) stands for, level-0 px²: a place under n of them counts 1/n.

    (N,); their sum is the area of the slide that the patches cover together. No two may have the same place.
    """
    x, cols, y, rows = _axes(grid, coords)
    n_cols, n_rows = len(x.edges) - 1, len(y.edges) - 1
    covering = np.zeros((n_rows, n_cols), dtype=np.int64)
    for col, row, inside in _cells(x, cols, y, rows):
        covering[row[inside], col[inside]] += 1  # a patch has a cell at most once per step: no index comes twice
    share = np.diff(y.edges)[:, None] * np.diff(x.edges)[None, :] / np.maximum(covering, 1)
    areas = np.zeros(len(coords))
    for col, row, inside in _cells(x, cols, y, rows):
        areas[inside] += share[row[inside], col[inside]]
    return areas


def _axes(
    grid: PatchGrid, coords: npt.NDArray[np.int64]
) -> tuple[_Axis, npt.NDArray[np.int64], _Axis, npt.NDArray[np.int64]]:
    """The cells along x and the patches' columns, the cells along y and their rows."""
    cols, rows = grid.index_of(coords)
    x = _Axis.around(cols, grid.stride[0], grid.side[0], grid.slide_px[0])
    y = _Axis.around(rows, grid.stride[1], grid.side[1], grid.slide_px[1])
    return x, cols, y, rows


def _cells(
    x: _Axis, cols: npt.NDArray[np.int64], y: _Axis, rows: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """One cell of every patch at a time: its column and row (N,), and whether it lies on the slide."""
    for down in range(y.per_patch):
        for right in range(x.per_patch):
            col, row = x.first_cell(cols) + right, y.first_cell(rows) + down
            yield col, row, (col < len(x.edges) - 1) & (row < len(y.edges) - 1)


@dataclass(frozen=True)
class _Axis:
    """Cells along one axis. With overlap a stride falls into two cells: covered by one patch more, and by one less."""

    start: int
    per_stride: int
    per_patch: int
    edges: npt.NDArray[np.int64]

    @classmethod
    def around(cls, index: npt.NDArray[np.int64], stride: float, side: float, slide_px: int) -> _Axis:
        whole = math.floor(side / stride + 1e-9)
        rest = side - whole * stride
        split = rest >= MIN_CELL_PX
        per_stride, per_patch = (2, 2 * whole + 1) if split else (1, whole)
        if len(index) == 0:
            return cls(0, per_stride, per_patch, np.zeros(1, dtype=np.int64))
        start, stop = int(index.min()), int(index.max()) + whole + int(split)
        strides = np.arange(start, stop + 1, dtype=np.float64) * stride
        # rounded as PatchGrid.coords rounds: an edge is its patch's own coordinate
        edges = np.rint(np.stack([strides, strides + rest], axis=1).ravel() if split else strides).astype(np.int64)
        edges = edges[: (int(index.max()) - start) * per_stride + per_patch + 1]
        n_inside = int((edges[:-1] < slide_px).sum())
        return cls(start, per_stride, per_patch, np.minimum(edges[: n_inside + 1], slide_px))

    def first_cell(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return (index - self.start) * self.per_stride
