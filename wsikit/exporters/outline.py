"""Outlines of the regions of a label raster: exact rings of corner points, with holes. NumPy and SciPy.

A union of boxes with GEOS gives the same polygons, but took 100 s and more for the 10⁶ cells of a speckled slide.
Border following visits each border once: borders and what follows each of them are found for all at once, and a graph
search in compiled code walks along them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Ints = npt.NDArray[np.int64]

# Directed borders of a cell, walked with the cell on the right: top → east, right → south, bottom → west, left → north.
_START = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])  # (row, col) of the corner a border starts at, from the cell's
_ALONG = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])  # (row, col) step of the walk
_AWAY = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # (row, col) step to the cell across the border


_FEW = 200_000
"""Borders up to which a walk step by step takes less than 0.1 s."""


@dataclass(frozen=True, eq=False)
class Region:
    """A connected region of one label; cells connect by edges, not by corners."""

    label: int
    shell: Ints
    """(K, 2) col, row of the corner points, closed (last = first), counter-clockwise with y up (RFC 7946)."""
    holes: tuple[Ints, ...]
    """Each (K, 2), closed, clockwise with y up."""


def components(labels: Ints) -> tuple[Ints, Ints]:
    """Connected regions of `labels` (n_rows, n_cols): cells of equal label ≥ 0 that share an edge.

    Returns
    -------
    (n_rows, n_cols) region of each cell, -1 where the label is negative; and (R,) label of each region, ascending.

    >>> components(np.array([[0, 0], [1, -1]]))[1].tolist()
    [0, 1]
    """
    region = np.full(labels.shape, -1, dtype=np.int64)
    owner: list[Ints] = []
    n_regions = 0
    present = np.bincount(np.maximum(labels, -1).ravel() + 1)[1:]
    for label in np.flatnonzero(present):
        own = labels == label
        numbered, count = ndimage.label(own)
        np.add(numbered, n_regions - 1, out=region, where=own)
        owner.append(np.full(count, label, dtype=np.int64))
        n_regions += count
    return region, np.concatenate(owner) if owner else np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Rings:
    """The outlines of R regions as arrays: ring after ring, region after region, the shell of each before its holes.

    Directions are those of `Region`.
    """

    points: Ints
    """(K, 2) col, row of the corner points; each ring is closed (last = first)."""
    starts: Ints
    """(Q + 1,) first point of each ring, and K."""
    first: Ints
    """(R + 1,) first ring of each region, and Q."""


def trace(region: Ints, n_regions: int) -> Rings:
    """The outlines of the regions 0 to `n_regions` - 1 of a raster (n_rows, n_cols); negative cells are no region.

    >>> rings = trace(np.array([[0, 0], [0, -1]]), 1)
    >>> rings.points.tolist(), rings.starts.tolist()
    ([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 0]], [0, 7])
    """
    if n_regions == 0:
        return Rings(np.empty((0, 2), np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64))
    corners, starts, owner = _rings(np.pad(region, 1, constant_values=-1))
    holes = _signed_areas(corners, starts) < 0
    order = np.lexsort((holes, owner))  # stable: holes stay in the order of their uppermost border
    lengths = np.diff(np.append(starts, len(corners)))[order]
    ends = np.cumsum(lengths + 1)  # with the first point repeated
    opened = np.arange(ends[-1]) + np.repeat(starts[order] - (ends - lengths - 1), lengths + 1)
    opened[ends - 1] = starts[order]
    first = np.searchsorted(owner[order], np.arange(n_regions + 1))
    return Rings(corners[opened], np.append(0, ends), first)


def outlines(region: Ints, label_of_region: Ints) -> list[Region]:
    """The outline of each region, in the order of `label_of_region` (R,); `region` as returned by `components`."""
    rings = trace(region, len(label_of_region))
    starts = rings.starts.tolist()
    parts = [rings.points[start:stop] for start, stop in zip(starts, starts[1:])]
    first = rings.first.tolist()
    return [
        Region(label, parts[start], tuple(parts[start + 1 : stop]))
        for label, start, stop in zip(label_of_region.tolist(), first, first[1:])
    ]


def _rings(padded: Ints) -> tuple[Ints, Ints, Ints]:
    """Corner points (K, 2) col, row of all rings, concatenated; (Q,) start of each ring; (Q,) its region."""
    cells, sides, following = _borders(padded)
    order, starts = _walk(following)
    walked = sides[order]
    turned = walked != walked[_before(np.arange(len(order)), starts)]  # a corner only where the direction changes
    corner = order[turned]
    row, col = np.divmod(cells[corner], padded.shape[1])
    points = np.stack([col, row], axis=1) + _START[walked[turned]][:, ::-1] - 1  # -1: the padding
    corner_starts = np.concatenate([[0], np.cumsum(turned)])[starts]
    return points, corner_starts, padded.ravel()[cells[order[starts]]]


def _borders(padded: Ints) -> tuple[Ints, Ints, Ints]:
    """All directed borders: flat cell, side 0–3, and the index of the border that follows each one."""
    width = padded.shape[1]
    flat = padded.ravel()
    inner = padded[1:-1, 1:-1]
    borders = np.zeros(padded.shape, dtype=bool)
    per_side = []
    for down, right in _AWAY:
        across = padded[1 + down : padded.shape[0] - 1 + down, 1 + right : width - 1 + right]
        np.not_equal(inner, across, out=borders[1:-1, 1:-1], where=inner >= 0)
        per_side.append(np.flatnonzero(borders))
    cells = np.concatenate(per_side)
    sides = np.repeat(np.arange(4, dtype=np.int64), [len(side) for side in per_side])
    number = np.empty((4, flat.size), dtype=np.int32)  # only the places of borders are filled, and looked up
    number[sides, cells] = np.arange(len(cells), dtype=np.int32)

    ahead = cells + (_ALONG @ (width, 1))[sides]
    ahead_left = ahead + (_AWAY @ (width, 1))[sides]
    own = flat[cells]
    # where a region touches itself at a corner, the walk crosses over: holes stay holes and no ring touches itself
    left, straight = flat[ahead_left] == own, flat[ahead] == own
    cell = np.where(left, ahead_left, np.where(straight, ahead, cells))
    side = np.where(left, (sides + 3) % 4, np.where(straight, sides, (sides + 1) % 4))
    return cells, sides, number[side, cell].astype(np.int64)


def _walk(following: Ints) -> tuple[Ints, Ints]:
    """Follow the permutation `following` (E,): all its elements, cycle by cycle, and the start of each cycle.

    Cycles begin at their lowest element and come in the order of these.
    """
    if len(following) < _FEW:
        return _walk_few(following)
    # The walk is sequential, so NumPy cannot do it. SciPy's graph search in compiled code does: the cycles are cut open
    # and tied into one path, which is searched from its end.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, depth_first_order

    number = np.arange(len(following))
    ones, pointers = np.ones(len(following)), np.arange(len(following) + 1, dtype=np.int32)

    def graph(successors: Ints) -> csr_array:
        return csr_array((ones, successors.astype(np.int32), pointers), shape=(len(number), len(number)))

    n_cycles, cycle = connected_components(graph(following), directed=True, connection="weak")
    first = np.empty(n_cycles, dtype=np.int64)
    first[cycle[::-1]] = number[::-1]  # the last one written is the lowest
    first.sort()
    last = np.empty_like(number)
    last[following] = number
    last = last[first]
    path = following.copy()
    path[last] = np.append(first[1:], last[-1])
    order = depth_first_order(graph(path), int(first[0]), return_predecessors=False).astype(np.int64)
    place = np.empty_like(number)
    place[order] = number
    return order, place[first]


def _walk_few(following: Ints) -> tuple[Ints, Ints]:
    """As `_walk`, step by step: for few borders this is faster than the import of SciPy's graphs."""
    next_of = following.tolist()
    seen = bytearray(len(next_of))
    order: list[int] = []
    starts: list[int] = []
    for first in range(len(next_of)):
        if seen[first]:
            continue
        starts.append(len(order))
        at = first
        while not seen[at]:
            seen[at] = 1
            order.append(at)
            at = next_of[at]
    return np.asarray(order, dtype=np.int64), np.asarray(starts, dtype=np.int64)


def _before(order: Ints, starts: Ints) -> Ints:
    """(E,) the element before each one of `order` on its ring."""
    before = np.roll(order, 1)
    ends = np.append(starts[1:], len(order)) - 1
    before[starts] = order[ends]
    return before


def _signed_areas(corners: Ints, starts: Ints) -> npt.NDArray[np.float64]:
    """(Q,) area of each open ring: positive if counter-clockwise with y up."""
    following = np.roll(corners, -1, axis=0)
    following[np.append(starts[1:], len(corners)) - 1] = corners[starts]
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    return np.add.reduceat(cross, starts) / 2
