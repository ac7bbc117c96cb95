"""A region put together from decoded tiles, each decoded once and kept a while. Frame: pixels of one level."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

import numpy as np
import numpy.typing as npt

Tile = npt.NDArray[np.uint8]

CACHE_BYTES = 96 * 2**20
"""Holds a row of 256-px tiles of a slide 120,000 px wide: a raster pass decodes each tile once."""


class TileCache:
    """The last decoded tiles, up to `max_bytes`. Safe to use from several threads."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._tiles: OrderedDict[Hashable, Tile] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> Tile | None:
        with self._lock:
            tile = self._tiles.get(key)
            if tile is not None:
                self._tiles.move_to_end(key)
            return tile

    def put(self, key: Hashable, tile: Tile) -> None:
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes and len(self._tiles) > 1:
                _, oldest = self._tiles.popitem(last=False)
                self._bytes -= oldest.nbytes


def mosaic(
    box: tuple[int, int, int, int], tile_px: tuple[int, int], decode: Callable[[int, int], Tile]
) -> npt.NDArray[np.uint8]:
    """Pixels of `box`, uint8 (height, width, 3), from the tiles that it touches.

    Parameters
    ----------
    box
        (x, y, width, height), px of the level, inside the level.
    tile_px
        Width and height of a tile, px.
    decode
        Gives the tile at (column, row), uint8 (h, w, 3); an edge tile may be short.
    """
    x, y, width, height = box
    tile_w, tile_h = tile_px
    region = np.empty((height, width, 3), dtype=np.uint8)
    for row in range(y // tile_h, (y + height - 1) // tile_h + 1):
        top, bottom = max(y, row * tile_h), min(y + height, (row + 1) * tile_h)
        for col in range(x // tile_w, (x + width - 1) // tile_w + 1):
            left, right = max(x, col * tile_w), min(x + width, (col + 1) * tile_w)
            tile = decode(col, row)
            region[top - y : bottom - y, left - x : right - x] = tile[
                top - row * tile_h : bottom - row * tile_h, left - col * tile_w : right - col * tile_w
            ]
    return region
