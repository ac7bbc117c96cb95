"""Writing of one shard, as one task: its tiles are passed through or re-encoded, and the shard is written atomically.

Tiles are indexed by column and row of the store's level; boxes are px of that level.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsikit.errors import ReadError, StoreError
from wsikit.slides.base import Slide
from wsikit.slides.store_levels import StoreLevels
from wsikit.store.atomic import flush, write_bytes, write_json, write_pieces
from wsikit.store.flushing import Flushing
from wsikit.store.shards import NO_HEADER, Chunks, read_shard
from wsikit.tiling.channel_levels import channel_samples
from wsikit.tiling.encode import RECODED_QUALITY, encode, encode_planes
from wsikit.tiling.passthrough import pass_tiles
from wsikit.tiling.plan import (
    BUILT_DOWNSAMPLE,
    LevelPlan,
    Places,
    ShardPlan,
    TilePlan,
    places_of_shard,
    tile_at,
    tiles_of_shard,
)
from wsikit.tiling.ranges import Buffers

logger = logging.getLogger(__name__)

PLAN_FOLDER = "wsikit-plan"
"""Folder with the plan and notes on the shards while a store is being written. Removed by the commit."""

Box = tuple[int, int, int, int]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShardTask:
    """What a worker needs to write one shard. The slide is pickled as its path."""

    slide: Slide
    folder: Path
    level: LevelPlan
    above: LevelPlan | None
    """The level that a built level is averaged from; None for levels of the source."""
    shard: ShardPlan
    quality: int
    """JPEG quality of re-encoded tiles."""
    dropped: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)
    """Tiles (column, row) of the level that are left out as background."""
    flushing: Flushing | None = field(default=None, repr=False, compare=False)
    """Begins the flush of the shard to the disk, where the task runs in this process; None: the task waits for it."""

    @cached_property
    def path(self) -> Path:
        key = self.level.format.object_key(self.shard.col, self.shard.row)
        return self.folder.joinpath(f"{self.level.level}/{key}")

    @property
    def note_path(self) -> Path:
        return self.folder / PLAN_FOLDER / f"{self.level.level}.{self.shard.row}.{self.shard.col}.json"

    @property
    def where(self) -> str:
        """The region, for error messages."""
        form, shard = self.level.format, self.shard
        step = form.tile_px[0] * form.shard_side, form.tile_px[1] * form.shard_side
        x, y = shard.col * step[0], shard.row * step[1]
        width, height = min(step[0], form.width - x), min(step[1], form.height - y)
        return f"level {self.level.level}, x={x} y={y} {width}×{height} px"


@dataclass(frozen=True)
class ShardResult:
    """Result of writing one shard."""

    level: int
    unreadable: tuple[tuple[int, int], ...] = ()
    """Tiles (column, row) of the level whose pixels could not be read."""
    missing: int = 0
    """Number of tiles that the source does not store; they are white."""
    recoded: int = 0
    """Number of tiles that were re-encoded among passed ones."""
    faults: tuple[tuple[str, int], ...] = ()
    """Why they were, and the number of tiles for each reason."""
    stored: bool = True
    """Whether there is a file; none is written where the source has no tile, or all are background."""


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard unless it is complete on disk. Tiles that cannot be read are left out and listed.

    Raises
    ------
    StoreError
        The store cannot be written (disk full, no permission). What was written is kept, and the next run continues.
    """
    kept = _kept(task)
    if kept is not None:
        _flush(task)  # it may be from a run that was killed before it flushed
        return kept
    places = places_of_shard(task.shard, task.level.format, task.dropped)
    if not len(places.positions):
        return ShardResult(task.level.level, stored=False)
    if task.level.source:
        with Buffers() as buffers:
            return _stored(task, *_passed(task, places, buffers))
    tiles = tiles_of_shard(task.shard, task.level.format, task.dropped)
    return _stored(task, *(_encoded_channels if task.slide.info.channels else _encoded)(task, tiles))


def _stored(task: ShardTask, chunks: Chunks, result: ShardResult) -> ShardResult:
    """Write the note and the file of a shard."""
    try:
        if result != ShardResult(task.level.level):
            # written before the shard, so that no shard exists without its note
            write_json(task.note_path, asdict(result))
        result = replace(result, stored=_write(task, chunks, result))
        if result.stored:
            _flush(task)
    except OSError as error:
        raise StoreError(
            f"{task.path}: cannot be written ({error.strerror or error}); {task.slide.path}, {task.where}. Free disk "
            "space or repair the drive, and run again: what is written is kept."
        ) from error
    return result


def _write(task: ShardTask, chunks: Chunks, result: ShardResult) -> bool:
    """Write the file of a shard; False if there is nothing to store."""
    if not chunks and task.level.source and not result.unreadable:
        return False  # all tiles are missing in the source
    if task.level.format.chunks_per_shard:
        write_pieces(task.path, chunks.pieces())
        return True
    only = chunks.first()
    if only is None:
        return False
    write_bytes(task.path, only)  # has no checksum: it must not be there before it is flushed
    return True


def _flush(task: ShardTask) -> None:
    if not task.level.format.chunks_per_shard:
        return  # flushed when it was written
    if task.flushing is not None:
        task.flushing.add(task.path)
    else:
        flush(task.path)


