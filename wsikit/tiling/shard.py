"""One shard, one task: its tiles passed on as the source stores them, or read and encoded, and written whole.

Frames are named: tiles are counted in columns and rows of the store's level; boxes are px of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsikit.errors import ReadError, StoreError
from wsikit.slides.base import Slide
from wsikit.slides.encoded import EncodedTiles
from wsikit.slides.jpeg import JpegError
from wsikit.slides.store_levels import StoreLevels
from wsikit.store.atomic import write_bytes, write_json
from wsikit.store.shards import pack_shard, read_shard
from wsikit.tiling.framing import Framer
from wsikit.tiling.plan import (
    BUILT_DOWNSAMPLE,
    ImageParameters,
    LevelPlan,
    ShardPlan,
    TilePlan,
    tiles_of_shard,
)

logger = logging.getLogger(__name__)

PLAN_FOLDER = "wsikit-plan"
"""There while a store is being written: what its shards belong to, and notes on them. Removed by the commit."""

RECODED_QUALITY = 95
"""Of single tiles that cannot pass among others that do: nearly as good as the bytes they stand for."""

Box = tuple[int, int, int, int]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs to write one shard. The slide travels as its path."""

    slide: Slide
    folder: Path
    level: LevelPlan
    above: LevelPlan | None
    """The level that a built one is averaged from."""
    shard: ShardPlan
    parameters: ImageParameters

    @property
    def path(self) -> Path:
        return self.folder / str(self.level.level) / "c" / "0" / str(self.shard.row) / str(self.shard.col)

    @property
    def note_path(self) -> Path:
        return self.folder / PLAN_FOLDER / f"{self.level.level}.{self.shard.row}.{self.shard.col}.json"


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard."""

    level: int
    unreadable: tuple[tuple[int, int], ...] = ()
    """Tiles (column, row) of the level whose pixels could not be read."""
    missing: int = 0
    """Tiles that the source does not store: white."""
    recoded: int = 0
    """Tiles that could not pass as they were stored, among others that did."""


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard unless it is there and whole. Tiles that cannot be read are left out and named."""
    kept = _kept(task)
    if kept is not None:
        return kept
    tiles = tiles_of_shard(task.shard, task.level, task.parameters.chunks_per_shard)
    chunks, result = _passed(task, tiles) if task.level.passed else _encoded(task, tiles)
    if result != ShardResult(task.level.level):
        # before the shard: where that is, what there is to say of it is too
        write_json(task.note_path, asdict(result))
    if any(chunk is not None for chunk in chunks) or result.unreadable or not task.level.passed:
        write_bytes(task.path, pack_shard(chunks), sync=False)
    return result


def _kept(task: ShardTask) -> ShardResult | None:
    """What is known of a shard that an earlier run wrote; None if it is to be written (again)."""
    try:
        if read_shard(task.path, task.parameters.chunks_per_shard) is None:
            return None
    except StoreError:
        return None
    if not task.note_path.is_file():
        return ShardResult(task.level.level)
    note = json.loads(task.note_path.read_text(encoding="utf-8"))
    if note["unreadable"]:
        return None  # it may be readable by now
    return ShardResult(task.level.level, (), note["missing"], note["recoded"])


# ---- the source's own bytes


