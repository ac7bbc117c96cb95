"""The image levels of a slide store, read by position from their shards, without zarr. Frame: pixels of a level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError, StoreError
from wsikit.slides.jpeg import JpegError, decode
from wsikit.slides.tiles import TileCache, mosaic
from wsikit.store.shards import ShardedLevel

FILL = 255


class StoreLevels:
    """Levels 0 … n - 1 of the store at `folder`, whether it is committed or still being written."""

    def __init__(self, folder: Path, n_levels: int) -> None:
        self.folder = folder
        self.dimensions: list[tuple[int, int]] = []
        """Width and height per level, px."""
        self.tile_px: list[tuple[int, int]] = []
        """Width and height of the tiles per level, px."""
        self.unreadable: list[frozenset[tuple[int, int]]] = []
        """Per level, the tiles (column, row) whose pixels the source could not give."""
        self._shards: list[ShardedLevel] = []
        self._cache = TileCache()
        for level in range(n_levels):
            self._add(level)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """Pixels of a box inside the level, uint8 (height, width, 3); ReadError where they are not to be had."""
        return mosaic((x, y, width, height), self.tile_px[level], lambda col, row: self._tile(level, col, row))

    def encoded(self, level: int, col: int, row: int) -> bytes | None:
        """The JPEG stream of one tile as it is stored; None where there is none; ReadError if it is not to be had."""
        try:
            if (col, row) in self.unreadable[level]:
                raise StoreError("the source could not be read here when the store was made")
            return self._shards[level].chunk(col, row)
        except (StoreError, OSError) as error:
            raise self._error(level, col, row, error) from error

    def close(self) -> None:
        for shards in self._shards:
            shards.close()

    def _add(self, level: int) -> None:
        path = self.folder / str(level) / "zarr.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            sharding = record["codecs"][0]["configuration"]
            tile_h, tile_w = (int(side) for side in sharding["chunk_shape"][1:])
            shard_w = int(record["chunk_grid"]["configuration"]["chunk_shape"][2])
            unreadable = record["attributes"]["wsikit"]["unreadable_tiles"]
        except (OSError, json.JSONDecodeError, KeyError, IndexError) as error:
            raise StoreError(
                f"{path}: not the metadata of an image level ({error!r}). Tile the slide again."
            ) from error
        self.dimensions.append((int(record["shape"][2]), int(record["shape"][1])))
        self.tile_px.append((tile_w, tile_h))
        self.unreadable.append(frozenset((int(col), int(row)) for col, row in unreadable))
        self._shards.append(ShardedLevel(path.parent, shard_w // tile_w))

    def _tile(self, level: int, col: int, row: int) -> npt.NDArray[np.uint8]:
        known = self._cache.get((level, col, row))
        if known is not None:
            return known
        chunk = self.encoded(level, col, row)
        tile_w, tile_h = self.tile_px[level]
        try:
            tile = _white(tile_w, tile_h) if chunk is None else decode(chunk, (tile_w, tile_h))
        except JpegError as error:
            raise self._error(level, col, row, error) from error
        self._cache.put((level, col, row), tile)
        return tile

    def _error(self, level: int, col: int, row: int, reason: Exception) -> ReadError:
        tile_w, tile_h = self.tile_px[level]
        return ReadError(str(self.folder), level, (col * tile_w, row * tile_h, tile_w, tile_h), str(reason))


def _white(width: int, height: int) -> npt.NDArray[np.uint8]:
    """What zarr reads where a chunk is missing."""
    return np.full((height, width, 3), FILL, dtype=np.uint8)
