"""Tiles as a slide file stores them: what a reader hands out so that a store keeps the scanner's own bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Codec = Literal["jpeg", "jpeg2k"]


@dataclass(frozen=True)
class TileSource:
    """What all stored tiles of one level of a file share, if each can stand for itself."""

    tile_px: tuple[int, int]
    """Width and height that every tile must have."""
    codec: Codec = "jpeg"
    channels: int = 3
    """3, or 1 for grey tiles."""
    tables: bytes | None = None
    """TIFF's JPEGTables (SOI, tables, EOI) that the tiles lack, or None."""
    rgb: bool = False
    """The container says that a JPEG's components are R, G, B."""
    rewrapped: bool = False
    """The tiles are put together from pieces of the file's streams (NDPI): their coefficients are the scanner's, their
    headers are not."""
    subsampled: bool = False
    """Such tiles hold colour at fewer px than light: a decoder of the whole image would look beyond their borders."""


@runtime_checkable
class EncodedTiles(Protocol):
    """A slide that can hand out its tiles as they are stored, so that a store keeps them byte for byte."""

    def tile_source(self, level: int) -> TileSource | None:
        """What the tiles of `level` share; None if they are not such that each can stand for itself."""

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """One tile as it is stored, None where the file stores none; ReadError if its bytes cannot be read."""


@runtime_checkable
class EncodedRows(EncodedTiles, Protocol):
    """One whose neighbouring tiles mostly lie one behind the other in the file, so that they are fetched together."""

    def encoded_row(self, level: int, columns: Sequence[int], row: int) -> list[bytes | memoryview | None]:
        """`encoded_tile` of several tiles of a row, in rising columns; ReadError if any of them cannot be read."""
