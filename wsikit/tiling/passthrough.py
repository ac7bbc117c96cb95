"""Pass-through: the encoded tiles of a slide become chunks byte for byte; fetched and checked, never decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from wsikit.errors import ReadError
from wsikit.slides.base import Slide
from wsikit.slides.encoded_tiles import REDUCED_FROM_FINER, EncodedRows, EncodedTiles, TileSource
from wsikit.slides.jpeg import JpegError
from wsikit.store.shards import Chunk
from wsikit.tiling.jpeg_headers import ChunkConverter, read_header
from wsikit.tiling.plan import TilePlan

logger = logging.getLogger(__name__)


@dataclass
class PassedTiles:
    """Result of passing tiles through."""

    chunks: list[Chunk | None]
    """One per requested tile; None where it could not be passed through."""
    rgb: bool = False
    """Whether the passed JPEG tiles are coded in R, G, B."""
    subsampling: tuple[int, int] = (1, 1)
    """Chroma subsampling of the passed JPEG tiles."""
    missing: int = 0
    """Tiles that the source does not store: white."""
    unfit: list[int] = field(default_factory=list)
    """Positions of tiles whose bytes cannot be passed through; their pixels may be readable."""
    faults: dict[int, str] = field(default_factory=dict)
    """Why, by position of the tile, as the end of a sentence."""
    unreadable: list[int] = field(default_factory=list)
    """Positions of tiles whose bytes cannot be read."""


def pass_tiles(slide: Slide, source_level: int, source: TileSource, tiles: Sequence[TilePlan | None]) -> PassedTiles:
    """Fetch `tiles` of a level and convert them to chunks; None stays None."""
    assert isinstance(slide, EncodedTiles)
    converter = ChunkConverter(source)
    in_rows = slide if isinstance(slide, EncodedRows) else None
    passed = PassedTiles([None] * len(tiles))
    for positions in _rows(tiles):
        for position, stored in _fetch(slide, in_rows, source_level, tiles, positions):
            if stored is None:
                if source_level > 0 and slide.info.kind != "store" and slide.info.vendor in REDUCED_FROM_FINER:
                    passed.unfit.append(position)
                    passed.faults[position] = "the file does not store it: reduced from the finer level"
                else:
                    passed.missing += 1
                continue
            try:
                if isinstance(stored, ReadError):
                    raise stored
                passed.chunks[position] = converter.convert(stored)
            except JpegError as fault:
                logger.debug("%s: level %d, %s: %s", slide.path, source_level, tiles[position], fault)
                passed.unfit.append(position)
                passed.faults[position] = str(fault)
            except ReadError:
                passed.unreadable.append(position)
    first = next((chunk for chunk in passed.chunks if chunk is not None), None)
    if first is not None and source.codec == "jpeg":
        head = read_header(first.join())
        passed.rgb, passed.subsampling = head.rgb, head.subsampling
    return passed


def _rows(tiles: Sequence[TilePlan | None]) -> list[list[int]]:
    """Positions of the tiles that are not None, by row."""
    rows: dict[int, list[int]] = {}
    for position, tile in enumerate(tiles):
        if tile is not None:
            rows.setdefault(tile.row, []).append(position)
    return list(rows.values())


def _fetch(
    slide: EncodedTiles,
    in_rows: EncodedRows | None,
    level: int,
    tiles: Sequence[TilePlan | None],
    positions: list[int],
) -> Iterator[tuple[int, bytes | memoryview | None | ReadError]]:
    """Position and stored bytes of the tiles of one row; the error for a tile that cannot be read."""
    row = [tile for tile in (tiles[position] for position in positions) if tile is not None]
    if in_rows is not None:
        try:
            yield from zip(positions, in_rows.encoded_row(level, [tile.col for tile in row], row[0].row), strict=True)
        except ReadError:
            pass  # retry one by one, so that only damaged tiles are lost
        else:
            return
    for position, tile in zip(positions, row, strict=True):
        try:
            yield position, slide.encoded_tile(level, tile.col, tile.row)
        except ReadError as error:
            yield position, error
