"""What a slide's image store will hold, as data: levels and shards. Pure: nothing is read or written here.

Frames are named: level px are pixels of the store's level; tiles and shards are counted in columns and rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from wsikit.errors import RequestError
from wsikit.geometry import downsample_of
from wsikit.slides.encoded_tiles import TileSource
from wsikit.store.level_format import LevelFormat

SMALLEST_LEVEL_PX = 4096
"""Levels are built until the longer side is at most this: decoding as much takes a tenth of a second."""

BUILT_DOWNSAMPLE = 4
"""Of a built level against the one before: a sixteenth of the pixels; halving would cost a third of the file."""

PORTABLE_TILE_PX = 1024
"""Side of a chunk that is a file of its own: a slide of 10 gigapixels has ten thousand of them."""

Regions = Literal["auto", "all", "tissue"]


@dataclass(frozen=True)
class ImageParameters:
    """How pixels are stored: the source's own bytes where that is possible, else encoded anew."""

    pixels: Literal["keep", "none"] = "keep"
    """none: the store refers to its source (path and fingerprint), and holds masks and tables only."""
    profile: Literal["native", "portable"] = "native"
    """portable: Blosc-Zstandard chunks, a file each, with the metadata of NGFF 0.5 and of 0.4: opens where no JPEG
    codec is known, and is several times as large as the source."""
    codec: Literal["jpeg", "zstd"] = "jpeg"
    """Of pixels that cannot pass as they are: jpeg, or zstd, which keeps them exactly."""
    regions: Regions = "auto"
    """all, or tissue only; auto: all where the source's bytes pass, else tissue."""
    levels: tuple[int, ...] | None = None
    """Which of the source's levels are kept (0 is the finest); None: all. Coordinates stay the source's level-0 px."""
    keep_label: bool = False
    """Keep label and macro image too, which can show a name or a case number."""
    tile_px: int = 256
    """Side of a chunk of pixels that are encoded anew."""
    chunks_per_shard: int = 16
    """Chunks along a shard's side."""
    jpeg_quality: int = 90
    """4:4:4; about 54 dB against the decoded source."""

    def __post_init__(self) -> None:
        chosen = self.levels
        if chosen is not None and (not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0):
            raise RequestError(f"levels {list(chosen)}: expected numbers from 0 in rising order, such as 1,2")
        if not 1 <= self.jpeg_quality <= 100:
            raise RequestError(f"JPEG quality {self.jpeg_quality}: expected 1 to 100")
        if self.tile_px < 16 or self.tile_px % 16:
            raise RequestError(f"tiles of {self.tile_px} px: expected a multiple of 16, such as 256")
        if self.chunks_per_shard < 1:
            raise RequestError(f"{self.chunks_per_shard} chunks per shard: expected 1 or more")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class LevelPlan:
    """One level of the store."""

    level: int
    format: LevelFormat
    downsample: tuple[float, float]
    """Along x and y, relative to the source's level 0."""
    source_level: int | None
    """Level of the source that it is read from; None: built by averaging 4 × 4 px of the store's level before."""
    source: TileSource | None = None
    """Of the source's tiles, which become the chunks; None: pixels are decoded, or averaged, and encoded."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: one task, one file."""

    level: int
    col: int
    row: int


class TilePlan(NamedTuple):
    """One tile of a level."""

    col: int
    row: int
    box: tuple[int, int, int, int]
    """x, y, width, height in px of the level, cut at the level's edge."""


def plan_levels(
    level_dimensions: Sequence[tuple[int, int]],
    parameters: ImageParameters,
    passing: Mapping[int, TileSource] | None = None,
    *,
    fill: int = 255,
) -> list[LevelPlan]:
    """The source's levels, then ever coarser ones until the longer side is `SMALLEST_LEVEL_PX` or less.

    Parameters
    ----------
    level_dimensions
        (width, height) per source level, finest first.
    passing
        Source levels whose own tiles can be kept, and what these are like.
    fill
        What a tile that is left out reads as.

    Raises
    ------
    RequestError
        The source lacks a level that was asked for.

    >>> plans = plan_levels([(22_200, 9_000)], ImageParameters())
    >>> [(plan.format.width, plan.format.height, plan.source_level) for plan in plans]
    [(22200, 9000, 0), (5550, 2250, None), (1388, 563, None)]
    """
    chosen = range(len(level_dimensions)) if parameters.levels is None else parameters.levels
    if max(chosen) >= len(level_dimensions):
        raise RequestError(
            f"level {max(chosen)} asked for; the slide has levels 0 to {len(level_dimensions) - 1} of "
            + ", ".join(f"{width}×{height}" for width, height in level_dimensions)
            + " px"
        )
    own = dict(passing or {}) if parameters.profile == "native" else {}
    # one array has one number of channels, and all levels of an image have the same
    channels = own[chosen[0]].channels if chosen[0] in own else 3
    own = {level: source for level, source in own.items() if source.channels == channels}
    width0, height0 = level_dimensions[0]
    levels = []
    for level, source_level in enumerate(chosen):
        width, height = level_dimensions[source_level]
        source = own.get(source_level)
        downsample = (downsample_of(width0, width), downsample_of(height0, height))
        form = _format(width, height, channels, parameters, source, fill)
        levels.append(LevelPlan(level, form, downsample, source_level, source))
    while max(levels[-1].format.width, levels[-1].format.height) > SMALLEST_LEVEL_PX:
        above = levels[-1]
        width, height = (math.ceil(size / BUILT_DOWNSAMPLE) for size in (above.format.width, above.format.height))
        downsample = (above.downsample[0] * BUILT_DOWNSAMPLE, above.downsample[1] * BUILT_DOWNSAMPLE)
        form = _format(width, height, channels, parameters, None, fill)
        levels.append(LevelPlan(above.level + 1, form, downsample, None))
    return levels


def plan_shards(level: LevelPlan) -> list[ShardPlan]:
    """The shards of one level, row-major."""
    cols, rows = (math.ceil(count / level.format.shard_side) for count in level.format.n_tiles)
    return [ShardPlan(level.level, col, row) for row in range(rows) for col in range(cols)]


def tiles_of_shard(shard: ShardPlan, form: LevelFormat) -> list[TilePlan | None]:
    """The shard's chunks, row-major; None outside the level."""
    n_cols, n_rows = form.n_tiles
    tile_w, tile_h = form.tile_px
    side = form.shard_side
    first, last = shard.col * side, min((shard.col + 1) * side, n_cols)
    outside: list[TilePlan | None] = [None] * (side - (last - first))
    columns = [(col, col * tile_w, min(tile_w, form.width - col * tile_w)) for col in range(first, last)]
    tiles: list[TilePlan | None] = []
    for row in range(shard.row * side, min((shard.row + 1) * side, n_rows)):
        y = row * tile_h
        height = min(tile_h, form.height - y)
        tiles += [TilePlan(col, row, (x, y, width, height)) for col, x, width in columns]
        tiles += outside
    return tiles + [None] * (side**2 - len(tiles))


def _format(
    width: int, height: int, channels: int, parameters: ImageParameters, source: TileSource | None, fill: int
) -> LevelFormat:
    if parameters.profile == "portable":
        tile = min(PORTABLE_TILE_PX, parameters.tile_px * 4)
        return LevelFormat(width, height, (tile, tile), "zstd", channels, None, fill)
    side = parameters.chunks_per_shard
    if source is not None:
        return LevelFormat(width, height, source.tile_px, source.codec, channels, side, fill)
    return LevelFormat(width, height, (parameters.tile_px, parameters.tile_px), parameters.codec, channels, side, fill)
