"""Pass-through: the encoded tiles of a slide become chunks byte for byte; fetched and checked, never decoded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from wsikit.errors import ReadError
from wsikit.slides.base import Slide
from wsikit.slides.encoded_tiles import REDUCED_FROM_FINER, EncodedRanges, EncodedRows, EncodedTiles, TileSource
from wsikit.slides.jpeg import JpegError
from wsikit.store.shards import Chunks
from wsikit.tiling.jpeg_headers import ChunkConverter, read_header
from wsikit.tiling.plan import Places
from wsikit.tiling.ranges import Buffers, pass_ranges

logger = logging.getLogger(__name__)

Place = tuple[int, int, int]
"""Position in the shard, column and row in the level."""


@dataclass
class PassedTiles:
    """Result of passing tiles through."""

    chunks: Chunks
    """Without those that could not be passed through."""
    rgb: bool = False
    """Whether the passed JPEG tiles are coded in R, G, B; found out where there are unfit tiles."""
    subsampling: tuple[int, int] = (1, 1)
    """Chroma subsampling of the passed JPEG tiles; likewise."""
    missing: int = 0
    """Tiles that the source does not store: white."""
    unfit: list[Place] = field(default_factory=list)
    """Tiles whose bytes cannot be passed through; their pixels may be readable."""
    faults: list[str] = field(default_factory=list)
    """Why, for each of them, as the end of a sentence."""
    unreadable: list[Place] = field(default_factory=list)
    """Tiles whose bytes cannot be read."""


def pass_tiles(
    slide: Slide, source_level: int, source: TileSource, places: Places, count: int, buffers: Buffers
) -> PassedTiles:
    """Fetch the tiles at `places` of a level and convert them to chunks of a shard of `count` chunks.

    The chunks may lie in `buffers`.
    """
    converter = ChunkConverter(source)
    passed = PassedTiles(Chunks(count))
    if hasattr(slide, "tile_ranges"):  # isinstance with a protocol takes as long as fetching some tiles
        places = pass_ranges(cast(EncodedRanges, slide), source_level, converter, places, passed.chunks, buffers)
    for row in _rows(places):
        for place, stored in _fetch(cast(EncodedTiles, slide), source_level, row):
            if stored is None:
                if source_level > 0 and slide.info.kind != "store" and slide.info.vendor in REDUCED_FROM_FINER:
                    passed.unfit.append(place)
                    passed.faults.append("the file does not store it: reduced from the finer level")
                else:
                    passed.missing += 1
                continue
            try:
                if isinstance(stored, ReadError):
                    raise stored
                passed.chunks.put(place[0], *converter.convert(stored))
            except JpegError as fault:
                logger.debug("%s: level %d, column %d, row %d: %s", slide.path, source_level, *place[1:], fault)
                passed.unfit.append(place)
                passed.faults.append(str(fault))
            except ReadError:
                passed.unreadable.append(place)
    first = passed.chunks.first() if passed.unfit and source.codec == "jpeg" else None
    if first is not None:
        head = read_header(first)
        passed.rgb, passed.subsampling = head.rgb, head.subsampling
    return passed


def _rows(places: Places) -> list[list[Place]]:
    """The places by row."""
    rows: dict[int, list[Place]] = {}
    for place in zip(*(part.tolist() for part in places), strict=True):
        rows.setdefault(place[2], []).append(place)
    return list(rows.values())


def _fetch(
    slide: EncodedTiles, level: int, row: Sequence[Place]
) -> Iterator[tuple[Place, bytes | memoryview | None | ReadError]]:
    """Place and stored bytes of the tiles of one row; the error for a tile that cannot be read."""
    if isinstance(slide, EncodedRows):
        try:
            yield from zip(row, slide.encoded_row(level, [col for _, col, _ in row], row[0][2]), strict=True)
        except ReadError:
            pass  # retry one by one, so that only damaged tiles are lost
        else:
            return
    for place in row:
        try:
            yield place, slide.encoded_tile(level, *place[1:])
        except ReadError as error:
            yield place, error
