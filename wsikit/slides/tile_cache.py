"""A bounded cache of decoded tiles, and many boxes copied from them tile by tile. Frame: pixels of one level."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError

Tile = npt.NDArray[np.uint8]

CACHE_BYTES = 64 * 2**20
"""Holds a row of 256-px tiles across 85,000 px of tissue, so that a row-major pass decodes each tile once."""

OUTSIDE = 255
"""White, as glass is."""


@runtime_checkable
class DecodedTiles(Protocol):
    """A slide that gives access to its decoded tiles. Safe to use from several threads."""

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level, px, finest first."""

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""

    def tile(self, level: int, column: int, row: int, *, keep: bool = True) -> Tile:
        """One whole tile, uint8 (h, w, 3), read-only; ReadError if it cannot be decoded.

        If two threads request the same tile at once, it is decoded once. With `keep` False, the tile will not be
        needed again: it leaves the cache, or never enters it.
        """


class TileCache:
    """The last decoded tiles, up to `max_bytes`. Safe to use from several threads."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[Hashable, Tile] = OrderedDict()
        self._being_made: dict[Hashable, _BeingMade] = {}
        self._lock = Lock()

    def get(self, key: Hashable) -> Tile | None:
        with self._lock:
            return self._known(key)

    def put(self, key: Hashable, tile: Tile) -> None:
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes and len(self._tiles) > 1:
                _, oldest = self._tiles.popitem(last=False)
                self._bytes -= oldest.nbytes

    def get_or_make(self, key: Hashable, make: Callable[[], Tile], *, keep: bool = True) -> Tile:
        """The tile of `key`, read-only. A missing tile is made by one thread, and the others that need it wait.

        Parameters
        ----------
        make
            Decodes the tile. If it raises, this call raises the same error; each waiting thread then tries itself.
        keep
            False if the tile will not be needed again: it leaves the cache, or never enters it. New memory costs as
            much time as decoding, so space in the cache is valuable.
        """
        while True:
            with self._lock:
                known = self._known(key)
                if known is not None:
                    if not keep:
                        del self._tiles[key]
                        self._bytes -= known.nbytes
                    return known
                other = self._being_made.get(key)
                if other is None:
                    mine = self._being_made[key] = _BeingMade()
                    break
            with other.lock:  # held until the tile is made
                tile = other.tile
            if tile is not None:
                if keep:
                    self.put(key, tile)
                return tile
        try:
            tile = make()
            tile.flags.writeable = False  # all readers share it
            mine.tile = tile
            if keep:
                self.put(key, tile)
            return tile
        finally:
            with self._lock:
                del self._being_made[key]
            mine.lock.release()

    def _known(self, key: Hashable) -> Tile | None:
        tile = self._tiles.get(key)
        if tile is not None:
            self._tiles.move_to_end(key)
        return tile


class _BeingMade:
    """A tile that one thread is decoding. The thread holds the lock until the tile is there."""

    __slots__ = ("lock", "tile")

    def __init__(self) -> None:
        self.lock = Lock()
        self.lock.acquire()
        self.tile: Tile | None = None


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
        uint8 (N, H, W, 3): box i is written to out[i, :height, :width].
    pool
        Its threads share the tiles to decode.
    in_order
        As for `plan_paste`.

    Returns
    -------
    bool (N,)
        False for a box with a tile that could not be decoded; all other boxes are complete.
    """
    plan = plan_paste(boxes, slide.level_dimensions[level], slide.tile_px(level), in_order=in_order)
    readable = np.ones(len(boxes), dtype=bool)
    for index in plan.beyond.tolist():
        out[index] = OUTSIDE

    def paste(share: slice) -> None:
        for column, row, keep, pieces in _tiles_of(plan, share):
            try:
                tile = slide.tile(level, column, row, keep=keep)
            except ReadError:
                readable[[piece[0] for piece in pieces]] = False
                continue
            for index, left, top, width, height, x, y in pieces:
                out[index, top : top + height, left : left + width] = tile[y : y + height, x : x + width]

    pool.share(paste)
    return readable


def _tiles_of(plan: PastePlan, share: slice) -> Iterator[tuple[int, int, bool, list[list[int]]]]:
    """Column, row, keep flag and pieces of each tile in a share of the plan."""
    tiles, keep = plan.tiles[share].tolist(), plan.keep[share].tolist()
    starts, stops = plan.first_piece[:-1][share].tolist(), plan.first_piece[1:][share].tolist()
    for (column, row), kept, start, stop in zip(tiles, keep, starts, stops, strict=True):
        yield column, row, kept, plan.pieces[start:stop].tolist()
