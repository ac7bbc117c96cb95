"""The image levels of a slide store, read by byte range from their shards, without zarr. Frame: pixels of a level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wsikit.errors import StoreError
from wsikit.slides.base import Pixels, Size
from wsikit.slides.decode import ChunkError, decode_chunk
from wsikit.slides.tile_reader import TileReader
from wsikit.store.chunk_files import ChunkFiles
from wsikit.store.level_format import LevelFormat
from wsikit.store.shards import ShardedLevel


class StoreLevels(TileReader):
    """Levels 0 … n - 1 of the store at `folder`, whether it is complete or still being written."""

    def __init__(self, folder: Path, n_levels: int) -> None:
        super().__init__()
        self.folder = folder
        self.formats: list[LevelFormat] = []
        """How each level is stored."""
        self.unreadable: list[frozenset[tuple[int, int]]] = []
        """Per level, the tiles (column, row) whose pixels could not be read from the source."""
        self._chunks: list[ShardedLevel | ChunkFiles] = []
        for level in range(n_levels):
            self._add(level)
        self._dimensions = tuple((form.width, form.height) for form in self.formats)

    @property
    def path(self) -> str:
        return str(self.folder)

    @property
    def level_dimensions(self) -> tuple[Size, ...]:
        """Width and height of each level, px, finest first."""
        return self._dimensions

    def tile_px(self, level: int) -> Size:
        """Width and height of the tiles of `level`, px."""
        return self.formats[level].tile_px

    def encoded(self, level: int, col: int, row: int) -> bytes | None:
        """The bytes of one tile as they are stored; None where none are stored; ReadError if they cannot be read."""
        try:
            if (col, row) in self.unreadable[level]:
                raise StoreError("the source could not be read here when the store was made")
            return self._chunks[level].chunk(col, row)
        except (StoreError, OSError) as error:
            raise self._read_error(level, col, row, str(error)) from error

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
        self.unreadable.append(frozenset((int(col), int(row)) for col, row in unreadable))
        if form.chunks_per_shard:
            self._chunks.append(ShardedLevel(path.parent, form.chunks_per_shard))
        else:
            self._chunks.append(ChunkFiles(path.parent, form.key_prefix))

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        chunk = self.encoded(level, column, row)
        form = self.formats[level]
        try:
            return _filled(form) if chunk is None else decode_chunk(chunk, form)
        except ChunkError as error:
            raise self._read_error(level, column, row, str(error)) from error


def _filled(form: LevelFormat) -> Pixels:
    """The pixels of a missing chunk, as zarr reads them: the fill value."""
    return np.full((form.tile_px[1], form.tile_px[0], 3), form.fill, dtype=np.uint8)
