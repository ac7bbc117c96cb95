"""A bounded cache of decoded tiles, and what gives access to tiles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Tile = npt.NDArray[np.uint8]

CACHE_BYTES = 64 * 2**20
"""Holds a row of 256-px tiles across 85,000 px of tissue, so that a row-major pass decodes each tile once."""


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


@runtime_checkable
class PassingTiles(Protocol):
    """A slide that decodes tiles for one pass over it, some of them into memory of the caller."""

    def passing_tile(self, level: int, column: int, row: int, scratch: Tile, *, keep: bool) -> Tile:
        """`tile` where nothing else requests the same tile at the same time.

        Without `keep`, `scratch`, uint8 (h, w, 3) of the size of a tile, may be written to and returned: its memory is
        warm, while new memory for each tile is not.
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

    def take(self, key: Hashable) -> Tile | None:
        """The tile of `key`, which leaves the cache; None if it is not there."""
        with self._lock:
            known = self._tiles.pop(key, None)
            if known is not None:
                self._bytes -= known.nbytes
            return known

    def drop(self, unused: Callable[[Hashable], bool]) -> None:
        """The tiles whose keys are `unused` leave the cache, so that their memory can be used again."""
        with self._lock:
            for key in [key for key in self._tiles if unused(key)]:
                self._bytes -= self._tiles.pop(key).nbytes

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
