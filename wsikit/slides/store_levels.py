"""The image levels of a slide store, read by position from their shards, without zarr. Frame: pixels of a level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError, StoreError
from wsikit.slides.decode import ChunkError, decode_chunk
from wsikit.slides.tile_cache import SlideTiles, assemble
from wsikit.store.chunk_files import ChunkFiles
from wsikit.store.level_format import LevelFormat
from wsikit.store.shards import ShardedLevel

Pixels = npt.NDArray[np.uint8]


class Levels(Protocol):
    """Where a store's pixels come from: its own chunks, or the slide that it was made from."""

    dimensions: list[tuple[int, int]]
    """Width and height per level, px."""
    tile_px: list[tuple[int, int]]
    """Width and height of the tiles per level, px."""
    unreadable: list[frozenset[tuple[int, int]]]
    """Per level, the tiles (column, row) whose pixels the source could not give."""

    def tile(self, level: int, col: int, row: int, *, keep: bool = True) -> Pixels:
        """One whole tile, uint8 (h, w, 3), not to be written to; ReadError where it is not to be had."""

    def close(self) -> None: ...


class StoreLevels:
    """Levels 0 … n - 1 of the store at `folder`, whether it is committed or still being written."""

    def __init__(self, folder: Path, n_levels: int) -> None:
        self.folder = folder
        self.dimensions: list[tuple[int, int]] = []
        self.tile_px: list[tuple[int, int]] = []
        self.unreadable: list[frozenset[tuple[int, int]]] = []
        self.formats: list[LevelFormat] = []
        self._chunks: list[ShardedLevel | ChunkFiles] = []
        self._cache = SlideTiles()
        for level in range(n_levels):
            self._add(level)

    def read(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """Pixels of a box (x, y, width, height) inside the level, uint8 (height, width, 3), or ReadError."""
        return assemble(box, self.tile_px[level], lambda col, row, keep: self.tile(level, col, row, keep=keep))

    def tile(self, level: int, col: int, row: int, *, keep: bool = True) -> Pixels:
        """One whole tile, uint8 (h, w, 3), not to be written to; ReadError where it is not to be had."""
        return self._cache.get_or_make((level, col, row), lambda: self._decode(level, col, row), keep=keep)

    def encoded(self, level: int, col: int, row: int) -> bytes | None:
        """The bytes of one tile as they are stored; None where there are none; ReadError if they are not to be had."""
        try:
            if (col, row) in self.unreadable[level]:
                raise StoreError("the source could not be read here when the store was made")
            return self._chunks[level].chunk(col, row)
        except (StoreError, OSError) as error:
            raise self._error(level, col, row, error) from error

    def close(self) -> None:
        for chunks in self._chunks:
            chunks.close()

    def _add(self, level: int) -> None:
        path = self.folder / str(level) / "zarr.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            form = LevelFormat.from_zarr(record)
            unreadable = record["attributes"]["wsikit"]["unreadable_tiles"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise StoreError(
                f"{path}: not the metadata of an image level ({error!r}). Tile the slide again."
            ) from error
        self.formats.append(form)
        self.dimensions.append((form.width, form.height))
        self.tile_px.append(form.tile_px)
        self.unreadable.append(frozenset((int(col), int(row)) for col, row in unreadable))
        if form.chunks_per_shard:
            self._chunks.append(ShardedLevel(path.parent, form.chunks_per_shard))
        else:
            self._chunks.append(ChunkFiles(path.parent))

    def _decode(self, level: int, col: int, row: int) -> Pixels:
        chunk = self.encoded(level, col, row)
        form = self.formats[level]
        try:
            tile = _filled(form) if chunk is None else decode_chunk(chunk, form)
        except ChunkError as error:
            raise self._error(level, col, row, error) from error
        tile.flags.writeable = False
        return tile

    def _error(self, level: int, col: int, row: int, reason: Exception) -> ReadError:
        tile_w, tile_h = self.tile_px[level]
        return ReadError(str(self.folder), level, (col * tile_w, row * tile_h, tile_w, tile_h), str(reason))


def _filled(form: LevelFormat) -> Pixels:
    """What zarr reads where a chunk is missing."""
    return np.full((form.tile_px[1], form.tile_px[0], 3), form.fill, dtype=np.uint8)
