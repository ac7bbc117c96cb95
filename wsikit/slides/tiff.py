"""Tiled TIFF slides (SVS, OME-TIFF, generic), tile by tile. Places are px of the level read.

tifffile gives the structure, positioned reads fetch the bytes, JPEG is decoded strictly and all else by imagecodecs.
No lock is held while reading or decoding, so threads run side by side. Decoded tiles are kept in a bounded cache.
"""

from __future__ import annotations

import os
import threading
from typing import ClassVar

import numpy as np
import tifffile

from wsikit.errors import ReadError, RequestError
from wsikit.slides import jpeg
from wsikit.slides.base import WHITE, BaseSlide, MppLike, Pixels
from wsikit.slides.encoded import TileSource
from wsikit.slides.pixels import to_rgb, ycbcr_to_rgb
from wsikit.slides.region import RegionPlan, resample
from wsikit.slides.tiff_layout import GREY_0_IS_WHITE, JPEG, JPEG_2000, RGB, TiffLevel, read_layout
from wsikit.slides.tiff_page import read_associated
from wsikit.slides.tiles import TileCache, mosaic

_J2K_END = b"\xff\xd9"


class TiffSlide(BaseSlide):
    """A tiled TIFF slide, read from its own tiles: exact at every level."""

    reader: ClassVar[str] = "tiff"

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        layout = read_layout(path, self.reader)
        super().__init__(layout.info, mpp=mpp, mpp_source=mpp_source)
        self._layout = layout
        self._file = _PositionedFile(path)
        self._tiles = TileCache()
        try:
            self._check_readable()
        except BaseException:
            self.close()
            raise

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""
        return self._layout.levels[level].tile_width, self._layout.levels[level].tile_height

    def tile_source(self, level: int) -> TileSource | None:
        """What the JPEG tiles of `level` share; None if they are of another kind, grey, or split by channel."""
        layout = self._layout.levels[level]
        if layout.compression != JPEG or layout.planes > 1 or layout.grey:
            return None
        return TileSource(self.tile_px(level), tables=layout.jpeg_tables, rgb=layout.photometric == RGB)

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """The bytes of one tile as the file stores them; None where it stores none.

        Raises
        ------
        RequestError
            The tile's channels are stored apart, so that no bytes stand for the whole tile.
        ReadError
            The file ends before the tile does.
        """
        layout = self._layout.levels[level]
        if layout.planes > 1:
            raise RequestError(f"{self.path}: level {level} stores each channel apart; its tiles cannot be passed on")
        return self._fetch(level, column, row, layout.tile_number(column, row))

    def close(self) -> None:
        self._file.close()
        self._tiles = TileCache()

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        return mosaic((x, y, width, height), self.tile_px(level), lambda column, row: self._tile(level, column, row))

    def _read_associated(self, name: str) -> Pixels:
        number = self._layout.associated_series[name]
        with tifffile.TiffFile(self.path) as tiff:
            return read_associated(self.path, name, tiff, tiff.series[number].keyframe)

    def _tile(self, level: int, column: int, row: int) -> Pixels:
        """One whole tile, uint8 (tile height, tile width, 3); shared, so not to be written to."""
        key = (level, column, row)
        tile = self._tiles.get(key)
        if tile is None:
            tile = self._decode_tile(level, column, row)
            tile.flags.writeable = False
            self._tiles.put(key, tile)
        return tile

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        layout = self._layout.levels[level]
        planes = []
        for plane in range(layout.planes):
            number = layout.tile_number(column, row, plane)
            encoded = self._fetch(level, column, row, number)
            if encoded is None:
                return self._missing_tile(level, column, row)
            planes.append(self._decode(level, column, row, number, encoded))
        samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        if layout.ycbcr:
            samples = ycbcr_to_rgb(samples)
        if samples.dtype == np.uint8 and samples.shape[2] == 3:
            return np.ascontiguousarray(samples)
        return to_rgb(samples, white_level=self._layout.white_level, inverted=layout.photometric == GREY_0_IS_WHITE)

    def _decode(self, level: int, column: int, row: int, number: int, encoded: bytes) -> np.ndarray:
        """Samples (tile height, tile width, channels) of one stored tile."""
        layout = self._layout.levels[level]
        try:
            if layout.compression == JPEG:
                rgb = layout.photometric == RGB and layout.planes == 1
                stream = jpeg.self_contained(encoded, layout.jpeg_tables, rgb=rgb)
                samples = jpeg.decode(stream, self.tile_px(level), grey=layout.grey)
            else:
                samples = _decode_other(layout, number, encoded)
            return _full_tile(samples, column, row, layout)
        except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
            words = " ".join(str(error).split()) or type(error).__name__
            raise self._read_error(level, column, row, words) from error

    def _missing_tile(self, level: int, column: int, row: int) -> Pixels:
        """A tile that the file leaves out on purpose: white; in an Aperio pyramid, what the finer level shows there."""
        layout = self._layout.levels[level]
        if level == 0 or self.info.vendor != "aperio":
            return np.full((layout.tile_height, layout.tile_width, 3), WHITE, dtype=np.uint8)
        finer = self._layout.levels[level - 1]
        step_x, step_y = finer.width / layout.width, finer.height / layout.height
        left, top = column * layout.tile_width * step_x, row * layout.tile_height * step_y
        right, bottom = left + layout.tile_width * step_x, top + layout.tile_height * step_y
        x, y = int(left), int(top)
        box = (x, y, int(np.ceil(right)) - x, int(np.ceil(bottom)) - y)
        plan = RegionPlan(level - 1, box, (left - x, top - y, right - x, bottom - y), self.tile_px(level))
        return resample(self.read_box(plan.level, plan.box), plan.crop, plan.out).copy()

    def _fetch(self, level: int, column: int, row: int, number: int) -> bytes | None:
        layout = self._layout.levels[level]
        offset, count = int(layout.offsets[number]), int(layout.counts[number])
        if count == 0:
            return None
        try:
            encoded = self._file.read(offset, count)
        except OSError as error:
            raise self._read_error(level, column, row, f"the file cannot be read: {error.strerror}") from error
        if len(encoded) < count:
            fault = f"the file ends at byte {offset + len(encoded)}, before the tile does"
            raise self._read_error(level, column, row, fault)
        return encoded

    def _read_error(self, level: int, column: int, row: int, reason: str) -> ReadError:
        layout = self._layout.levels[level]
        x, y = column * layout.tile_width, row * layout.tile_height
        width, height = min(layout.tile_width, layout.width - x), min(layout.tile_height, layout.height - y)
        return ReadError(self.path, level, (x, y, width, height), reason)


