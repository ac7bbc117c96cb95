"""The image levels of a slide store, read by byte range from their shards, without zarr. Frame: pixels of a level."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import StoreError
from wsikit.slides import jpeg
from wsikit.slides.base import Pixels, Size
from wsikit.slides.channel_tiles import ChannelTiles
from wsikit.slides.composite import Samples
from wsikit.slides.decode import ChunkError, decode_chunk, decode_planes
from wsikit.slides.store_record import read_level
from wsikit.slides.types import Channel
from wsikit.store.chunk_files import ChunkFiles
from wsikit.store.level_files import LevelFiles
from wsikit.store.level_format import LevelFormat
from wsikit.store.shards import ShardedLevel


class StoreLevels(ChannelTiles):
    """Levels 0 … n - 1 of the store at `folder`, whether it is complete or still being written.

    `channels`: those of a fluorescence slide, whose pixels are then their composite. `of_image`: its image, or an
    associated image, whose attributes state less.

    Raises
    ------
    StoreError
        The metadata of a level are missing or impossible.
    """

    def __init__(
        self, folder: Path, n_levels: int, channels: tuple[Channel, ...] = (), *, of_image: bool = True
    ) -> None:
        super().__init__()
        self.channels = channels
        self.folder, self._of_image = folder, of_image
        self.formats: list[LevelFormat] = []
        """How each level is stored."""
        self.records: list[dict[str, Any]] = []
        """Attributes of each level: fidelity, lossless, …"""
        self.unreadable: list[frozenset[tuple[int, int]]] = []
        """Per level, the tiles (column, row) whose pixels could not be read from the source."""
        self.files: list[LevelFiles] = []
        """Per level, the files that it must have."""
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
        """The bytes of one tile as they are stored; None where it was left out; ReadError if it is lost or damaged.

        A tile of a fluorescence slide may have one chunk per channel: `plane` is then its number.
        """
        try:
            if (col, row) in self.unreadable[level]:
                raise StoreError("the source could not be read here when the store was made")
            chunk = self._chunks[level].chunk(col, row, plane)
            if chunk is None:
                self.files[level].check_left_out(col, row, object_there=self._chunks[level].holds(col, row))
            return chunk
        except (StoreError, OSError) as error:
            raise self._read_error(level, col, row, str(error)) from error

    def damaged(self) -> list[dict[tuple[int, int], str]]:
        """Per level, the files (column and row of the object) that are missing or cut off, and their faults."""
        return [
            files.damaged(partial(fault_of_chunk, form)) for files, form in zip(self.files, self.formats, strict=True)
        ]

    def close(self) -> None:
        self._forget_tiles()
        for chunks in self._chunks:
            chunks.close()

    def _add(self, level: int) -> None:
        path = self.folder / str(level) / "zarr.json"
        form, record = read_level(path, self.folder, of_image=self._of_image)
        self.formats.append(form)
        self.records.append(record)
        self.files.append(LevelFiles(path.parent, form, record))
        self.unreadable.append(self.files[-1].unreadable)
        if form.chunks_per_shard:
            self._chunks.append(ShardedLevel(path.parent, form.chunks_per_shard, planes=form.planes))
        else:
            self._chunks.append(ChunkFiles(path.parent, form.key_prefix))

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        if self.channels:
            return super()._decode_tile(level, column, row)
        chunk = self.encoded(level, column, row)
        form = self.formats[level]
        try:
            return _filled(form) if chunk is None else decode_chunk(chunk, form)
        except ChunkError as error:
            raise self._read_error(level, column, row, str(error)) from error

    def _decode_to(self, level: int, column: int, row: int, scratch: Pixels) -> bool:
        form = self.formats[level]
        if form.codec != "jpeg" or form.channels != 3 or self.channels:
            return False
        chunk = self.encoded(level, column, row)
        return chunk is not None and jpeg.decode_to(chunk, scratch)

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


def fault_of_chunk(form: LevelFormat, path: Path) -> str | None:
    """What is wrong with a chunk file; it has no checksum, so it is decoded."""
    try:
        (decode_chunk if form.of_pixels else decode_planes)(path.read_bytes(), form)
    except ChunkError as error:
        return f"the chunk is damaged ({error})"
    return None


def _filled(form: LevelFormat) -> Pixels:
    """The pixels of a chunk that was left out, as zarr reads them: the fill value."""
    return np.full((form.tile_px[1], form.tile_px[0], 3), form.fill, dtype=np.uint8)
