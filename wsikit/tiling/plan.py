"""The plan of a store's image: levels, shards and tiles as data. Nothing is read or written here.

Level px are pixels of the store's level; tiles and shards are indexed by column and row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import downsample_of
from wsikit.slides.encoded_tiles import TileSource
from wsikit.store.level_format import Codec, LevelFormat

SMALLEST_LEVEL_PX = 4096
"""Coarser levels are built until the longer side is at most this; decoding such a level takes a tenth of a second."""

BUILT_DOWNSAMPLE = 4
"""Of a built level relative to the one before: it adds 1/16 of the pixels; with a factor of 2 it would add 1/4."""

PORTABLE_TILE_PX = 1024
"""Side of a chunk in a file of its own: a slide of 10 gigapixels has ten thousand of them."""

CHANNEL_SHARD_BYTES = 128 << 20
"""Largest shard of a fluorescence slide, before compression: it is in memory while it is written."""
PORTABLE_CODEC: Codec = "zstd_frame"

Regions = Literal["auto", "all", "tissue"]
NgffVersion = Literal["0.4", "0.5", "0.6"]
_LATER = {"ngff": "0.5", "jpeg_name": "imagecodecs_jpeg"}


@dataclass(frozen=True)
class ImageParameters:
    """How pixels are stored: lossless pass-through of the source's bytes where possible, else re-encoded."""

    pixels: Literal["keep", "none"] = "keep"
    """none: the store refers to its source by path and fingerprint, and holds only masks and tables."""
    profile: Literal["native", "portable"] = "native"
    """portable: Zstandard chunks, one per file, which programs without a JPEG codec read; several times as large as the
    source."""
    codec: Literal["jpeg", "zstd"] = "jpeg"
    """Codec for tiles that must be re-encoded: jpeg, or zstd, which is lossless."""
    regions: Regions = "auto"
    """all, or tissue only; auto: all with pass-through, else tissue."""
    levels: tuple[int, ...] | None = None
    """Levels of the source to store (0 is the finest); None: all. Coordinates stay in the source's level-0 px."""
    keep_label: bool = False
    """Store the label and macro image too, which can show a name or a case number."""
    tile_px: int = 256
    """Side of a chunk of re-encoded pixels."""
    chunks_per_shard: int = 16
    """Chunks along a shard's side."""
    jpeg_quality: int = 90
    """Of re-encoded tiles, 4:4:4; about 54 dB relative to the decoded source."""
    ngff: NgffVersion = "0.5"
    """Version of the OME-Zarr metadata. 0.4 is for older programs: a portable store then has the metadata of Zarr v2
    too, for the same chunks."""
    jpeg_name: Literal["imagecodecs_jpeg", "jpeg"] = "imagecodecs_jpeg"
    """Name of the JPEG codec in the metadata: `jpeg` is proposed to the registry of Zarr extensions."""

    def __post_init__(self) -> None:
        chosen = self.levels
        if chosen is not None and (not chosen or list(chosen) != sorted(set(chosen)) or chosen[0] < 0):
            raise RequestError(f"levels {list(chosen)}: expected numbers from 0 in ascending order, such as 1,2")
        if not 1 <= self.jpeg_quality <= 100:
            raise RequestError(f"JPEG quality {self.jpeg_quality}: expected 1 to 100")
        if self.tile_px < 16 or self.tile_px % 16:
            raise RequestError(f"tiles of {self.tile_px} px: expected a multiple of 16, such as 256")
        if self.chunks_per_shard < 1:
            raise RequestError(f"{self.chunks_per_shard} chunks per shard: expected 1 or more")
        if self.ngff == "0.4" and self.profile != "portable":
            raise RequestError("NGFF 0.4 has neither shards nor the JPEG codec: it needs --profile portable")

    def to_json(self) -> dict[str, Any]:
        """JSON values. Options that came later are left out at their defaults: what was made before is up to date."""
        record = asdict(self)
        for name, default in _LATER.items():
            if record[name] == default:
                del record[name]
        if self.profile == "portable":
            record["portable_codec"] = PORTABLE_CODEC  # it was Blosc before
        return record


