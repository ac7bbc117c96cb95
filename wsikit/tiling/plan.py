"""What a slide's image store will hold, as data: levels and shards. Pure: nothing is read or written here.

Frames are named: level px are pixels of the store's level; tiles and shards are counted in columns and rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wsikit.geometry import downsample_of

SMALLEST_LEVEL_PX = 4096
"""Levels are built until the longer side is at most this: decoding as much takes a tenth of a second."""

BUILT_DOWNSAMPLE = 4
"""Of a built level against the one before: a sixteenth of the pixels; halving would cost a third of the file."""


@dataclass(frozen=True)
class ImageParameters:
    """How pixels are stored: the source's own bytes where that is possible, else encoded anew."""

    tile_px: int = 256
    """Side of a chunk."""
    chunks_per_shard: int = 8
    """Chunks along a shard's side."""
    jpeg_quality: int = 90
    """4:4:4; about 54 dB against the decoded source."""
    pass_through: bool = True
    """Keep the source's own JPEG tiles, byte for byte, where it has them."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LevelPlan:
    """One level of the store."""

    level: int
    width: int
    height: int
    downsample: tuple[float, float]
    """Along x and y, relative to level 0."""
    source_level: int | None
    """Level of the source that it is read from; None: built by averaging 4 × 4 px of the store's level before."""
    tile_px: tuple[int, int]
    """Width and height of its tiles, which are the store's chunks."""
    passed: bool
    """The source's own JPEG tiles become the chunks, byte for byte."""

    @property
    def n_tiles(self) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return math.ceil(self.width / self.tile_px[0]), math.ceil(self.height / self.tile_px[1])


@dataclass(frozen=True)
class ShardPlan:
    """One shard: one task, one file."""

    level: int
    col: int
    row: int


@dataclass(frozen=True)
class TilePlan:
    """One tile of a level."""

    col: int
    row: int
    box: tuple[int, int, int, int]
    """x, y, width, height in px of the level, cut at the level's edge."""


def plan_levels(
    level_dimensions: Sequence[tuple[int, int]],
    tile_px: int,
    passing: Mapping[int, tuple[int, int]] | None = None,
) -> list[LevelPlan]:
    """The source's levels, then ever coarser ones until the longer side is `SMALLEST_LEVEL_PX` or less.

    Parameters
    ----------
    level_dimensions
        (width, height) per source level, finest first.
    tile_px
        Side of the tiles of levels that are encoded anew.
    passing
        Source levels whose own tiles can be kept, and the width and height of these.

    >>> [(plan.width, plan.height, plan.source_level) for plan in plan_levels([(22_200, 9_000)], 256)]
    [(22200, 9000, 0), (5550, 2250, None), (1388, 563, None)]
    """
    own = passing or {}
    width0, height0 = level_dimensions[0]
    square = (tile_px, tile_px)
    levels = [
        LevelPlan(
            level=level,
            width=width,
            height=height,
            downsample=(downsample_of(width0, width), downsample_of(height0, height)),
            source_level=level,
            tile_px=own.get(level, square),
            passed=level in own,
        )
        for level, (width, height) in enumerate(level_dimensions)
    ]
    while max(levels[-1].width, levels[-1].height) > SMALLEST_LEVEL_PX:
        above = levels[-1]
        width, height = math.ceil(above.width / BUILT_DOWNSAMPLE), math.ceil(above.height / BUILT_DOWNSAMPLE)
        downsample = (above.downsample[0] * BUILT_DOWNSAMPLE, above.downsample[1] * BUILT_DOWNSAMPLE)
        levels.append(LevelPlan(above.level + 1, width, height, downsample, None, square, passed=False))
    return levels


def plan_shards(level: LevelPlan, chunks_per_shard: int) -> list[ShardPlan]:
    """The shards of one level, row-major; each has `chunks_per_shard`² tiles."""
    cols, rows = (math.ceil(count / chunks_per_shard) for count in level.n_tiles)
    return [ShardPlan(level.level, col, row) for row in range(rows) for col in range(cols)]


def tiles_of_shard(shard: ShardPlan, level: LevelPlan, chunks_per_shard: int) -> list[TilePlan | None]:
    """The shard's chunks, row-major; None outside the level."""
    n_cols, n_rows = level.n_tiles
    tile_w, tile_h = level.tile_px
    tiles: list[TilePlan | None] = []
    for row in range(shard.row * chunks_per_shard, (shard.row + 1) * chunks_per_shard):
        for col in range(shard.col * chunks_per_shard, (shard.col + 1) * chunks_per_shard):
            if col >= n_cols or row >= n_rows:
                tiles.append(None)
                continue
            x, y = col * tile_w, row * tile_h
            box = (x, y, min(tile_w, level.width - x), min(tile_h, level.height - y))
            tiles.append(TilePlan(col, row, box))
    return tiles
