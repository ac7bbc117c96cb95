"""The image levels of a slide store, read by byte range from their shards, without zarr. Frame: pixels of a level."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from wsikit.errors import StoreError
from wsikit.slides.base import Pixels, Size
from wsikit.slides.channel_tiles import ChannelTiles
from wsikit.slides.composite import Samples
from wsikit.slides.decode import ChunkError, decode_chunk, decode_planes
from wsikit.slides.types import Channel
from wsikit.store.chunk_files import ChunkFiles
from wsikit.store.level_format import LevelFormat
from wsikit.store.shards import ShardedLevel


class StoreLevels(ChannelTiles):
    """Levels 0 … n - 1 of the store at `folder`, whether it is complete or still being written.

    `channels`: those of a fluorescence slide, whose pixels are then their composite.
    """

    def __init__(self, folder: Path, n_levels: int, channels: tuple[Channel, ...] = ()) -> None:
        super().__init__()
        self.channels = channels
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

    def encoded(self, level: int, col: int, row: int, plane: int = 0) -> bytes | None:
        """The bytes of one tile as they are stored; None where none are stored; ReadError if they cannot be read.

        A tile of a fluorescence slide may have one chunk per channel: `plane` is then its number.
        """
        try:
            if (col, row) in self.unreadable[level]:
                raise StoreError("the source could not be read here when the store was made")
            return self._chunks[level].chunk(col, row, plane)
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
            self._chunks.append(ShardedLevel(path.parent, form.chunks_per_shard, planes=form.planes))
        else:
            self._chunks.append(ChunkFiles(path.parent))

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        if self.channels:
            return super()._decode_tile(level, column, row)
        chunk = self.encoded(level, column, row)
        form = self.formats[level]
        try:
            return _filled(form) if chunk is None else decode_chunk(chunk, form)
        except ChunkError as error:
            raise self._read_error(level, column, row, str(error)) from error

    def _decode_channel_tile(self, level: int, column: int, row: int, channel: int) -> Samples:
        form = self.formats[level]
        if form.planes > 1:
            plane: Samples = self._decode_planes(level, column, row, channel)[0]
            return plane

        def decode() -> Pixels:
            return self._decode_planes(level, column, row, 0)  # type: ignore[return-value]

        # one chunk has all channels, and is decoded once for all of them
        planes: Samples = self._cache.get_or_make((self._owner, level, column, row, "all channels"), decode)
        chosen: Samples = planes[channel]
        return chosen

    def _decode_planes(self, level: int, column: int, row: int, plane: int) -> Samples:
        chunk = self.encoded(level, column, row, plane)
        form = self.formats[level]
        if chunk is None:
            return np.full((form.channels // form.planes, form.tile_px[1], form.tile_px[0]), form.fill, form.dtype)
        try:
            return decode_planes(chunk, form)
        except ChunkError as error:
            raise self._read_error(level, column, row, str(error)) from error


def _filled(form: LevelFormat) -> Pixels:
    """The pixels of a missing chunk, as zarr reads them: the fill value."""
    return np.full((form.tile_px[1], form.tile_px[0], 3), form.fill, dtype=np.uint8)
