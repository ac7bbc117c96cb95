"""What readers share that decode a file's own tiles themselves. Places are px of the level read.

Bytes come by positioned reads and no lock is held while reading or decoding, so threads run side by side. Decoded
tiles are kept in a bounded cache.
"""

from __future__ import annotations

import os
import threading
from abc import abstractmethod

from wsikit.errors import ReadError, RequestError
from wsikit.slides.base import BaseSlide, MppLike, Pixels, SlideInfo
from wsikit.slides.tile_cache import SlideTiles, assemble


class TileDecoding(BaseSlide):
    """A slide some of whose levels are decoded tile by tile. A subclass says how, and where the tiles' bytes lie."""

    _tiles: SlideTiles

    @abstractmethod
    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""

    @abstractmethod
    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        """One whole tile, uint8 (tile height, tile width, 3), or ReadError."""

    def tile(self, level: int, column: int, row: int, *, keep: bool = True) -> Pixels:
        """One whole tile, uint8 (tile height, tile width, 3); shared, so not to be written to. Edge tiles may be short.

        Two threads that ask for the same tile have it decoded once. `keep` is False where nobody will ask again.
        """
        return self._tiles.get_or_make((level, column, row), lambda: self._read_only(level, column, row), keep=keep)

    def _read_only(self, level: int, column: int, row: int) -> Pixels:
        tile = self._decode_tile(level, column, row)
        tile.flags.writeable = False
        return tile

    def _read_tiles(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return assemble(
            (x, y, width, height), self.tile_px(level), lambda col, row, keep: self.tile(level, col, row, keep=keep)
        )

    def _bytes(self, file: PositionedFile, level: int, column: int, row: int, offset: int, count: int) -> bytes:
        """Bytes of a file that belong to a tile; ReadError if the file ends before they do."""
        try:
            found = file.read(offset, count)
        except OSError as error:
            raise self._read_error(level, column, row, f"the file cannot be read: {error.strerror}") from error
        if len(found) < count:
            fault = f"the file ends at byte {file.size()}, before the tile does"
            raise self._read_error(level, column, row, fault)
        return found

    def _read_error(self, level: int, column: int, row: int, reason: str) -> ReadError:
        """The error for a tile, naming the place that it covers."""
        level_width, level_height = self.level_dimensions[level]
        tile_width, tile_height = self.tile_px(level)
        x, y = column * tile_width, row * tile_height
        width, height = min(tile_width, level_width - x), min(tile_height, level_height - y)
        return ReadError(self.path, level, (x, y, width, height), reason)


class TiledFileSlide(TileDecoding):
    """A slide in one file, all of whose levels are decoded tile by tile."""

    def __init__(self, info: SlideInfo, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        super().__init__(info, mpp=mpp, mpp_source=mpp_source)
        self._file = PositionedFile(info.path)
        self._tiles = SlideTiles()
        try:
            self._check_readable()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()
        self._tiles = SlideTiles()

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return self._read_tiles(level, x, y, width, height)


class PositionedFile:
    """Reads at a byte offset, from any thread at once where the system can (pread), else one after the other."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._lock = None if hasattr(os, "pread") else threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer where the file ends. RequestError if it is closed."""
        if self._file.closed:
            raise RequestError(f"{self._path}: the slide is closed; open it again")
        if self._lock is None:
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""

    def size(self) -> int:
        """Of the file now, bytes."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def in_words(error: Exception) -> str:
    """What a decoder says is wrong, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