def _kept(task: ShardTask) -> ShardResult | None:
    """Result of a shard that an earlier run wrote; None if it must be written (again)."""
    side = task.level.format.chunks_per_shard
    try:
        if not task.path.is_file():
            return None
        # a chunk file of its own was written atomically: it is complete, and has no checksum
        if side is not None and read_shard(task.path, side, task.level.format.planes) is None:
            return None
    except StoreError:
        return None
    if not task.note_path.is_file():
        return ShardResult(task.level.level)
    note = json.loads(task.note_path.read_text(encoding="utf-8"))
    if note["unreadable"]:
        return None  # may be readable now
    faults = tuple((str(reason), int(count)) for reason, count in note.get("faults", ()))
    return ShardResult(task.level.level, (), note["missing"], note["recoded"], faults)


# ---- pass-through


def _passed(task: ShardTask, places: Places, buffers: Buffers) -> tuple[Chunks, ShardResult]:
    level = task.level
    assert level.source is not None
    assert level.source_level is not None
    passed = pass_tiles(task.slide, level.source_level, level.source, places, level.format.shard_side**2, buffers)
    unreadable = [(col, row) for _, col, row in passed.unreadable]
    recoded: Counter[str] = Counter()
    for (position, col, row), fault in zip(passed.unfit, passed.faults, strict=True):
        try:
            chunk = encode(
                _read_source(task, tile_at(level.format, col, row).box),
                level.format,
                quality=max(RECODED_QUALITY, task.quality),
                rgb=passed.rgb,
                subsampling=passed.subsampling,
            )
        except ReadError:
            unreadable.append((col, row))
            continue
        passed.chunks.put(position, NO_HEADER, chunk)
        recoded[fault] += 1
    return passed.chunks, ShardResult(
        level.level, tuple(sorted(unreadable)), passed.missing, recoded.total(), tuple(sorted(recoded.items()))
    )


# ---- re-encoding


def _encoded(task: ShardTask, tiles: list[TilePlan | None]) -> tuple[Chunks, ShardResult]:
    """Read and encode row by row of tiles, so that memory is bounded by a row, whatever the shard's size."""
    chunks: list[bytes | None] = []
    unreadable: list[tuple[int, int]] = []
    side = task.level.format.shard_side
    with _pixels(task) as read:
        for first in range(0, len(tiles), side):
            row = tiles[first : first + side]
            found = _read_row([tile.box for tile in row if tile is not None], read)
            for tile in row:
                if tile is None:
                    chunks.append(None)
                elif tile.box not in found:
                    unreadable.append((tile.col, tile.row))
                    chunks.append(None)
                else:
                    chunks.append(encode(found[tile.box], task.level.format, quality=task.quality))
    return Chunks.of(chunks), ShardResult(task.level.level, tuple(unreadable))


def _encoded_channels(task: ShardTask, tiles: list[TilePlan | None]) -> tuple[Chunks, ShardResult]:
    """All channels of a fluorescence slide, without loss. A tile is unreadable if one of its channels is."""
    form = task.level.format
    chunks: list[bytes | None] = [None] * (form.planes * len(tiles))
    unreadable: list[tuple[int, int]] = []
    with channel_samples(task.slide, task.folder, task.level, task.above) as read:
        for position, tile in enumerate(tiles):
            if tile is None:
                continue
            try:
                encoded = encode_planes(read(tile.box), form)
            except ReadError as error:
                logger.debug("%s", error)
                unreadable.append((tile.col, tile.row))
                continue
            chunks[position :: len(tiles)] = encoded
    return Chunks.of(chunks), ShardResult(task.level.level, tuple(unreadable))


def _read_row(boxes: list[Box], read: Callable[[Box], Pixels]) -> dict[Box, Pixels]:
    """Pixels by box, of tiles in one row. Unreadable boxes are absent."""
    if not boxes:
        return {}
    left, top, height = boxes[0][0], boxes[0][1], boxes[0][3]
    right = boxes[-1][0] + boxes[-1][2]
    try:
        row = read((left, top, right - left, height))
    except ReadError:
        pass  # retry tile by tile, so that only damaged tiles are lost
    else:
        return {box: row[:, box[0] - left : box[0] - left + box[2]] for box in boxes}
    found: dict[Box, Pixels] = {}
    for box in boxes:
        try:
            found[box] = read(box)
        except ReadError as error:
            logger.debug("%s", error)
    return found


@contextlib.contextmanager
def _pixels(task: ShardTask) -> Iterator[Callable[[Box], Pixels]]:
    """The function that reads a box of the level: from the source, or averaged from the store's previous level."""
    if task.above is None:
        yield lambda box: _read_source(task, box)
        return
    with contextlib.closing(StoreLevels(task.folder, task.above.level + 1)) as levels:
        above = task.above
        yield lambda box: _average(levels, above, box)


def _read_source(task: ShardTask, box: Box) -> Pixels:
    assert task.level.source_level is not None
    return task.slide.read_box(task.level.source_level, box)


def _average(levels: StoreLevels, above: LevelPlan, box: Box) -> Pixels:
    """Mean of k × k px of the previous level; at its right and lower edge, the last column and row are repeated."""
    x, y, width, height = box
    factor = BUILT_DOWNSAMPLE
    right, bottom = min(factor * (x + width), above.format.width), min(factor * (y + height), above.format.height)
    pixels = levels.read_box(above.level, (factor * x, factor * y, right - factor * x, bottom - factor * y))
    missing = (factor * height - pixels.shape[0], factor * width - pixels.shape[1])
    if any(missing):
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(pixels).reduce(factor))