@dataclass(frozen=True)
class LevelPlan:
    """One level of the store."""

    level: int
    format: LevelFormat
    downsample: tuple[float, float]
    """Along x and y, relative to the source's level 0."""
    source_level: int | None
    """Level of the source that it is read from; None: built by averaging 4 × 4 px of the store's previous level."""
    source: TileSource | None = None
    """Format of the source's tiles, which become the chunks; None: pixels are decoded or averaged, and encoded."""
    reason: str | None = None
    """Why the source's tiles are encoded again, as the end of a sentence; None where they are kept or averaged."""


@dataclass(frozen=True)
class Planes:
    """The samples of a fluorescence slide: one plane per channel."""

    count: int
    dtype: str
    """uint8, uint16, float32."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard, which is one task and one file."""

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
    faults: Mapping[int, str] | None = None,
    fill: int = 255,
    planes: Planes | None = None,
) -> list[LevelPlan]:
    """The source's levels, then coarser ones until the longer side is `SMALLEST_LEVEL_PX` or less.

    Parameters
    ----------
    level_dimensions
        (width, height) per source level, finest first.
    passing
        Source levels whose encoded tiles can be passed through, and the format of these tiles.
    faults
        Why the tiles of the other source levels cannot be.
    fill
        Value of the pixels of a tile that is left out.
    planes
        The channels of a fluorescence slide; None: RGB or grey.

    Raises
    ------
    RequestError
        The source does not have a requested level.

    >>> plans = plan_levels([(22_200, 9_000)], ImageParameters())
    >>> [(plan.format.width, plan.format.height, plan.source_level) for plan in plans]
    [(22200, 9000, 0), (5550, 2250, None), (1388, 563, None)]
    """
    chosen = range(len(level_dimensions)) if parameters.levels is None else parameters.levels
    if max(chosen) >= len(level_dimensions):
        raise RequestError(
            f"level {max(chosen)} requested; the slide has levels 0 to {len(level_dimensions) - 1} of "
            + ", ".join(f"{width}×{height}" for width, height in level_dimensions)
            + " px"
        )
    own = dict(passing or {}) if parameters.profile == "native" else {}
    # all levels of an image have the same number of channels
    channels = own[chosen[0]].channels if chosen[0] in own else 3
    own = {level: source for level, source in own.items() if source.channels == channels}
    width0, height0 = level_dimensions[0]
    levels = []
    for level, source_level in enumerate(chosen):
        width, height = level_dimensions[source_level]
        source = own.get(source_level)
        downsample = (downsample_of(width0, width), downsample_of(height0, height))
        form = _format(width, height, channels, parameters, source, fill, planes)
        reason = None if source else _why_encoded(source_level, parameters, passing or {}, faults or {})
        levels.append(LevelPlan(level, form, downsample, source_level, source, reason))
    while max(levels[-1].format.width, levels[-1].format.height) > SMALLEST_LEVEL_PX:
        above = levels[-1]
        width, height = (math.ceil(size / BUILT_DOWNSAMPLE) for size in (above.format.width, above.format.height))
        downsample = (above.downsample[0] * BUILT_DOWNSAMPLE, above.downsample[1] * BUILT_DOWNSAMPLE)
        form = _format(width, height, channels, parameters, None, fill, planes)
        levels.append(LevelPlan(above.level + 1, form, downsample, None))
    return levels


def plan_shards(level: LevelPlan) -> list[ShardPlan]:
    """The shards of one level, row-major."""
    cols, rows = (math.ceil(count / level.format.shard_side) for count in level.format.n_tiles)
    return [ShardPlan(level.level, col, row) for row in range(rows) for col in range(cols)]


class Places(NamedTuple):
    """Tiles of one shard, ascending: int64 (n,) each."""

    positions: npt.NDArray[np.int64]
    """In the shard, row-major."""
    cols: npt.NDArray[np.int64]
    """Of the level."""
    rows: npt.NDArray[np.int64]


