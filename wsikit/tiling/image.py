"""Pixels into the store: one task per shard, each written whole; the root's zarr.json comes last and commits them.

An interrupted run is continued: shards that are on disk and whole are kept, if they belong to the same plan.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError, StoreError
from wsikit.execution import Executor
from wsikit.slides.base import Slide
from wsikit.slides.store import SlideStore
from wsikit.slides.store_levels import StoreLevels
from wsikit.store import ngff
from wsikit.store.atomic import PARTIAL_SUFFIX, write_bytes, write_json
from wsikit.store.receipts import Receipt
from wsikit.store.shards import MISSING, pack_shard, read_index
from wsikit.tiling.plan import (
    ImageParameters,
    LevelPlan,
    ShardPlan,
    TilePlan,
    plan_levels,
    plan_shards,
    tiles_of_shard,
)

logger = logging.getLogger(__name__)

STORE_FORMAT = 1
IMAGE_REVISION = 1
PLAN_NAME = "wsikit-plan.json"
"""There while a store is being written: what the shards on disk belong to. Removed by the commit."""

Box = tuple[int, int, int, int]


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


@dataclass(frozen=True)
class ShardResult:
    """What became of one shard."""

    level: int
    unreadable: tuple[tuple[int, int], ...]
    """Tiles (column, row) of the level whose pixels could not be read."""


def image_receipt(slide: Slide, fingerprint: str, parameters: ImageParameters) -> Receipt:
    """What the store's pixels depend on."""
    settings = {**parameters.to_json(), "reader": slide.info.reader}
    return Receipt("image", IMAGE_REVISION, settings, {"source": fingerprint})


