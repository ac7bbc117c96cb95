"""Hamamatsu NDPI, tile by tile. Places are px of the level read; only levels that the file really has.

A tile is the restart intervals of one column, 256 px high, one below the other behind the level's own JPEG head: the
scanner's coefficients, never decoded. So what a store keeps and what is read here are the same bytes.
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
    """An NDPI, read from its restart intervals.

    Where colour is stored at half the width or height, a decoder enlarges it by looking at the px beside: the outermost
    px at a tile's edges then differ a little from a decode of the whole level. Only edges at which the file has a
    restart interval's end are concerned: left and right ones if colour has half the width (4:2:2) and a row holds
    several intervals, upper and lower ones if it has half the height (4:2:0). OpenSlide shows the same at each
    interval's end. With 4:4:4, and 4:2:2 of one interval a row, there is no difference.

    A level without restart markers is one tile if it has at most 16 million px. Files with larger ones, and those
    whose restart markers do not stand in columns, are left to the reader `openslide`.
    """

    reader: ClassVar[str] = "ndpi"

    def __init__(self, path: str, *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        self._layout = read_ndpi_layout(path, self.reader)
        super().__init__(self._layout.info, mpp=mpp, mpp_source=mpp_source)

    def tile_px(self, level: int) -> tuple[int, int]:
        return self._layout.levels[level].tile_width, self._layout.levels[level].tile_height

    def tile_source(self, level: int) -> TileSource:
        """What the tiles of `level` share: they are whole JPEG streams, put together from the file's intervals."""
        layout = self._layout.levels[level]
        return TileSource(self.tile_px(level), rewrapped=not layout.whole, subsampled=layout.subsampled)

    def encoded_tile(self, level: int, column: int, row: int) -> bytes:
        """One tile as a JPEG of its own, of the full tile size; ReadError if an interval is missing or damaged.

        Below the level's lower edge its last interval is repeated: rows that lie outside.
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
        """Coded data of a tile's intervals, from above, without the markers that end them."""
        layout = self._layout.levels[level]
        first = row * layout.intervals_per_tile
        rows = range(first, min(first + layout.intervals_per_tile, layout.intervals_down))
        numbers = np.arange(rows.start, rows.stop) * layout.intervals_across + column
        offsets, counts = layout.offsets[numbers], layout.counts[numbers]
        if layout.intervals_across == 1:  # they lie one behind the other: one read
            start, size = int(offsets[0]), int(offsets[-1] + counts[-1] - offsets[0])
            span = self._bytes(self._file, level, column, row, start, size)
            found = [span[offset - start :][:count] for offset, count in zip(offsets.tolist(), counts.tolist())]
        else:
            places = zip(offsets.tolist(), counts.tolist())
            found = [self._bytes(self._file, level, column, row, offset, count) for offset, count in places]
        return [self._without_mark(level, column, row, number, data) for number, data in zip(numbers.tolist(), found)]

    def _without_mark(self, level: int, column: int, row: int, number: int, data: bytes) -> bytes:
        """An interval without the marker at its end, which must be the one that belongs there."""
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
