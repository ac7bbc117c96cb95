"""Partition of a slide at all patch borders, so that each point belongs to one patch and no area is counted twice.

Edges are level-0 pixels, equal to the patches' coordinates; cells end at the slide's edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid

Scalar = TypeVar("Scalar", bound=np.generic)

MAX_CELLS = 1 << 27
"""Maximum number of cells of a partition: 1 GB of 64-bit numbers; 10⁶ adjacent patches need 10⁶."""

MIN_CELL_PX = 0.5
"""Level-0 px. A narrower strip is a rounding error of the grid, not an overlap of its patches."""


@dataclass(frozen=True, eq=False)
class Partition:
    """A rectangular array of cells that contains all patches of a map."""

    x_edges: npt.NDArray[np.int64]
    """(n_cols + 1,) borders of the columns, level-0 px, ascending."""
    y_edges: npt.NDArray[np.int64]
    """(n_rows + 1,) borders of the rows, level-0 px, ascending."""
    patch: npt.NDArray[np.int64]
    """(n_rows, n_cols) row in the patch table of the patch that owns the cell; -1 = no patch."""

    @cached_property
    def area_px(self) -> npt.NDArray[np.int64]:
        """(n_rows, n_cols) area of each cell, level-0 px²."""
        return np.diff(self.y_edges)[:, None] * np.diff(self.x_edges)[None, :]

    def spread(self, values: npt.NDArray[Scalar], nothing: float) -> npt.NDArray[Scalar]:
        """(n_rows, n_cols) of `values` (N,), one per patch, with `nothing` where there is no patch."""
        padded = np.append(values, np.asarray([nothing], dtype=values.dtype))
        return padded[self.patch]  # -1 picks the last


def partition_slide(grid: PatchGrid, coords: npt.NDArray[np.int64], priority: npt.NDArray[np.floating]) -> Partition:
    """Partition the slide at the borders of the patches at `coords` (N, 2) of `grid`.

    Where patches overlap, a point belongs to the patch with the highest `priority` (N,), then to the one with the
    smaller y, then the smaller x. Coordinates must be unique.

    >>> grid = PatchGrid((300, 100), (0.5, 0.5), 100, 0.5)
    >>> found = partition_slide(grid, np.array([[0, 0], [200, 0]]), np.array([1.0, 1.0]))
    >>> found.patch.tolist(), found.area_px.tolist()
    ([[0, -1, 1]], [[10000, 10000, 10000]])
    """
    x, y = _axes(grid, coords)
    n_cols, n_rows = len(x.edges) - 1, len(y.edges) - 1
    if x.count.max(initial=0) <= 1 and y.count.max(initial=0) <= 1:  # no overlap, so no ranking
        patch = np.full((n_rows, n_cols), -1, dtype=np.int64)
        drawn = np.flatnonzero((x.count > 0) & (y.count > 0))
        if len(drawn) == len(coords):
            patch[y.first, x.first] = drawn
        else:
            patch[y.first[drawn], x.first[drawn]] = drawn
        return Partition(x.edges, y.edges, patch)
    first_to_last = np.lexsort((-coords[:, 0], -coords[:, 1], priority))
    rank = np.empty(len(coords), dtype=np.int64)
    rank[first_to_last] = np.arange(len(coords))
    owner = np.full((n_rows, n_cols), -1, dtype=np.int64)
    for col, row, inside in _cells(x, y):
        place = row[inside], col[inside]
        owner[place] = np.maximum(owner[place], rank[inside])
    patch = np.append(first_to_last, -1)[owner]
    return Partition(x.edges, y.edges, patch)


def shared_areas(grid: PatchGrid, coords: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Area assigned to each of the patches at `coords` (N, 2), level-0 px²: a point in n patches counts 1/n for each.

    Returns (N,); the sum is the area of the union of the patches on the slide. Coordinates must be unique.
    """
    x, y = _axes(grid, coords)
    n_cols, n_rows = len(x.edges) - 1, len(y.edges) - 1
    covering = np.zeros((n_rows, n_cols), dtype=np.int64)
    for col, row, inside in _cells(x, y):
        covering[row[inside], col[inside]] += 1  # each patch has at most one cell per step, so no index is repeated
    share = np.diff(y.edges)[:, None] * np.diff(x.edges)[None, :] / np.maximum(covering, 1)
    areas = np.zeros(len(coords))
    for col, row, inside in _cells(x, y):
        areas[inside] += share[row[inside], col[inside]]
    return areas


def _axes(grid: PatchGrid, coords: npt.NDArray[np.int64]) -> tuple[_Axis, _Axis]:
    """The cells along x and along y."""
    if grid.anchored:
        x, y = (
            _Axis.around(index, grid.stride[i], grid.side[i], grid.slide_px[i])
            for i, index in enumerate(grid.index_of(coords))
        )
    else:
        x, y = (_Axis.between(coords[:, i], grid.side[i], grid.slide_px[i]) for i in (0, 1))
    n_cells = (len(x.edges) - 1) * (len(y.edges) - 1)
    if n_cells > MAX_CELLS:
        raise RequestError(
            f"{len(coords)} patches lie in so many different columns and rows that they divide the slide into "
            f"{n_cells:.2g} cells, more than {MAX_CELLS:.2g}. No map can be drawn; use patches on a regular grid."
        )
    return x, y


def _cells(x: _Axis, y: _Axis) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """One cell of every patch per step: its column and row (N,), and whether it lies on the slide and in the patch."""
    for down in range(int(y.count.max(initial=0))):
        for right in range(int(x.count.max(initial=0))):
            yield x.first + right, y.first + down, (right < x.count) & (down < y.count)


@dataclass(frozen=True)
class _Axis:
    """Cells along one axis. With overlap, a stride has two cells: one covered by one more patch than the other."""

    edges: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    """(N,) first cell of each patch."""
    count: npt.NDArray[np.int64]
    """(N,) cells of each patch on the slide."""

    @classmethod
    def between(cls, starts: npt.NDArray[np.int64], side: float, slide_px: int) -> _Axis:
        """Cells of patches at arbitrary positions: divided at every border of every patch."""
        stops = np.minimum(np.rint(starts + side).astype(np.int64), slide_px)
        edges = np.unique(np.concatenate([starts, stops]))
        first = np.searchsorted(edges, starts)
        return cls(edges if len(edges) else np.zeros(1, dtype=np.int64), first, np.searchsorted(edges, stops) - first)

    @classmethod
    def around(cls, index: npt.NDArray[np.int64], stride: float, side: float, slide_px: int) -> _Axis:
        whole = math.floor(side / stride + 1e-9)
        rest = side - whole * stride
        split = rest >= MIN_CELL_PX
        per_stride, per_patch = (2, 2 * whole + 1) if split else (1, whole)
        if len(index) == 0:
            none = np.empty(0, dtype=np.int64)
            return cls(np.zeros(1, dtype=np.int64), none, none)
        start, stop = int(index.min()), int(index.max()) + whole + int(split)
        strides = np.arange(start, stop + 1, dtype=np.float64) * stride
        # rounded as in PatchGrid.coords, so that an edge equals its patch's coordinate
        edges = np.rint(np.stack([strides, strides + rest], axis=1).ravel() if split else strides).astype(np.int64)
        edges = edges[: (int(index.max()) - start) * per_stride + per_patch + 1]
        n_inside = int((edges[:-1] < slide_px).sum())
        first = (index - start) * per_stride
        return cls(np.minimum(edges[: n_inside + 1], slide_px), first, np.minimum(per_patch, n_inside - first))
