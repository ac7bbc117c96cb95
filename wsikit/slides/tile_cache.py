"""Regions put together from decoded tiles, each decoded once and kept a while. Frame: pixels of one level.

One large box is a mosaic of tiles; many boxes of patches are pasted tile by tile, straight to where they belong.
"""

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
"""Holds a row of 256-px tiles of tissue 85,000 px wide: a raster pass decodes each tile once."""

OUTSIDE = 255
"""White, as glass is."""


@runtime_checkable
class DecodedTiles(Protocol):
    """A slide that hands out its tiles one by one. Safe to use from several threads."""

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level, px, finest first."""

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""

    def tile(self, level: int, column: int, row: int, *, keep: bool = True) -> Tile:
        """One whole tile, uint8 (h, w, 3), not to be written to; ReadError if it cannot be decoded.

        Two threads that ask for the same tile at once have it decoded once. `keep` is False where nobody will ask for
        it again: it then leaves the cache, or never enters it.
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
        """The tile of `key`; made where it is not known, by one thread while the others that want it wait.

        It is forgotten if it is not to be kept: fresh memory costs as much as decoding does.
        Where `make` fails its error is raised, and each that waited tries for itself.
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
            with other.lock:  # held until it is made
                tile = other.tile
            if tile is not None:
                if keep:
                    self.put(key, tile)
                return tile
        try:
            mine.tile = make()
            if keep:
                self.put(key, mine.tile)
            return mine.tile
        finally:
            with self._lock:
                del self._being_made[key]
            mine.lock.release()

    def _known(self, key: Hashable) -> Tile | None:
        tile = self._tiles.get(key)
        if tile is not None:
            self._tiles.move_to_end(key)
        return tile


class SlideTiles:
    """The decoded tiles of one slide, in a cache that all slides of the process share: memory is bounded for them all.

    Of a slide that is closed they go as others come; nobody can ask for them any more.
    """

    _shared = TileCache()

    def __init__(self) -> None:
        self._owner = object()

    def get_or_make(self, key: Hashable, make: Callable[[], Tile], *, keep: bool = True) -> Tile:
        """See `TileCache.get_or_make`; `key` is of this slide."""
        return self._shared.get_or_make((self._owner, key), make, keep=keep)


class _BeingMade:
    """A tile that one thread is decoding; the lock is its own until then."""

    __slots__ = ("lock", "tile")

    def __init__(self) -> None:
        self.lock = Lock()
        self.lock.acquire()
        self.tile: Tile | None = None


class DecodePool:
    """Threads among which a piece of work is shared out. A crew of one is the caller, without a thread of its own."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="wsikit-tiles") if threads > 1 else None

    def share(self, work: Callable[[slice], None]) -> None:
        """Call `work` with each thread's share of some sequence, as a slice; the first error comes up at the end."""
        if self._pool is None:
            work(slice(None))
        else:
            list(self._pool.map(work, [slice(first, None, self._threads) for first in range(self._threads)]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def assemble(
    box: tuple[int, int, int, int], tile_px: tuple[int, int], decode: Callable[[int, int, bool], Tile]
) -> npt.NDArray[np.uint8]:
    """Pixels of `box`, uint8 (height, width, 3), from the tiles that it touches.

    Parameters
    ----------
    box
        (x, y, width, height), px of the level, inside the level.
    tile_px
        Width and height of a tile, px.
    decode
        Gives the tile at (column, row), uint8 (h, w, 3); an edge tile may be short. Told also whether to keep it: what
        lies beside this box may need a tile that the box holds a part of, not one that it holds whole.
    """
    x, y, width, height = box
    tile_w, tile_h = tile_px
    region = np.empty((height, width, 3), dtype=np.uint8)
    for row in range(y // tile_h, (y + height - 1) // tile_h + 1):
        top, bottom = max(y, row * tile_h), min(y + height, (row + 1) * tile_h)
        for col in range(x // tile_w, (x + width - 1) // tile_w + 1):
            left, right = max(x, col * tile_w), min(x + width, (col + 1) * tile_w)
            whole = (right - left, bottom - top) == tile_px
            tile = decode(col, row, not whole)
            region[top - y : bottom - y, left - x : right - x] = tile[
                top - row * tile_h : bottom - row * tile_h, left - col * tile_w : right - col * tile_w
            ]
    return region


@dataclass(frozen=True, slots=True)
class PastePlan:
    """Which tiles N boxes need, and which piece of each tile goes where. Tiles and pieces are sorted row by row."""

    tiles: npt.NDArray[np.int64]
    """(T, 2): column and row of each tile that a box touches."""
    first_piece: npt.NDArray[np.int64]
    """(T + 1,): the pieces of tile t are those from first_piece[t] to first_piece[t + 1]."""
    pieces: npt.NDArray[np.int64]
    """(P, 7): index of the box; left, top in the box; width, height; left, top in the tile. All px."""
    reaching_out: npt.NDArray[np.int64]
    """Indexes of the boxes that reach out of the level."""
    keep: npt.NDArray[np.bool_]
    """(T,): whether other boxes of a row-major pass may need the tile too."""


def plan_paste(
    boxes: npt.NDArray[np.int64], level_px: tuple[int, int], tile_px: tuple[int, int], *, in_order: bool
) -> PastePlan:
    """Plan how `boxes`, (N, 4) of x, y, width, height in px of a level, are put together from its tiles.

    `in_order`: they are part of a row-major pass that one reader makes alone, so that no tile above them is needed
    again. Otherwise the tiles above may be wanted too, by another who reads there at the same time.
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
        reaching_out=np.flatnonzero((start != boxes[:, :2]).any(1) | (stop != boxes[:, :2] + boxes[:, 2:]).any(1)),
        keep=keep,
    )


def paste_boxes(
    slide: DecodedTiles,
    level: int,
    boxes: npt.NDArray[np.int64],
    out: npt.NDArray[np.uint8],
    crew: DecodePool,
    *,
    in_order: bool = False,
) -> npt.NDArray[np.bool_]:
    """Read `boxes` of `level` into `out`, decoding each tile that they touch once, and no other.

    Parameters
    ----------
    boxes
        (N, 4): x, y, width, height in px of `level`. They may reach outside of it, where a slide is white.
    out
        uint8 (N, H, W, 3): box i is written to out[i, :height, :width].
    crew
        Who decodes: the tiles are shared out among its threads.
    in_order
        As for `plan_paste`.

    Returns
    -------
    bool (N,)
        False where a tile of the box could not be decoded: the others are whole.
    """
    plan = plan_paste(boxes, slide.level_dimensions[level], slide.tile_px(level), in_order=in_order)
    readable = np.ones(len(boxes), dtype=bool)
    for index in plan.reaching_out.tolist():
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

    crew.share(paste)
    return readable


def _tiles_of(plan: PastePlan, share: slice) -> Iterator[tuple[int, int, bool, list[list[int]]]]:
    """Column, row, keep and pieces of each tile of a share of the plan."""
    tiles, keep = plan.tiles[share].tolist(), plan.keep[share].tolist()
    starts, stops = plan.first_piece[:-1][share].tolist(), plan.first_piece[1:][share].tolist()
    for (column, row), kept, start, stop in zip(tiles, keep, starts, stops, strict=True):
        yield column, row, kept, plan.pieces[start:stop].tolist()
