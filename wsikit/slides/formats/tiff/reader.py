"""Tiled TIFF slides (SVS, OME-TIFF, Philips, generic), tile by tile. Positions are px of the level read.

tifffile gives the structure, bytes are read by offset, JPEG is decoded strictly, other codecs by imagecodecs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import imagecodecs
import numpy as np
import tifffile

from wsikit.errors import BrokenSlideError, ReadError, RequestError
from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.base import WHITE, MppLike, Pixels
from wsikit.slides.encoded_tiles import REDUCED_FROM_FINER, TileRanges, TileSource
from wsikit.slides.formats.tiff import philips
from wsikit.slides.formats.tiff.codecs import COMPRESSIONS, JPEG, JPEG_2000, LZW, lzw_is_longer
from wsikit.slides.formats.tiff.layout import TiffLevel, level_notes, read_layout
from wsikit.slides.formats.tiff.page import read_associated
from wsikit.slides.formats.tiff.samples import RGB, YCBCR
from wsikit.slides.region import RegionPlan, resample
from wsikit.slides.scenes import SceneLike
from wsikit.slides.tile_reader import TiledFileSlide, in_words

_TRIED_HEADERS = 8
"""Number of tiles of a level that are tried to find one with a readable header."""

_TRIED_ALPHAS = 256
"""Number of tiles of the coarsest level in which an alpha channel is looked for, spread evenly."""

_NO_BYTES = "the file has a place for the tile but no bytes, or bytes but no place"

_GAP_BYTES = 1 << 16
"""Largest total gap between tiles that are fetched with one read, bytes."""


class TiffSlide(TiledFileSlide):
    """A tiled TIFF slide, read tile by tile: exact at every level."""

    reader: ClassVar[str] = "tiff"

    has_scenes: ClassVar[bool] = True

    def __init__(
        self,
        path: str,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        self._layout = read_layout(path, self.reader, scene)
        if not any(level.counts.any() for level in self._layout.levels):
            raise BrokenSlideError(
                f"{path}: none of its tiles is stored in the file, which was probably not written to the end. Copy or "
                "export it again."
            )
        super().__init__(self._layout.info, mpp=mpp, mpp_source=mpp_source, scene=scene)
        self._drop_empty_alpha()

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""
        return self._layout.levels[level].tile_width, self._layout.levels[level].tile_height

    def tile_source(self, level: int) -> TileSource | None:
        """Common properties of the tiles of `level`; None if a JPEG or JPEG 2000 decoder alone gives other pixels.

        That is the case for other codecs, for channels stored separately, for samples that are not plain 8-bit grey
        or RGB, and for JPEG and JPEG 2000 whose streams do not state their colours, or wrong ones (Aperio's 33003).
        """
        found = self._sources[level]
        return None if isinstance(found, str) else found

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the tiles of `level` as they are, as the end of a sentence; None if it can."""
        found = self._sources[level]
        return found if isinstance(found, str) else None

    def stored_tiles(self, level: int) -> list[tuple[int, int]]:
        """The tiles (column, row) of `level` that the file stores and that are within the level, row by row."""
        layout = self._layout.levels[level]
        columns, rows = -(-layout.width // layout.tile_width), -(-layout.height // layout.tile_height)
        stored = layout.counts[: layout.stored_columns * layout.stored_rows].reshape(layout.stored_rows, -1)
        return [(int(column), int(row)) for row, column in np.argwhere(stored[:rows, :columns] > 0)]

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """The bytes of one tile as the file stores them; None if it stores none.

        Raises
        ------
        RequestError
            The channels are stored separately, so that no single byte range contains the tile.
        ReadError
            The file ends before the tile does.
        """
        layout = self._layout.levels[level]
        if layout.planes > 1:
            raise RequestError(
                f"{self.path}: level {level} stores each channel separately; its tiles cannot be passed through"
            )
        number = layout.tile_number(column, row)
        offset, count = layout.byte_range(number)
        if layout.lost[number] and not self._shows_finer(level):
            raise self._read_error(level, column, row, _NO_BYTES)
        return self._bytes(self._file, level, column, row, offset, count) if count else None

    def encoded_row(self, level: int, columns: Sequence[int], row: int) -> list[bytes | memoryview | None]:
        """`encoded_tile` of several tiles of a row, columns ascending, with one read if they are contiguous."""
        layout = self._layout.levels[level]
        numbers = [layout.tile_number(column, row) for column in columns]
        offsets, counts = layout.offsets[numbers].tolist(), layout.counts[numbers].tolist()
        stored = [(offset, offset + count) for offset, count in zip(offsets, counts, strict=True) if count]
        start, stop = min(stored, default=(0, 0))[0], max((end for _, end in stored), default=0)
        lost = bool(layout.lost[numbers].any())
        if layout.planes > 1 or lost or stop - start > sum(counts) + _GAP_BYTES:
            return [self.encoded_tile(level, column, row) for column in columns]
        block = memoryview(self._bytes(self._file, level, columns[0], row, start, stop - start))
        return [
            block[offset - start : offset - start + count] if count else None
            for offset, count in zip(offsets, counts, strict=True)
        ]

    def tile_ranges(self, level: int) -> TileRanges:
        """The byte ranges of the tiles of `level`, by row and column; no bytes where the file stores no tile."""
        layout = self._layout.levels[level]
        shape = (layout.stored_rows, layout.stored_columns)
        return TileRanges(*(part[: shape[0] * shape[1]].reshape(shape) for part in (layout.offsets, layout.counts)))

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from byte `offset` of the file; number of bytes read, fewer at its end."""
        return self._file.read_into(buffer, offset)

    @cached_property
    def _sources(self) -> tuple[TileSource | str, ...]:
        """Per level, the properties of its tiles, or why they cannot be passed through."""
        return tuple(self._source(level) for level in range(len(self._layout.levels)))

    def _source(self, level: int) -> TileSource | str:
        layout = self._layout.levels[level]
        codec = COMPRESSIONS[layout.compression]
        if layout.compression != JPEG and layout.compression not in JPEG_2000:
            return "its pixels are not compressed" if codec == "none" else f"its tiles are {codec}, not JPEG"
        if layout.planes > 1:
            return "its channels are stored in separate tiles"
        if layout.samples.not_plain is not None:
            return layout.samples.not_plain
        if not layout.coded.passes:
            why = (layout.coded.note or "they are lossless JPEG").rstrip(".")
            return f"its {codec} streams alone do not state its colours ({why})"
        channels = 1 if layout.grey else 3
        if layout.compression == JPEG:
            rgb = layout.photometric == RGB
            return TileSource(self.tile_px(level), channels=channels, tables=layout.jpeg_tables, rgb=rgb)
        head = self._jpeg2k_head(level)
        if head is None:
            return "no header of its JPEG 2000 tiles can be read"
        if head.bits != 8 or head.signed:
            return f"its JPEG 2000 tiles have {head.bits or 'different'} bits per sample, not 8"
        if head.subsampled:
            return "its JPEG 2000 tiles hold colour at a lower resolution"
        if head.components != channels:
            return f"its JPEG 2000 tiles have {head.components} channels where {channels} are expected"
        if layout.photometric == YCBCR and not head.own_transform:
            return "its JPEG 2000 tiles are YCbCr without stating it"
        return TileSource(self.tile_px(level), codec="jpeg2k", channels=channels)

    def _jpeg2k_head(self, level: int) -> jpeg2k.Head | None:
        """Header of the first readable tile of a level: all tiles of a level come from one encoder."""
        layout = self._layout.levels[level]
        for number in np.flatnonzero(layout.counts)[:_TRIED_HEADERS]:
            row, column = divmod(int(number), layout.stored_columns)
            try:
                head = jpeg2k.read_head(self._bytes(self._file, level, column, row, *layout.byte_range(int(number))))
            except ReadError:
                continue
            if head is not None:
                return head
        return None

    def _read_associated(self, name: str) -> Pixels:
        if self.info.vendor == "philips":
            return philips.read_associated(self.path, name)
        number = self._layout.associated_pages[name]
        with tifffile.TiffFile(self.path) as tiff:
            return read_associated(self.path, name, tiff, tiff.pages[number].aspage())

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        layout = self._layout.levels[level]
        planes = []
        for plane in range(layout.planes):
            number = layout.tile_number(column, row, plane)
            offset, count = layout.byte_range(number)
            if not count:
                if layout.lost[number] and not self._shows_finer(level):
                    raise self._read_error(level, column, row, _NO_BYTES)
                return self._missing_tile(level, column, row)
            encoded = self._bytes(self._file, level, column, row, offset, count)
            planes.append(self._decode(level, column, row, number, encoded))
        samples = planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)
        try:
            return layout.samples.to_rgb(samples)
        except ValueError as error:
            raise self._read_error(level, column, row, in_words(error)) from error

    def _decode_to(self, level: int, column: int, row: int, scratch: Pixels) -> bool:
        layout = self._layout.levels[level]
        if not layout.plain_jpeg:
            return False
        offset, count = layout.byte_range(layout.tile_number(column, row))
        if not count:
            return False
        encoded = self._bytes(self._file, level, column, row, offset, count)
        try:
            stream = jpeg.self_contained(encoded, layout.jpeg_tables, rgb=layout.photometric == RGB)
        except jpeg.JpegError:
            return False
        return jpeg.decode_to(stream, scratch)

    def _decode(self, level: int, column: int, row: int, number: int, encoded: bytes) -> np.ndarray:
        """Samples (tile height, tile width, channels) of one stored tile."""
        layout = self._layout.levels[level]
        try:
            if layout.compression == JPEG:
                rgb = layout.photometric == RGB and layout.planes == 1
                stream = jpeg.self_contained(encoded, layout.jpeg_tables, rgb=rgb)
                if layout.coded.restated is not None:
                    stream = jpeg.restated(stream, rgb=layout.coded.restated == "rgb")
                samples = jpeg.decode(stream, self.tile_px(level), grey=layout.grey)
            else:
                samples = _decode_other(layout, number, encoded)
            return _full_tile(samples, column, row, layout)
        except Exception as error:  # the decoders raise errors of many kinds for damaged bytes
            raise self._read_error(level, column, row, in_words(error)) from error

    def _missing_tile(self, level: int, column: int, row: int) -> Pixels:
        """A tile that is intentionally not stored: white; for some vendors, reduced pixels of the finer level."""
        layout = self._layout.levels[level]
        if not self._shows_finer(level):
            return np.full((layout.tile_height, layout.tile_width, 3), WHITE, dtype=np.uint8)
        finer = self._layout.levels[level - 1]
        step_x, step_y = finer.width / layout.width, finer.height / layout.height
        left, top = column * layout.tile_width * step_x, row * layout.tile_height * step_y
        right, bottom = left + layout.tile_width * step_x, top + layout.tile_height * step_y
        x, y = int(left), int(top)
        box = (x, y, int(np.ceil(right)) - x, int(np.ceil(bottom)) - y)
        plan = RegionPlan(level - 1, box, (left - x, top - y, right - x, bottom - y), self.tile_px(level))
        return resample(self.read_box(plan.level, plan.box), plan.crop, plan.out).copy()

    def _shows_finer(self, level: int) -> bool:
        """Whether a tile without bytes is one that the writer left out, because the finer level has its pixels."""
        return level > 0 and self.info.vendor in REDUCED_FROM_FINER

    def _drop_empty_alpha(self) -> None:
        """Not use an alpha channel that is 0 everywhere, though there are colours: no picture of glass has that."""
        last = len(self._layout.levels) - 1
        layout = self._layout.levels[last]
        if layout.samples.alpha is None:
            return
        coloured = False
        stored = np.flatnonzero(layout.counts[: layout.stored_columns * layout.stored_rows])
        for number in stored[:: max(1, len(stored) // _TRIED_ALPHAS)]:
            row, column = divmod(int(number), layout.stored_columns)
            try:
                alpha, colours = self._alpha_of(last, column, row)
            except ReadError:
                continue
            if alpha.any():
                return
            coloured = coloured or bool(colours.any())
        if coloured:
            levels = tuple(replace(level, samples=level.samples.without_alpha()) for level in self._layout.levels)
            of_images = [note for note in self._info.notes if note not in level_notes(self._layout.levels)]
            self._layout = replace(self._layout, levels=levels)
            self._info = replace(self._info, notes=(*of_images, *level_notes(levels)))
            self._forget_tiles()

    def _alpha_of(self, level: int, column: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples of a stored tile: alpha (h, w), colours (h, w, n)."""
        layout = self._layout.levels[level]
        numbers = [layout.tile_number(column, row, plane) for plane in range(layout.planes)]
        ranges = [(number, *layout.byte_range(number)) for number in numbers]
        planes = [
            self._decode(level, column, row, number, self._bytes(self._file, level, column, row, offset, count))
            for number, offset, count in ranges
        ]
        samples = np.concatenate(planes, axis=2)
        return samples[..., layout.samples.alpha or 0], samples[..., : layout.samples.colours]


def _decode_other(layout: TiffLevel, number: int, encoded: bytes) -> np.ndarray:
    """Samples (h, w, channels) of a tile that is not JPEG.

    Deflate, LZMA and PNG detect damage by a checksum, Zstandard if its writer added one. JPEG 2000, LZW and PackBits
    notice what their format forbids; damage that leaves possible data decodes to wrong pixels without a warning. WebP
    and uncompressed tiles have nothing to check.
    """
    if layout.compression in JPEG_2000:
        fault = jpeg2k.damage(encoded)
        if fault is not None:
            raise ValueError(fault)
        # tifffile refuses YCbCr whose size it cannot know, which the streams state themselves
        pixels: np.ndarray = np.asarray(imagecodecs.jpeg2k_decode(encoded))
        return pixels.reshape(*pixels.shape[:2], -1)
    if layout.compression == LZW and layout.decoded_bytes and lzw_is_longer(encoded, layout.decoded_bytes):
        raise ValueError("the LZW data hold more than a tile")
    decoded, _, _ = layout.decode(encoded, number)
    assert decoded is not None
    samples: np.ndarray = decoded[0]
    return samples


def _full_tile(samples: np.ndarray, column: int, row: int, layout: TiffLevel) -> np.ndarray:
    """Pad tiles at the right and lower edge, which some writers shorten. The padding is outside the level."""
    height, width = samples.shape[:2]
    if (width, height) == (layout.tile_width, layout.tile_height):
        return samples
    needed_width = min(layout.tile_width, layout.width - column * layout.tile_width)
    needed_height = min(layout.tile_height, layout.height - row * layout.tile_height)
    if not (needed_width <= width <= layout.tile_width and needed_height <= height <= layout.tile_height):
        raise ValueError(f"the tile holds {width}×{height} px where {needed_width}×{needed_height} px are expected")
    rest = ((0, layout.tile_height - height), (0, layout.tile_width - width), (0, 0))
    return np.pad(samples, rest, mode="edge")
