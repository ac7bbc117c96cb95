"""Access to the encoded tiles of a slide file, so that a store can keep the scanner's bytes unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Codec = Literal["jpeg", "jpeg2k"]

REDUCED_FROM_FINER = frozenset({"aperio", "huron"})
"""Vendors whose pyramids may leave out coarse tiles, which are then the reduced pixels of the finer level."""


@dataclass(frozen=True)
class TileSource:
    """Properties common to all encoded tiles of one level, if each tile can be decoded on its own."""

    tile_px: tuple[int, int]
    """Width and height of every tile, px."""
    codec: Codec = "jpeg"
    channels: int = 3
    """3, or 1 for grey tiles."""
    tables: bytes | None = None
    """TIFF's JPEGTables (SOI, tables, EOI), which the tiles themselves lack, or None."""
    rgb: bool = False
    """The container states that the components of a JPEG are R, G, B."""
    rewrapped: bool = False
    """The tiles are assembled from pieces of the file's streams (NDPI): the coefficients are the scanner's, the headers
    are new."""
    subsampled: bool = False
    """Chroma has fewer px than luma in tiles cut from a larger JPEG: a decoder of the whole image would also use px
    beyond the borders of a tile."""


@runtime_checkable
class EncodedTiles(Protocol):
    """A slide that gives access to its tiles as they are stored, so that a store can keep them byte for byte."""

    def tile_source(self, level: int) -> TileSource | None:
        """Common properties of the tiles of `level`; None if they cannot be decoded one by one."""

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """One tile as it is stored; None if the file stores none there; ReadError if its bytes cannot be read."""


@runtime_checkable
class EncodedRows(EncodedTiles, Protocol):
    """A slide whose neighbouring tiles are mostly contiguous in the file, so that one read fetches several."""

    def encoded_row(self, level: int, columns: Sequence[int], row: int) -> list[bytes | memoryview | None]:
        """`encoded_tile` of several tiles of a row, columns ascending; ReadError if any of them cannot be read."""


@dataclass(frozen=True)
class TileRanges:
    """Where the tiles of a level are in the slide's file, by row and column: int64 (rows, columns)."""

    offsets: npt.NDArray[np.int64]
    """First byte of each tile."""
    counts: npt.NDArray[np.int64]
    """Number of bytes of each tile; 0 where only `encoded_tile` knows what is there."""


@runtime_checkable
class EncodedRanges(EncodedTiles, Protocol):
    """A slide whose encoded tiles are byte ranges of one file, so that many are fetched at a time without a copy."""

    def tile_ranges(self, level: int) -> TileRanges:
        """The byte ranges of the tiles of `level`, as `encoded_tile` reads them."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from byte `offset` of the file; number of bytes read, fewer at its end. OSError."""
