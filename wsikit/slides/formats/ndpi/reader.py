"""Hamamatsu NDPI, tile by tile. Positions are px of the level read; only levels that are in the file.

A tile consists of the JPEG header of the level and the restart intervals of one column, 256 px high: the scanner's
coefficients, unchanged. A store keeps, and this reader decodes, the same bytes.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from wsikit.slides import jpeg
from wsikit.slides.base import MppLike, Pixels
from wsikit.slides.encoded_tiles import TileSource
from wsikit.slides.formats.ndpi.layout import open_ndpi, read_ndpi_layout
from wsikit.slides.formats.tiff.page import read_associated
from wsikit.slides.tile_reader import TiledFileSlide

_EOI = b"\xff\xd9"


class NdpiSlide(TiledFileSlide):
    """An NDPI, read by its restart intervals.

    If chroma is stored at half the width or height, a decoder interpolates it from neighbouring px: the outermost px at
    the edges of a tile then differ slightly from a decode of the whole level. This affects only edges at the end of a
    restart interval: left and right edges if chroma has half the width (4:2:2) and a row has several intervals, upper
    and lower edges if it has half the height (4:2:0). OpenSlide has the same differences at the end of each interval.
    With 4:4:4, and with 4:2:2 and one interval per row, there is no difference.

    A level without restart markers is one tile if it has at most 16 million px. Files with larger ones, and files
    whose restart markers are not aligned in columns, are read by the reader `openslide`.
    """

    reader: ClassVar[str] = "ndpi"

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        self._layout = read_ndpi_layout(path, self.reader)
        super().__init__(self._layout.info, mpp=mpp, mpp_source=mpp_source)

    def tile_px(self, level: int) -> tuple[int, int]:
        return self._layout.levels[level].tile_width, self._layout.levels[level].tile_height

    def tile_source(self, level: int) -> TileSource:
        """Common properties of the tiles of `level`: complete JPEG streams, assembled from the file's intervals."""
        layout = self._layout.levels[level]
        return TileSource(self.tile_px(level), rewrapped=not layout.whole, subsampled=layout.subsampled)

    def encoded_tile(self, level: int, column: int, row: int) -> bytes:
        """One tile as a complete JPEG of the full tile size; ReadError if an interval is missing or damaged.

        Below the lower edge of the level, the last interval is repeated; these rows are outside the level.
        """
        layout = self._layout.levels[level]
        if layout.whole:
            return self._bytes(self._file, level, column, row, int(layout.offsets[0]), int(layout.counts[0]))
        pieces = self._intervals(level, column, row)
        pieces += [pieces[-1]] * (layout.intervals_per_tile - len(pieces))
        stream = [layout.head]
        for number, piece in enumerate(pieces):
            stream += (piece, bytes((0xFF, 0xD0 + number % 8)))
        stream[-1] = _EOI
        return b"".join(stream)

    def _intervals(self, level: int, column: int, row: int) -> list[bytes]:
        """Coded data of the intervals of a tile, top to bottom, without their end markers."""
        layout = self._layout.levels[level]
        first = row * layout.intervals_per_tile
        rows = range(first, min(first + layout.intervals_per_tile, layout.intervals_down))
        numbers = np.arange(rows.start, rows.stop) * layout.intervals_across + column
        offsets, counts = layout.offsets[numbers], layout.counts[numbers]
        if layout.intervals_across == 1:  # they are contiguous: one read
            start, size = int(offsets[0]), int(offsets[-1] + counts[-1] - offsets[0])
            span = self._bytes(self._file, level, column, row, start, size)
            found = [span[offset - start :][:count] for offset, count in zip(offsets.tolist(), counts.tolist())]
        else:
            places = zip(offsets.tolist(), counts.tolist())
            found = [self._bytes(self._file, level, column, row, offset, count) for offset, count in places]
        return [self._without_mark(level, column, row, number, data) for number, data in zip(numbers.tolist(), found)]

    def _without_mark(self, level: int, column: int, row: int, number: int, data: bytes) -> bytes:
        """An interval without its end marker; ReadError if the marker is not the expected one."""
        if number == len(self._layout.levels[level].offsets) - 1:
            mark, data = _EOI, data.rstrip(b"\0")
        else:
            mark = bytes((0xFF, 0xD0 + number % 8))
        if not data.endswith(mark):
            raise self._read_error(level, column, row, f"restart interval {number} is damaged: its end mark is missing")
        return data[:-2]

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        stream = self.encoded_tile(level, column, row)
        try:
            pixels = jpeg.decode(stream, self.tile_px(level))
        except jpeg.JpegError as error:
            raise self._read_error(level, column, row, str(error)) from error
        if pixels.shape[1::-1] != self.tile_px(level):
            fault = f"the JPEG holds {pixels.shape[1]}×{pixels.shape[0]} px"
            raise self._read_error(level, column, row, fault)
        return pixels

    def _read_associated(self, name: str) -> Pixels:
        assert self._layout.macro_page is not None
        with open_ndpi(self.path) as tiff:
            return read_associated(self.path, name, tiff, tiff.pages[self._layout.macro_page].aspage())