def _decode_other(layout: TiffLevel, number: int, encoded: bytes) -> np.ndarray:
    """Samples (h, w, channels) of a tile that is not JPEG.

    Deflate and Zstandard notice damage by themselves. A JPEG 2000 stream that was cut short decodes to a blurred
    picture without a word, so its end mark is looked for. WebP, LZW and plain tiles carry nothing to check.
    """
    if layout.compression in JPEG_2000 and not encoded.rstrip(b"\0").endswith(_J2K_END):
        raise ValueError("the JPEG 2000 stream ends too early")
    decoded, _, _ = layout.decode(encoded, number)
    assert decoded is not None
    samples: np.ndarray = decoded[0]
    return samples


def _full_tile(samples: np.ndarray, column: int, row: int, layout: TiffLevel) -> np.ndarray:
    """Some writers shorten the tiles at the right and lower edge: fill them up. What is added lies outside."""
    height, width = samples.shape[:2]
    if (width, height) == (layout.tile_width, layout.tile_height):
        return samples
    needed_width = min(layout.tile_width, layout.width - column * layout.tile_width)
    needed_height = min(layout.tile_height, layout.height - row * layout.tile_height)
    if not (needed_width <= width <= layout.tile_width and needed_height <= height <= layout.tile_height):
        raise ValueError(f"the tile holds {width}×{height} px where {needed_width}×{needed_height} px are expected")
    rest = ((0, layout.tile_height - height), (0, layout.tile_width - width), (0, 0))
    return np.pad(samples, rest, mode="edge")


class _PositionedFile:
    """Reads at a byte offset, from any thread at once where the system can (pread), else one after the other."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self._lock = None if hasattr(os, "pread") else threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        if self._file.closed:
            raise RequestError(f"{self._path}: the slide is closed; open it again")
        if self._lock is None:
            return os.pread(self._file.fileno(), count, offset)
        with self._lock:
            self._file.seek(offset)
            return self._file.read(count) or b""

    def close(self) -> None:
        self._file.close()