def places_of_shard(shard: ShardPlan, form: LevelFormat, dropped: frozenset[tuple[int, int]] = frozenset()) -> Places:
    """The places of the shard's tiles within the level, without those that are `dropped` (column, row).

    >>> form = LevelFormat(1000, 600, (256, 256), "jpeg", chunks_per_shard=2)
    >>> [part.tolist() for part in places_of_shard(ShardPlan(0, 1, 1), form)]
    [[0, 1], [2, 3], [2, 2]]
    """
    side = form.shard_side
    n_cols, n_rows = min(side, form.n_tiles[0] - shard.col * side), min(side, form.n_tiles[1] - shard.row * side)
    inside = _places_in_shard(n_cols, n_rows, side)
    found = Places(inside.positions, inside.cols + shard.col * side, inside.rows + shard.row * side)
    if not dropped:
        return found
    kept = np.array(
        [place not in dropped for place in zip(found.cols.tolist(), found.rows.tolist(), strict=True)], bool
    )
    return Places(*(part[kept] for part in found))


@lru_cache(maxsize=16)  # most shards of a level are alike
def _places_in_shard(n_cols: int, n_rows: int, side: int) -> Places:
    rows, cols = (part.ravel() for part in np.mgrid[:n_rows, :n_cols])
    return Places(rows * side + cols, cols, rows)


def tile_at(form: LevelFormat, col: int, row: int) -> TilePlan:
    """One tile of a level."""
    x, y = col * form.tile_px[0], row * form.tile_px[1]
    return TilePlan(col, row, (x, y, min(form.tile_px[0], form.width - x), min(form.tile_px[1], form.height - y)))


def tiles_of_shard(
    shard: ShardPlan, form: LevelFormat, dropped: frozenset[tuple[int, int]] = frozenset()
) -> list[TilePlan | None]:
    """The shard's chunks, row-major; None outside the level, and for those that are `dropped`."""
    tiles: list[TilePlan | None] = [None] * form.shard_side**2
    for position, col, row in zip(*(part.tolist() for part in places_of_shard(shard, form, dropped)), strict=True):
        tiles[position] = tile_at(form, col, row)
    return tiles


def _why_encoded(
    level: int, parameters: ImageParameters, passing: Mapping[int, TileSource], faults: Mapping[int, str]
) -> str:
    if level in passing and parameters.profile == "portable":
        return "the portable profile was requested, which holds no JPEG or JPEG 2000 tiles"
    if level in passing:
        return f"its tiles have {passing[level].channels} channels, those of the finest level another number"
    return faults.get(level, "its reader returns pixels, not coded tiles")


def _format(
    width: int,
    height: int,
    channels: int,
    parameters: ImageParameters,
    source: TileSource | None,
    fill: int,
    planes: Planes | None,
) -> LevelFormat:
    if planes is not None:
        return _channel_format(width, height, parameters, planes)
    if parameters.profile == "portable":
        tile = min(PORTABLE_TILE_PX, parameters.tile_px * 4)
        v2_keys = parameters.ngff == "0.4"
        return LevelFormat(width, height, (tile, tile), PORTABLE_CODEC, channels, None, fill, v2_keys=v2_keys)
    side, name = parameters.chunks_per_shard, parameters.jpeg_name
    if source is not None:
        return LevelFormat(width, height, source.tile_px, source.codec, channels, side, fill, name)
    tile_px = (parameters.tile_px, parameters.tile_px)
    return LevelFormat(width, height, tile_px, parameters.codec, channels, side, fill, name)


def _channel_format(width: int, height: int, parameters: ImageParameters, planes: Planes) -> LevelFormat:
    """Chunks of one channel, all channels of a place in one shard; portable: one file with all channels."""
    side = parameters.tile_px * 2
    common: dict[str, Any] = {"channels": planes.count, "fill": 0, "dtype": planes.dtype}
    if parameters.profile == "portable":
        return LevelFormat(width, height, (side, side), PORTABLE_CODEC, chunks_per_shard=None, **common)
    per_tile = planes.count * np.dtype(planes.dtype).itemsize * side**2
    chunks = max(1, parameters.chunks_per_shard // 2)
    while chunks > 1 and chunks**2 * per_tile > CHANNEL_SHARD_BYTES:
        chunks //= 2
    return LevelFormat(
        width, height, (side, side), PORTABLE_CODEC, chunks_per_shard=chunks, planes=planes.count, **common
    )