def write_image(
    slide: Slide,
    folder: Path,
    *,
    slide_id: str,
    fingerprint: str,
    parameters: ImageParameters,
    executor: Executor,
    on_plan: Callable[[int], None] | None = None,
    on_shard: Callable[[], None] | None = None,
) -> SlideStore:
    """Bring the image part of the store at `folder` up to date with `slide` and return the store.

    Parameters
    ----------
    slide
        The source.
    folder
        The store, `<slide_id>.zarr`.
    fingerprint
        Of the source file; another one than the store was made from makes its pixels void.
    on_plan, on_shard
        Told the number of shards to write, and when one is done.

    Raises
    ------
    StoreError
        If something that wsikit did not write is at `folder`.
    """
    receipt = image_receipt(slide, fingerprint, parameters)
    if _is_committed(folder, receipt):
        return SlideStore(folder)
    _begin(folder, receipt)
    levels = plan_levels(slide.level_dimensions, parameters.tile_px)
    tasks = [
        ShardTask(slide, folder, level, levels[i - 1] if level.source_level is None else None, shard, parameters)
        for i, level in enumerate(levels)
        for shard in plan_shards(level, parameters.chunks_per_shard)
    ]
    if on_plan:
        on_plan(len(tasks))
    unreadable: dict[int, list[list[int]]] = {level.level: [] for level in levels}
    # level by level: a built level reads the one before it
    for level in levels:
        write_json(folder / str(level.level) / "zarr.json", _level_record(level, slide, parameters, []))
        of_level = [task for task in tasks if task.level.level == level.level]
        for result in executor.map(write_shard, of_level, on_done=lambda _: on_shard() if on_shard else None):
            unreadable[result.level].extend([col, row] for col, row in result.unreadable)
        if unreadable[level.level]:
            logger.warning(
                "%s: %d tiles of level %d could not be read", slide.path, len(unreadable[level.level]), level.level
            )
            record = _level_record(level, slide, parameters, sorted(unreadable[level.level]))
            write_json(folder / str(level.level) / "zarr.json", record)
    _commit(slide, folder, slide_id=slide_id, receipt=receipt, levels=levels)
    return SlideStore(folder)


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard unless it is there and whole. Tiles that cannot be read are left out and named."""
    tiles = tiles_of_shard(task.shard, task.level, task.parameters.chunks_per_shard)
    if _is_whole(task.path, tiles, task.parameters.chunks_per_shard):
        return ShardResult(task.level.level, ())
    boxes = [tile.box for tile in tiles if tile is not None]
    left, top = boxes[0][:2]
    right, bottom = max(x + w for x, _, w, _ in boxes), max(y + h for _, y, _, h in boxes)
    read = _read_source if task.above is None else _read_above
    try:
        block: npt.NDArray[np.uint8] | None = read(task, (left, top, right - left, bottom - top))
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
        chunks.append(_encode(pixels, task.level.tile_px, task.parameters.jpeg_quality))
    write_bytes(task.path, pack_shard(chunks))
    return ShardResult(task.level.level, tuple(unreadable))


def _read_source(task: ShardTask, box: Box) -> npt.NDArray[np.uint8]:
    assert task.level.source_level is not None
    return task.slide.read_box(task.level.source_level, box)


def _read_above(task: ShardTask, box: Box) -> npt.NDArray[np.uint8]:
    """Mean of 2 × 2 px of the level before; a last odd row or column counts twice."""
    assert task.above is not None
    x, y, width, height = box
    right, bottom = min(2 * (x + width), task.above.width), min(2 * (y + height), task.above.height)
    with contextlib.closing(StoreLevels(task.folder, task.above.level + 1)) as levels:
        pixels = levels.read(task.above.level, 2 * x, 2 * y, right - 2 * x, bottom - 2 * y)
    missing = (2 * height - pixels.shape[0], 2 * width - pixels.shape[1])
    pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    sums = pixels.reshape(height, 2, width, 2, 3).sum(axis=(1, 3), dtype=np.uint16)
    return ((sums + 2) // 4).astype(np.uint8)


def _encode(pixels: npt.NDArray[np.uint8], tile_px: tuple[int, int], quality: int) -> bytes:
    import imagecodecs

    height, width = pixels.shape[:2]
    missing = (tile_px[1] - height, tile_px[0] - width)
    if any(missing):
        # edge tiles are whole JPEGs; repeating the last pixels keeps ringing out of the image
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    return bytes(
        imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=quality, subsampling="444", colorspace="RGB")
    )


def _is_whole(path: Path, tiles: list[TilePlan | None], chunks_per_shard: int) -> bool:
    try:
        index = read_index(path, chunks_per_shard)
    except StoreError:
        return False
    return index is not None and all(
        tile is None or int(entry[0]) != MISSING for tile, entry in zip(tiles, index, strict=True)
    )


def _is_committed(folder: Path, receipt: Receipt) -> bool:
    try:
        return bool(SlideStore.read_record(folder)["receipt"]["digest"] == receipt.digest)
    except (StoreError, KeyError):
        return False


def _begin(folder: Path, receipt: Receipt) -> None:
    """Make `folder` ready to take the shards of this plan. What belongs to another plan of ours goes first."""
    plan_path = folder / PLAN_NAME
    if folder.exists():
        planned = json.loads(plan_path.read_text())["digest"] if plan_path.is_file() else None
        if planned == receipt.digest:
            _remove_partials(folder)
            return
        if planned is None and any(folder.iterdir()):
            SlideStore.read_record(folder)  # raises StoreError where the folder is not a store of ours
        # uncommit first: from here on nobody may take the folder for a whole store
        (folder / "zarr.json").unlink(missing_ok=True)
        write_json(plan_path, receipt.to_json())
        for child in folder.iterdir():
            if child.is_dir() and (child.name.isdigit() or child.name in ("labels", "patches", "associated", "wsikit")):
                shutil.rmtree(child)
    write_json(plan_path, receipt.to_json())


def _remove_partials(folder: Path) -> None:
    for partial in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        if partial.is_file():
            partial.unlink()


def _level_record(
    level: LevelPlan, slide: Slide, parameters: ImageParameters, unreadable: list[list[int]]
) -> dict[str, Any]:
    attributes = {
        "lossless": False,
        "origin": "averaged" if level.source_level is None else "decoded and encoded again",
        "source_level": level.source_level,
        "codec": {"name": "jpeg", "quality": parameters.jpeg_quality, "subsampling": "444"},
        "unreadable_tiles": unreadable,
    }
    return ngff.jpeg_array(
        width=level.width,
        height=level.height,
        tile_px=level.tile_px,
        chunks_per_shard=parameters.chunks_per_shard,
        attributes=attributes,
    )


def _commit(slide: Slide, folder: Path, *, slide_id: str, receipt: Receipt, levels: list[LevelPlan]) -> None:
    info = slide.info
    mpp = info.mpp
    record = {
        "format": STORE_FORMAT,
        "slide_id": slide_id,
        "lossless": False,
        "mpp": list(mpp) if mpp else None,
        "mpp_source": info.mpp_source,
        "magnification": info.magnification,
        "downsamples": [list(level.downsample) for level in levels],
        "source": {
            "name": Path(info.path).name,
            "vendor": info.vendor,
            "reader": info.reader,
            "compression": info.compression,
            "fingerprint": receipt.inputs["source"],
        },
        "receipt": receipt.to_json(),
    }
    ome = ngff.multiscale_image(name=slide_id, mpp=mpp, downsamples=[level.downsample for level in levels])
    _write_vendor_group(slide, folder)
    write_json(folder / "zarr.json", ngff.group({"ome": ome, "wsikit": record}))
    (folder / PLAN_NAME).unlink(missing_ok=True)


def _write_vendor_group(slide: Slide, folder: Path) -> None:
    """Vendor properties (allow-listed by the reader) and the colour profile, out of NGFF's way."""
    import zarr

    group = zarr.open_group(folder / "wsikit", mode="w", attributes={"vendor": dict(slide.info.properties or {})})
    profile = slide.info.icc_profile
    if profile:
        group.create_array("icc", data=np.frombuffer(profile, dtype=np.uint8))
