"""Boxes of pixels from tiles: one reader for tiled files and for slide stores. Frame: pixels of one level.

`read_box` copies from decoded tiles; each tile is decoded once and kept in a cache that all slides share. A subclass
fetches and decodes one tile. No lock is held while bytes are read or decoded, so threads work in parallel.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from functools import partial

import numpy as np

from wsikit.errors import ReadError, RequestError
from wsikit.slides.base import WHITE, BaseSlide, MppLike, Pixels, Size, SlideInfo
from wsikit.slides.memory import borrowed
from wsikit.slides.scenes import SceneLike
from wsikit.slides.tile_cache import TileCache

_SURE_BYTES = 1 << 20
"""Tiles of more bytes than this are read only if the file is long enough."""


class TileReader(ABC):
    """Levels of pixels that are stored as tiles.

    A subclass implements `path`, `level_dimensions`, `tile_px` and `_decode_tile`. It is a slide (`TiledFileSlide`)
    or the levels of a store.
    """

    _cache = TileCache()
    """Shared by all slides of the process, so that memory is bounded for all of them together."""

    def __init__(self) -> None:
        self._forget_tiles()

    @property
    @abstractmethod
    def path(self) -> str:
        """Of the slide, for error messages."""

    @property
    @abstractmethod
    def level_dimensions(self) -> tuple[Size, ...]:
        """Width and height of each level, px, finest first."""

    @abstractmethod
    def tile_px(self, level: int) -> Size:
        """Width and height of the tiles of `level`, px."""

    @abstractmethod
    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        """One whole tile, uint8 (tile height, tile width, 3), or ReadError."""

    def tile(self, level: int, column: int, row: int, *, keep: bool = True) -> Pixels:
        """One whole tile, uint8 (tile height, tile width, 3), read-only because it is shared.

        If two threads request the same tile, it is decoded once. With `keep` False, the tile will not be needed again
        and does not stay in the cache.

        Raises
        ------
        ReadError
            The tile cannot be read or decoded.
        """
        decode = partial(self._decode_tile, level, column, row)
        return self._cache.get_or_make((self._owner, level, column, row), decode, keep=keep)

    def passing_tile(self, level: int, column: int, row: int, scratch: Pixels, *, keep: bool) -> Pixels:
        """`tile` where nothing else requests the same tile at the same time. Without `keep` it is decoded to `scratch`,
        uint8 (tile height, tile width, 3), where that is possible."""
        key = (self._owner, level, column, row)
        known = self._cache.get(key) if keep else self._cache.take(key)
        if known is not None:
            return known
        pixels = borrowed(scratch.shape, for_jpeg=True) if keep else scratch
        if not self._decode_to(level, column, row, pixels):
            return self.tile(level, column, row, keep=keep)
        if keep:
            pixels.flags.writeable = False  # all readers share it
            self._cache.put(key, pixels)
        return pixels

    def _decode_to(self, level: int, column: int, row: int, scratch: Pixels) -> bool:
        """Decode a whole tile to `scratch`. False if `_decode_tile` must do it: `scratch` is then undefined.

        A reader implements it for its plainest tiles only; whatever is special about a tile is left to `_decode_tile`.
        """
        return False

    def read_box(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """Pixels of a box (x, y, width, height) in px of `level`: uint8 (height, width, 3), or ReadError.

        Outside the level the pixels are white.
        """
        x, y, width, height = box
        level_width, level_height = self.level_dimensions[level]
        tile_width, tile_height = self.tile_px(level)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, level_width), min(y + height, level_height)
        inside = (right - left, bottom - top) == (width, height)
        pixels = np.empty((height, width, 3), np.uint8) if inside else np.full((height, width, 3), WHITE, np.uint8)
        if right <= left or bottom <= top:
            return pixels
        for row in range(top // tile_height, (bottom - 1) // tile_height + 1):
            upper, lower = max(top, row * tile_height), min(bottom, (row + 1) * tile_height)
            for column in range(left // tile_width, (right - 1) // tile_width + 1):
                first, last = max(left, column * tile_width), min(right, (column + 1) * tile_width)
                # a neighbouring box may need a tile that is only partly in this one
                keep = (last - first, lower - upper) != (tile_width, tile_height)
                decode = partial(self._decode_tile, level, column, row)
                tile = self._cache.get_or_make((self._owner, level, column, row), decode, keep=keep)
                pixels[upper - y : lower - y, first - x : last - x] = tile[
                    upper - row * tile_height : lower - row * tile_height,
                    first - column * tile_width : last - column * tile_width,
                ]
        return pixels

    def drop_tiles(self) -> None:
        """Release the memory of decoded tiles that are kept for later reads, which will decode them again."""
        owner = self._owner
        self._cache.drop(lambda key: isinstance(key, tuple) and key[0] is owner)

    def _forget_tiles(self) -> None:
        """Cached tiles are no longer used, and leave the cache; one that is being decoded leaves it later."""
        owner, self._owner = getattr(self, "_owner", None), object()
        if owner is not None:
            self._cache.drop(lambda key: isinstance(key, tuple) and key[0] is owner)

    def _bytes(self, file: PositionedFile, level: int, column: int, row: int, offset: int, count: int) -> bytes:
        """The bytes of a tile; ReadError if the file ends before the tile does."""
        try:
            # reading allocates memory for `count` bytes, which a damaged file can state as 4 GB
            found = b"" if count > _SURE_BYTES and offset + count > file.size() else file.read(offset, count)
        except OSError as error:
            raise self._read_error(level, column, row, f"the file cannot be read: {error.strerror}") from error
        if len(found) < count:
            fault = f"the file ends at byte {file.size()}, before the tile does"
            raise self._read_error(level, column, row, fault)
        return found

    def _read_error(self, level: int, column: int, row: int, reason: str) -> ReadError:
        """The error for a tile, with the place that it covers."""
        level_width, level_height = self.level_dimensions[level]
        tile_width, tile_height = self.tile_px(level)
        x, y = column * tile_width, row * tile_height
        width, height = min(tile_width, level_width - x), min(tile_height, level_height - y)
        return ReadError(self.path, level, (x, y, width, height), reason)


class TiledFileSlide(BaseSlide, TileReader):
    """A slide in one file, all of whose levels consist of tiles that wsikit decodes itself."""

    read_box = TileReader.read_box

    def __init__(
        self,
        info: SlideInfo,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        BaseSlide.__init__(self, info, mpp=mpp, mpp_source=mpp_source, scene=scene)
        TileReader.__init__(self)
        self._file = PositionedFile(info.path)
        try:
            self._check_readable()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()
        self._forget_tiles()


class PositionedFile:
    """Reads at a byte offset: in parallel from any thread where the system has `pread`, otherwise one at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._lock = None if hasattr(os, "pread") else threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file. RequestError if it is closed."""
        if self._file.closed:
            raise RequestError(f"{self._path}: the slide is closed; open it again")
        if self._lock is None:
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """As `read`, into a writable buffer; the number of bytes read, fewer at the end of the file."""
        if self._lock is None and hasattr(os, "preadv") and not self._file.closed:
            return os.preadv(self._file.fileno(), [buffer], offset)
        found = self.read(offset, len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def size(self) -> int:
        """Size of the file now, bytes."""
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()


def in_words(error: Exception) -> str:
    """A decoder's error message on one line."""
    return " ".join(str(error).split()) or type(error).__name__
