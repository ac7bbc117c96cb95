"""The tiles of a slide as chunks, byte for byte: fetched, framed and checked, never decoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from wsikit.errors import ReadError
from wsikit.slides.base import Slide
from wsikit.slides.encoded import EncodedTiles, TileSource
from wsikit.slides.jpeg import JpegError
from wsikit.store.shards import Chunk
from wsikit.tiling.framing import Framer, read_head
from wsikit.tiling.plan import TilePlan

logger = logging.getLogger(__name__)


@dataclass
class PassedTiles:
    """What became of some tiles."""

    chunks: list[Chunk | None]
    """One per tile asked for."""
    rgb: bool = False
    """The JPEG tiles that passed are coded in R, G, B."""
    subsampling: tuple[int, int] = (1, 1)
    """Of their colour components."""
    missing: int = 0
    """Tiles of level 0 that the source does not store: white."""
    unfit: list[int] = field(default_factory=list)
    """Positions of tiles whose bytes cannot stand for them; their pixels may be readable all the same."""
    unreadable: list[TilePlan] = field(default_factory=list)
    """Tiles whose bytes cannot be read."""


def pass_tiles(slide: Slide, source_level: int, source: TileSource, tiles: Sequence[TilePlan | None]) -> PassedTiles:
    """Fetch and frame `tiles` of a level; None stays None."""
    assert isinstance(slide, EncodedTiles)
    framer = Framer(source)
    passed = PassedTiles([None] * len(tiles))
    for position, tile in enumerate(tiles):
        if tile is None:
            continue
        try:
            stored = slide.encoded_tile(source_level, tile.col, tile.row)
            if stored is not None:
                passed.chunks[position] = framer.frame(stored)
            elif source_level > 0:
                # some pyramids leave out coarse tiles and mean what the finer level shows
                passed.unfit.append(position)
            else:
                passed.missing += 1
        except JpegError as fault:
            logger.debug("%s: level %d, tile %d, %d: %s", slide.path, source_level, tile.col, tile.row, fault)
            passed.unfit.append(position)
        except ReadError:
            passed.unreadable.append(tile)
    first = next((chunk for chunk in passed.chunks if chunk is not None), None)
    if first is not None and source.codec == "jpeg":
        head = read_head(first.join())
        passed.rgb, passed.subsampling = head.rgb, head.subsampling
    return passed
