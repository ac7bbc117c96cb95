"""What a slide's image store will hold, as data: levels and shards. Pure: nothing is read or written here.

Frames are named: level px are pixels of the store's level; tiles and shards are counted in columns and rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from wsikit.geometry import downsample_of

SMALLEST_LEVEL_PX = 1024
"""Levels are built until the longer side is at most this: a viewer's first screen, a thumbnail."""


@dataclass(frozen=True)
class ImageParameters:
    """How pixels are stored where they are encoded anew."""

    tile_px: int = 256
    """Side of a chunk."""
    chunks_per_shard: int = 8
    """Chunks along a shard's side."""
    jpeg_quality: int = 90
    """4:4:4; about 54 dB against the decoded source."""

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
    """Level of the source that it is read from; None: built by averaging 2 × 2 px of the store's level before."""

    def tiles(self, tile_px: int) -> tuple[int, int]:
        """Columns and rows of tiles."""
        return math.ceil(self.width / tile_px), math.ceil(self.height / tile_px)


@dataclass(frozen=True)
class ShardPlan:
    """One shard: one task, one file."""

    level: int
    col: int
    row: int


def plan_levels(level_dimensions: Sequence[tuple[int, int]]) -> list[LevelPlan]:
    """The source's levels, then halvings until the longer side is `SMALLEST_LEVEL_PX` or less.

    `level_dimensions` is (width, height) per source level, finest first.

    >>> [(plan.width, plan.height, plan.source_level) for plan in plan_levels([(2220, 2967)])]
    [(2220, 2967, 0), (1110, 1484, None), (555, 742, None)]
    """
    width0, height0 = level_dimensions[0]
    levels = [
        LevelPlan(i, width, height, (downsample_of(width0, width), downsample_of(height0, height)), i)
        for i, (width, height) in enumerate(level_dimensions)
    ]
    while max(levels[-1].width, levels[-1].height) > SMALLEST_LEVEL_PX:
        above = levels[-1]
        width, height = math.ceil(above.width / 2), math.ceil(above.height / 2)
        downsample = (above.downsample[0] * 2, above.downsample[1] * 2)
        levels.append(LevelPlan(above.level + 1, width, height, downsample, None))
    return levels


def plan_shards(level: LevelPlan, parameters: ImageParameters) -> list[ShardPlan]:
    """The shards of one level, row-major."""
    shard_px = parameters.tile_px * parameters.chunks_per_shard
    cols, rows = math.ceil(level.width / shard_px), math.ceil(level.height / shard_px)
    return [ShardPlan(level.level, col, row) for row in range(rows) for col in range(cols)]


def tiles_of_shard(
    shard: ShardPlan, level: LevelPlan, parameters: ImageParameters
) -> list[tuple[int, int, tuple[int, int, int, int]] | None]:
    """The shard's chunks, row-major: (column, row, box) or None outside the level.

    Columns and rows count the level's tiles; a box is (x, y, width, height) in level px, cut at the level's edge.
    """
    side, tile_px = parameters.chunks_per_shard, parameters.tile_px
    n_cols, n_rows = level.tiles(tile_px)
    tiles: list[tuple[int, int, tuple[int, int, int, int]] | None] = []
    for row in range(shard.row * side, (shard.row + 1) * side):
        for col in range(shard.col * side, (shard.col + 1) * side):
            if col >= n_cols or row >= n_rows:
                tiles.append(None)
                continue
            x, y = col * tile_px, row * tile_px
            tiles.append((col, row, (x, y, min(tile_px, level.width - x), min(tile_px, level.height - y))))
    return tiles
