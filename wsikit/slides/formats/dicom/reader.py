"""DICOM slides: OpenSlide finds the levels; frames that can be decoded one by one are read and decoded here.

Positions are px of the level read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import ClassVar, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.base import WHITE, MppLike, Pixels
from wsikit.slides.encoded_tiles import TileSource
from wsikit.slides.formats.dicom import files as dicom_files
from wsikit.slides.formats.dicom.files import DicomFile, Frames
from wsikit.slides.formats.openslide import OpenSlideSlide
from wsikit.slides.tile_reader import PositionedFile, TileReader, in_words

_JPEG = "1.2.840.10008.1.2.4.50"
_PART_PX = (512, 512)
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")


class _Level(NamedTuple):
    """A level whose frames are its tiles."""

    source: TileSource
    file: PositionedFile
    frames: Frames
    grid: npt.NDArray[np.int64]
    """(rows, columns): number of the frame at each position; -1 if there is none."""


class DicomSlide(OpenSlideSlide, TileReader):
    """A DICOM slide, level by level.

    Frames of baseline JPEG and of JPEG 2000, 8 bits, one for each position of the level, are decoded here: pixels are
    exact at every level, damage is detected, and the colour space is that of the frame. (A file can state RGB although
    its frames are JFIF, which is YCbCr; OpenSlide follows the file.) OpenSlide reads everything else, including
    concatenations and several focal planes.
    """

    reader: ClassVar[str] = "dicom"
    has_scenes: ClassVar[bool] = False

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        TileReader.__init__(self)
        self._files: list[PositionedFile] = []
        OpenSlideSlide.__init__(self, path, mpp=mpp, mpp_source=mpp_source)

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the frames of `level`, px; of the squares in which it is read, if OpenSlide reads it."""
        found = self._levels[level]
        return found.source.tile_px if found else _PART_PX

    def tile_source(self, level: int) -> TileSource | None:
        """Common properties of the frames of `level`; None if OpenSlide reads it."""
        found = self._levels[level]
        return found.source if found else None

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """One frame as it is stored, including the byte that pads it to even length; None if there is none.

        Raises
        ------
        RequestError
            The frames of `level` are not its tiles.
        ReadError
            The file ends before the frame does, or the header of the frame is damaged.
        """
        found = self._frame_level(level)
        number = found.grid[row, column]
        if number < 0:
            return None
        start, end = int(found.frames.starts[number]), int(found.frames.ends[number])
        stored = self._bytes(found.file, level, column, row, start, end - start)
        try:
            return dicom_files.unwrap(stored)
        except ValueError as error:
            raise self._read_error(level, column, row, str(error)) from error

    def close(self) -> None:
        super().close()
        for file in self._files:
            file.close()
        self._forget_tiles()

    def read_box(self, level: int, box: tuple[int, int, int, int]) -> Pixels:
        """Pixels of a box (x, y, width, height) in px of `level`: uint8 (height, width, 3), white outside the level."""
        if self._levels[level] is None:
            return OpenSlideSlide.read_box(self, level, box)
        return TileReader.read_box(self, level, box)

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        found = self._levels[level]
        if found is None:
            return self._part(level, column, row)
        source = found.source
        encoded = self.encoded_tile(level, column, row)
        if encoded is None:
            return np.full((source.tile_px[1], source.tile_px[0], 3), WHITE, dtype=np.uint8)
        try:
            pixels = _decode(encoded, source)
        except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
            raise self._read_error(level, column, row, in_words(error)) from error
        if pixels.shape[:2] != source.tile_px[::-1]:
            fault = f"the frame holds {pixels.shape[1]}×{pixels.shape[0]} px"
            raise self._read_error(level, column, row, fault)
        return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)

    def _part(self, level: int, column: int, row: int) -> Pixels:
        x, y = column * _PART_PX[0], row * _PART_PX[1]
        width, height = self.level_dimensions[level]
        return self._read_level(level, x, y, min(_PART_PX[0], width - x), min(_PART_PX[1], height - y))

    def _frame_level(self, level: int) -> _Level:
        found = self._levels[level]
        if found is None:
            raise RequestError(f"{self.path}: the frames of level {level} are not its tiles; it is read by OpenSlide")
        return found

    @cached_property
    def _levels(self) -> tuple[_Level | None, ...]:
        """For each of OpenSlide's levels, the frames of the one file of its size. Found when the slide is opened."""
        files = [file for file in dicom_files.same_series(self.path) if file.is_level]
        levels = []
        for size in self.level_dimensions:
            fitting = [file for file in files if file.size == size]
            levels.append(self._level(fitting[0]) if len(fitting) == 1 else None)
        return tuple(levels)

    def _level(self, header: DicomFile) -> _Level | None:
        if header.several or header.bits != 8 or header.channels not in (1, 3):
            return None
        file = PositionedFile(header.path)
        self._files.append(file)
        grid, frames = _grid(file, header), dicom_files.find_frames(file, header)
        source = frames and _source(header, lambda: file.read(int(frames.starts[0]), 1 << 16))
        if grid is None or frames is None or source is None:
            return None
        return _Level(source, file, frames, grid)


def _grid(file: PositionedFile, header: DicomFile) -> npt.NDArray[np.int64] | None:
    """(rows, columns): number of the frame at each position, -1 for none. None if the frames are not on one grid."""
    shape = header.rows, header.columns
    positions = None if header.organisation == "TILED_FULL" else dicom_files.frame_positions(file, header)
    if positions is None:
        # no positions are stated: row by row, as in OpenSlide
        in_rows = header.organisation in ("TILED_FULL", "") and header.frames == shape[0] * shape[1]
        return np.arange(header.frames).reshape(shape) if in_rows else None
    x, y = positions.T
    column, row = x // header.tile_px[0], y // header.tile_px[1]
    inside = (x >= 0) & (y >= 0) & (column < shape[1]) & (row < shape[0])
    aligned = (x % header.tile_px[0] == 0) & (y % header.tile_px[1] == 0)
    grid = np.full(shape, -1, dtype=np.int64)
    if not (inside & aligned).all():
        return None
    grid[row, column] = np.arange(header.frames)
    # two frames at one position: other focal planes or colours
    return grid if (grid >= 0).sum() == header.frames else None


def _source(header: DicomFile, first_bytes: Callable[[], bytes]) -> TileSource | None:
    if header.transfer_syntax == _JPEG:
        return TileSource(header.tile_px, channels=header.channels, rgb=header.photometric == "RGB")
    if header.transfer_syntax not in _JPEG_2000:
        return None
    head = jpeg2k.read_head(first_bytes()[8:])
    if head is None or not head.plain or head.components != header.channels:
        return None
    if header.photometric.startswith("YBR") and not head.own_transform:
        return None
    return TileSource(header.tile_px, codec="jpeg2k", channels=header.channels)


def _decode(encoded: bytes, source: TileSource) -> Pixels:
    if source.codec == "jpeg":
        return jpeg.decode(
            jpeg.self_contained(encoded, None, rgb=source.rgb), source.tile_px, grey=source.channels == 1
        )
    if not jpeg2k.is_whole(encoded):
        raise ValueError("the JPEG 2000 stream ends too early")
    samples: Pixels = imagecodecs.jpeg2k_decode(encoded)
    return samples.reshape(*samples.shape[:2], -1)