def _passed(task: ShardTask, tiles: list[TilePlan | None]) -> tuple[list[bytes | None], ShardResult]:
    slide, level = task.slide, task.level
    assert isinstance(slide, EncodedTiles)
    assert level.source_level is not None
    source = slide.tile_source(level.source_level)
    assert source is not None
    framer = Framer(source)
    chunks: list[bytes | None] = []
    unreadable: list[tuple[int, int]] = []
    missing = recoded = 0
    for tile in tiles:
        chunk: bytes | None = None
        if tile is not None:
            try:
                stored = slide.encoded_tile(level.source_level, tile.col, tile.row)
                if stored is not None:
                    chunk = framer.frame(stored)
                elif level.source_level > 0:
                    # some pyramids leave out coarse tiles and mean what the finer level shows
                    chunk = _recoded(task, tile)
                    recoded += 1
                else:
                    missing += 1
            except JpegError as fault:
                logger.debug("%s: level %d, tile %d, %d: %s", slide, level.level, tile.col, tile.row, fault)
                try:
                    chunk = _recoded(task, tile)
                    recoded += 1
                except ReadError:
                    unreadable.append((tile.col, tile.row))
            except ReadError:
                unreadable.append((tile.col, tile.row))
        chunks.append(chunk)
    return chunks, ShardResult(level.level, tuple(unreadable), missing, recoded)


def _recoded(task: ShardTask, tile: TilePlan) -> bytes:
    return encode(_read_source(task, tile.box), task.level.tile_px, RECODED_QUALITY)


# ---- pixels, encoded anew


def _encoded(task: ShardTask, tiles: list[TilePlan | None]) -> tuple[list[bytes | None], ShardResult]:
    boxes = [tile.box for tile in tiles if tile is not None]
    left, top = boxes[0][:2]
    right, bottom = max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)
    read: Callable[[ShardTask, Box], Pixels] = _read_source if task.above is None else _read_above
    try:
        block: Pixels | None = read(task, (left, top, right - left, bottom - top))
    except ReadError:
        block = None  # read again tile by tile, to lose no more than what is damaged
    chunks: list[bytes | None] = []
    unreadable: list[tuple[int, int]] = []
    for tile in tiles:
        if tile is None:
            chunks.append(None)
            continue
        x, y, width, height = tile.box
        try:
            if block is None:
                pixels = read(task, tile.box)
            else:
                pixels = block[y - top : y - top + height, x - left : x - left + width]
        except ReadError as error:
            logger.debug("%s", error)
            unreadable.append((tile.col, tile.row))
            chunks.append(None)
            continue
        chunks.append(encode(pixels, task.level.tile_px, task.parameters.jpeg_quality))
    return chunks, ShardResult(task.level.level, tuple(unreadable))


def _read_source(task: ShardTask, box: Box) -> Pixels:
    assert task.level.source_level is not None
    return task.slide.read_box(task.level.source_level, box)


def _read_above(task: ShardTask, box: Box) -> Pixels:
    """Mean of k × k px of the level before; where its last rows or columns are fewer than k, the last one is repeated.

    Read and averaged in bands, one row of tiles at a time: the level before is k² times as large.
    """
    assert task.above is not None
    x, y, width, height = box
    factor = BUILT_DOWNSAMPLE
    average = np.empty((height, width, 3), dtype=np.uint8)
    with contextlib.closing(StoreLevels(task.folder, task.above.level + 1)) as levels:
        for first in range(0, height, task.level.tile_px[1]):
            rows = min(task.level.tile_px[1], height - first)
            right = min(factor * (x + width), task.above.width)
            bottom = min(factor * (y + first + rows), task.above.height)
            left, top = factor * x, factor * (y + first)
            pixels = levels.read(task.above.level, left, top, right - left, bottom - top)
            missing = (factor * rows - pixels.shape[0], factor * width - pixels.shape[1])
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            average[first : first + rows] = np.asarray(Image.fromarray(pixels).reduce(factor))
    return average


def encode(pixels: Pixels, tile_px: tuple[int, int], quality: int) -> bytes:
    """A JPEG (4:4:4) of a whole tile from its pixels, uint8 (h, w, 3), which may be cut at the level's edge."""
    import imagecodecs

    height, width = pixels.shape[:2]
    missing = (tile_px[1] - height, tile_px[0] - width)
    if any(missing):
        # edge tiles are whole JPEGs; repeating the last pixels keeps ringing out of the image
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return bytes(
        imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=quality, subsampling="444", colorspace="RGB")
    )
