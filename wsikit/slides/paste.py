"""Many boxes of a level, copied from its decoded tiles tile by tile. Frame: pixels of the level.

What bounds it is memory: a patch of 224 px is 150 kB that are written once, in pieces of rows. The copies are therefore
made as few, and the work for each piece in Python as little, as possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.slides.memory import borrowed
from wsikit.slides.tile_cache import DecodedTiles, PassingTiles, Tile

OUTSIDE = 255
"""White, as glass is."""

RUN_TILES = 8
"""Neighbouring tiles that one thread takes at a time: two threads in the same rows of a patch would take the memory out
of each other's cache."""


class DecodePool:
    """Threads that share a piece of work. With one thread, the caller does the work itself."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="wsikit-tiles") if threads > 1 else None

    def share(self, work: Callable[[slice], None]) -> None:
        """Call `work` once per thread, with a slice that selects its share of a sequence. The first error is raised."""
        if self._pool is None:
            work(slice(None))
        else:
            list(self._pool.map(work, [slice(first, None, self._threads) for first in range(self._threads)]))

    def share_runs(self, n: int, work: Callable[[slice], None]) -> None:
        """Call `work` with runs of neighbours among `n` things until all are done; a free thread takes the next."""
        if self._pool is None:
            work(slice(0, n))
            return
        size = max(1, min(RUN_TILES, n // (2 * self._threads)))
        left = iter([slice(first, first + size) for first in range(0, n, size)])

        def take(_: slice) -> None:
            for run in left:
                work(run)

        self.share(take)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


@dataclass(frozen=True, slots=True)
class PastePlan:
    """Which tiles N boxes need, and where each piece of a tile is copied to. Tiles and pieces are in row order."""

    tiles: npt.NDArray[np.int64]
    """(T, 2): column and row of each tile that a box touches."""
    first_piece: npt.NDArray[np.int64]
    """(T + 1,): the pieces of tile t are those from first_piece[t] to first_piece[t + 1]."""
    pieces: npt.NDArray[np.int64]
    """(P, 7): index of the box; left, top in the box; width, height; left, top in the tile. All px."""
    beyond: npt.NDArray[np.int64]
    """Indexes of the boxes that are partly or wholly outside the level."""
    keep: npt.NDArray[np.bool_]
    """(T,): whether later boxes of a row-major pass may need the tile too."""


def plan_paste(
    boxes: npt.NDArray[np.int64], level_px: tuple[int, int], tile_px: tuple[int, int], *, in_order: bool
) -> PastePlan:
    """Plan how `boxes`, (N, 4) of x, y, width, height in px of a level, are copied from its tiles.

    Parameters
    ----------
    level_px, tile_px
        Width and height of the level and of its tiles, px.
    in_order
        The boxes are part of a row-major pass over the level, and nothing else reads it at the same time: no tile
        above them is needed again. If False, tiles above may also be needed by a concurrent reader.

    >>> plan = plan_paste(np.array([[0, 0, 100, 50]]), (1000, 700), (64, 64), in_order=True)
    >>> plan.tiles.tolist()
    [[0, 0], [1, 0]]
    >>> plan.pieces.tolist()  # box, left, top in the box, width, height, left, top in the tile
    [[0, 0, 0, 64, 50, 0, 0], [0, 64, 0, 36, 50, 0, 0]]
    """
    tile = np.asarray(tile_px)
    start = np.maximum(boxes[:, :2], 0)
    stop = np.minimum(boxes[:, :2] + boxes[:, 2:], level_px)
    first = start // tile
    count = np.where(stop > start, -(-stop // tile) - first, 0)
    n_pieces = count.prod(axis=1)
    box = np.repeat(np.arange(len(boxes)), n_pieces)
    number = np.arange(len(box)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    row, column = np.divmod(number, np.maximum(count[box, 0], 1))
    place = first[box] + np.stack([column, row], axis=1)
    order = np.lexsort((place[:, 0], place[:, 1]))
    box, place = box[order], place[order]
    left_top = np.maximum(start[box], place * tile)
    size = np.minimum(stop[box], (place + 1) * tile) - left_top
    pieces = np.column_stack([box, left_top - boxes[box, :2], size, left_top - place * tile])
    new = np.flatnonzero(np.r_[True, (np.diff(place, axis=0) != 0).any(axis=1)]) if len(box) else np.empty(0, np.int64)
    tiles = place[new]
    keep = (tiles[:, 1] + 1) * tile[1] > boxes[-1:, 1]
    if not in_order:
        keep |= tiles[:, 1] * tile[1] < boxes[:1, 1] + boxes[:1, 3]
    return PastePlan(
        tiles=tiles,
        first_piece=np.r_[new, len(box)],
        pieces=pieces,
        beyond=np.flatnonzero((start != boxes[:, :2]).any(1) | (stop != boxes[:, :2] + boxes[:, 2:]).any(1)),
        keep=keep,
    )


class Target(NamedTuple):
    """Pictures that boxes are written to."""

    pixels: npt.NDArray[np.uint8]
    """uint8 (M, H, W, 3), C-contiguous: a box is written to pixels[slot, :height, :width]."""
    halved: bool = False
    """Each pixel written is the average of 2 × 2, rounded half up. Boxes, and the tiles, then begin and end at even px,
    and no box is beyond the level."""


@dataclass(frozen=True, slots=True)
class Goals:
    """Where each of N boxes is written to."""

    targets: Sequence[Target]
    target: npt.NDArray[np.int64]
    """(N,): which of `targets`."""
    slot: npt.NDArray[np.int64]
    """(N,): which picture of it."""


def paste_boxes(
    slide: DecodedTiles,
    level: int,
    boxes: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    pool: DecodePool,
    *,
    in_order: bool = False,
) -> npt.NDArray[np.bool_]:
    """Read `boxes` of `level` into `out`. Each tile that they overlap is decoded once; no other tile is decoded.

    Parameters
    ----------
    boxes
        (N, 4): x, y, width, height in px of `level`. Parts outside the level are white.
    out
        uint8 (N, H, W, 3), C-contiguous: box i is written to out[i, :height, :width].
    pool
        Its threads share the tiles to decode.
    in_order
        As for `plan_paste`.

    Returns
    -------
    bool (N,)
        False for a box with a tile that could not be decoded; all other boxes are complete.
    """
    numbers = np.arange(len(boxes))
    return paste_to(slide, level, boxes, Goals([Target(out)], np.zeros_like(numbers), numbers), pool, in_order=in_order)


def paste_to(
    slide: DecodedTiles,
    level: int,
    boxes: npt.NDArray[np.int64],
    goals: Goals,
    pool: DecodePool,
    *,
    in_order: bool = False,
) -> npt.NDArray[np.bool_]:
    """`paste_boxes` with boxes that are written to several arrays, or reduced as they are written."""
    tile_width, tile_height = slide.tile_px(level)
    plan = plan_paste(boxes, slide.level_dimensions[level], (tile_width, tile_height), in_order=in_order)
    readable = np.ones(len(boxes), dtype=bool)
    for index in plan.beyond.tolist():
        goals.targets[goals.target[index]].pixels[goals.slot[index]] = OUTSIDE
    moves = _moves(plan, goals, tile_width)
    passing = slide if in_order and isinstance(slide, PassingTiles) else None

    def paste(share: slice) -> None:
        scratch = borrowed((tile_height, tile_width, 3), for_jpeg=True)
        for column, row, keep, mine in _tiles_of(plan, share, moves):
            try:
                if passing is None:
                    tile = slide.tile(level, column, row, keep=keep)
                else:
                    tile = passing.passing_tile(level, column, row, scratch, keep=keep)
            except ReadError:
                readable[[move[0] for move in mine]] = False
                continue
            if tile.shape != scratch.shape or not tile.flags.c_contiguous:
                tile = _whole(tile, scratch)
            _carry_out(mine, tile, goals.targets)

    pool.share_runs(len(plan.tiles), paste)
    return readable


Move = tuple[int, int, int, int, int, int]
"""A rectangle of a tile: number of the box, of the target; width and height, px; the first byte in the tile, and in the
target."""


def _moves(plan: PastePlan, goals: Goals, tile_width: int) -> list[Move]:
    box, left, top, width, height, x, y = plan.pieces.T
    target = goals.target[box]
    shapes = np.array([pixels.shape[1:3] for pixels, _ in goals.targets])[target]
    shrink = np.array([1 + halved for _, halved in goals.targets])[target]
    goal = 3 * ((goals.slot[box] * shapes[:, 0] + top // shrink) * shapes[:, 1] + left // shrink)
    columns = (box, target, width, height, 3 * (y * tile_width + x), goal)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _carry_out(moves: Sequence[Move], tile: Tile, targets: Sequence[Target]) -> None:
    """Copy rectangles of `tile`, which is C-contiguous. A row of them is one item, which is faster than bytes or px."""
    tile_pitch = tile.strides[:1]
    for _, number, width, height, start, goal in moves:
        pixels, halved = targets[number]
        pitch = pixels.strides[1:2]
        if halved:
            _halve(tile, (width, height), start, pixels, goal)
            continue
        row = _row_type(width)
        np.ndarray(height, row, pixels, goal, pitch)[...] = np.ndarray(height, row, tile, start, tile_pitch)


def _halve(tile: Tile, size: tuple[int, int], start: int, pixels: npt.NDArray[np.uint8], goal: int) -> None:
    """Averages of 2 × 2 px, as Pillow's `reduce(2)` gives them."""
    import cv2

    width, height = size
    source: Tile = np.ndarray((height, width, 3), np.uint8, tile, start, tile.strides)
    into: Tile = np.ndarray((height // 2, width // 2, 3), np.uint8, pixels, goal, pixels.strides[1:])
    found = cv2.resize(source, (width // 2, height // 2), dst=into, interpolation=cv2.INTER_AREA)
    if found is not into:
        into[:] = found


@cache
def _row_type(width: int) -> np.dtype[np.void]:
    """The type of a row of `width` px, as one item."""
    return np.dtype((np.void, 3 * width))


def _tiles_of(plan: PastePlan, share: slice, moves: list[Move]) -> Iterator[tuple[int, int, bool, list[Move]]]:
    """Column, row, keep flag and pieces of each tile in a share of the plan."""
    tiles, keep = plan.tiles[share].tolist(), plan.keep[share].tolist()
    starts, stops = plan.first_piece[:-1][share].tolist(), plan.first_piece[1:][share].tolist()
    for (column, row), kept, start, stop in zip(tiles, keep, starts, stops, strict=True):
        yield column, row, kept, moves[start:stop]


def _whole(tile: Tile, scratch: Tile) -> Tile:
    """A tile of another shape or order in memory, as one of full size; ValueError if it has fewer px."""
    height, width, _ = scratch.shape
    whole = np.empty_like(scratch)
    whole[:] = tile[:height, :width]
    return whole
