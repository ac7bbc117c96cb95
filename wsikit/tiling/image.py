"""Writing of a store's pixels: one task per shard, each written atomically; the root's zarr.json is written last and
commits them.

An interrupted run is continued: complete shards on disk are kept, if they belong to the same plan.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import SlideError, StoreError
from wsikit.executor import Executor
from wsikit.slides.base import BaseSlide, Slide
from wsikit.slides.encoded_tiles import EncodedTiles, TileSource
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import remove_partials, write_json
from wsikit.store.paths import is_url, place, remove_tree
from wsikit.store.receipts import Receipt
from wsikit.tiling import zarr_metadata as records
from wsikit.tiling.plan import ImageParameters, LevelPlan, Planes, plan_levels, plan_shards
from wsikit.tiling.regions import background_tiles
from wsikit.tiling.shard import PLAN_FOLDER, ShardResult, ShardTask, write_shard
from wsikit.tissue.mask import TissueMask

logger = logging.getLogger(__name__)

IMAGE_REVISION = 4
PLAN_NAME = "plan.json"
OUR_FOLDERS = ("labels", "maps", "patches", "associated", "wsikit")
_FLUORESCENCE_FILL = 0


@dataclass(frozen=True)
class ImageSource:
    """The slide whose pixels are to be stored, with its fingerprint and the levels that can be passed through."""

    slide: Slide
    fingerprint: str
    """Of the file. If it differs from that of the store's source, the pixels are written again."""
    state: tuple[int, int]
    """Size in bytes and modification time of the file."""
    passing: dict[int, TileSource]
    """Levels whose encoded tiles can be passed through, and the format of these tiles."""

    @staticmethod
    def state_of(path: str) -> tuple[int, int]:
        """Size in bytes and modification time; OSError without such a file. For a store at a URL: of its metadata."""
        if is_url(path):
            root = (place(path) / "zarr.json").read_bytes()
            return len(root), zlib.crc32(root)
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns

    @classmethod
    def of(cls, slide: Slide) -> ImageSource:
        passing: dict[int, TileSource] = {}
        if isinstance(slide, EncodedTiles):
            found = {level: slide.tile_source(level) for level in range(len(slide.level_dimensions))}
            passing = {level: source for level, source in found.items() if source is not None}
        state = cls.state_of(slide.path)
        return cls(slide, fingerprint(slide.path), state, passing)

    def tissue_only(self, parameters: ImageParameters) -> bool:
        """Whether background is left out: on request, and by default without pass-through."""
        if parameters.pixels == "none" or parameters.regions != "auto" or self.slide.info.channels:
            return parameters.regions == "tissue"
        return parameters.profile == "portable" or min(parameters.levels or (0,)) not in self.passing


def image_receipt(source: ImageSource, parameters: ImageParameters, tissue: Receipt | None) -> Receipt:
    """Receipt of the store's pixels. `tissue` is given where only tissue is stored.

    A pixel size that a user gives (option, manifest, sidecar) is part of it: it can be corrected. The pixel size that
    the file states is covered by the fingerprint of the file. The scene of a file that has several is part of it too.
    """
    settings: dict[str, Any] = {**parameters.to_json(), "reader": source.slide.info.reader}
    if isinstance(source.slide, BaseSlide) and source.slide.has_given_mpp:
        settings["mpp"] = list(source.slide.mpp)
    if source.slide.info.channels:
        # names, colours and windows are stored, and the composite is made with them
        settings["channels"] = [asdict(channel) for channel in source.slide.info.channels]
    if source.slide.info.scenes:
        settings["scene"] = source.slide.info.scene
    inputs = {"source": source.fingerprint} | ({"tissue": tissue.digest} if tissue else {})
    return Receipt("image", IMAGE_REVISION, settings, inputs)


def open_committed(folder: Path, receipt: Receipt, slide: Slide) -> SlideStore | None:
    """The store at `folder`, if its pixels are complete under `receipt`; else None.

    In a store without pixels, the path of its slide is updated.
    """
    try:
        record = SlideStore.read_record(folder)
        if record["receipt"]["digest"] != receipt.digest:
            return None
        if record["pixels"] == "source" and record["source"]["path"] != str(place(slide.path).absolute()):
            records.move_source(folder, slide)
        if (folder / PLAN_FOLDER).is_dir():
            remove_tree(folder / PLAN_FOLDER)  # killed after the commit
        return SlideStore(folder)
    except (StoreError, KeyError):
        return None


def write_image(
    source: ImageSource,
    folder: Path,
    *,
    slide_id: str,
    receipt: Receipt,
    parameters: ImageParameters,
    tissue: TissueMask | None,
    executor: Executor,
    on_plan: Callable[[int], None] | None = None,
    on_shard: Callable[[], None] | None = None,
) -> SlideStore:
    """Write the image part of the store at `folder` and return the store.

    Parameters
    ----------
    tissue
        Store only what this mask covers, with a margin; None: everything.
    on_plan, on_shard
        Called with the number of shards to write, and after each shard.

    Raises
    ------
    StoreError
        A folder that wsikit did not write exists at `folder`, or it cannot be written.
    SlideError
        The source changed or was removed while it was read.
    """
    slide = source.slide
    _begin(folder, receipt)
    levels: list[LevelPlan] = []
    lossless = parameters.pixels == "none"
    if parameters.pixels == "keep":
        fill = _FLUORESCENCE_FILL if tissue is not None and tissue.stain == "fluorescence" else 255
        channels = slide.info.channels
        planes = Planes(len(channels), channels[0].dtype) if channels else None
        levels = plan_levels(slide.level_dimensions, parameters, source.passing, fill=fill, planes=planes)
        lossless = _write_levels(source, folder, levels, parameters, tissue, executor, on_plan, on_shard)
        records.write_associated(slide, folder, parameters)
    records.write_vendor_group(slide, folder)
    records.flush_metadata(folder, levels)
    _check_unchanged(source)
    records.write_root(
        slide,
        folder,
        slide_id=slide_id,
        receipt=receipt,
        levels=levels,
        parameters=parameters,
        lossless=lossless,
    )
    remove_tree(folder / PLAN_FOLDER)
    return SlideStore(folder)


def _write_levels(
    source: ImageSource,
    folder: Path,
    levels: list[LevelPlan],
    parameters: ImageParameters,
    tissue: TissueMask | None,
    executor: Executor,
    on_plan: Callable[[int], None] | None,
    on_shard: Callable[[], None] | None,
) -> bool:
    """Write all shards and the levels' metadata; return whether the result is lossless."""
    slide = source.slide
    tasks: dict[int, list[ShardTask]] = {}
    dropped: dict[int, int] = {}
    for level in levels:
        background = background_tiles(level, tissue) if tissue is not None else frozenset()
        dropped[level.level] = len(background)
        above = levels[level.level - 1] if level.source_level is None else None
        tasks[level.level] = [
            ShardTask(slide, folder, level, above, shard, parameters.jpeg_quality, background)
            for shard in plan_shards(level)
        ]
    if on_plan:
        on_plan(sum(map(len, tasks.values())))
    # levels from the source are independent; a built level reads the one before it
    stages = [[level for level in levels if level.source_level is not None]]
    stages += [[level] for level in levels if level.source_level is None]
    exact = "wsikit.white-level" not in (slide.info.properties or {})
    lossless = levels[0].source_level == 0
    for stage in stages:
        of_stage = [task for level in stage for task in tasks[level.level]]
        results = executor.map(write_shard, of_stage, on_done=lambda _: on_shard() if on_shard else None)
        for level in stage:
            of_level = [result for result in results if result.level == level.level]
            attributes = records.level_attributes(
                level, parameters, of_level, dropped=dropped[level.level], exact=exact
            )
            _warn_of_unreadable(slide, level, of_level)
            records.write_level(folder, level, attributes, parameters)
            lossless = lossless and (attributes["lossless"] or level.source_level is None)
    return lossless


def _warn_of_unreadable(slide: Slide, level: LevelPlan, results: list[ShardResult]) -> None:
    count = sum(len(result.unreadable) for result in results)
    if count:
        logger.warning("%s: %d tiles of level %d could not be read", slide.path, count, level.level)


def _check_unchanged(source: ImageSource) -> None:
    """SlideError if the source was removed or replaced since: its tiles must not be recorded as unreadable."""
    path = source.slide.path
    try:
        now = source.state_of(path)
    except OSError as error:
        raise SlideError(
            f"{path}: could no longer be read at the end ({error.strerror or error}). Check that the drive is still "
            "mounted, and run again: completed shards are kept."
        ) from error
    if now != source.state:
        raise SlideError(f"{path}: changed while it was read. Let the copy finish, and run again.")


def _begin(folder: Path, receipt: Receipt) -> None:
    """Prepare `folder` for the shards of this plan. Content of another plan of wsikit is removed first."""
    plan_path = folder / PLAN_FOLDER / PLAN_NAME
    if folder.exists():
        if _planned(plan_path) == receipt.digest:
            remove_partials(folder)
            return
        if not (folder / PLAN_FOLDER).is_dir() and any(folder.iterdir()):
            SlideStore.read_record(folder)  # raises StoreError if wsikit did not write it
        # after a kill during removal, the folder must be recognised as wsikit's, but not as this plan's
        write_json(plan_path, {"digest": None, "clearing": True})
        for name in ("zarr.json", ".zattrs", ".zgroup"):
            (folder / name).unlink(missing_ok=True)
        for child in folder.iterdir():
            if child.is_dir() and (child.name.isdigit() or child.name in OUR_FOLDERS):
                remove_tree(child)
        for note in plan_path.parent.iterdir():
            if note != plan_path:
                note.unlink()
    write_json(plan_path, receipt.to_json())


def _planned(plan_path: Path) -> str | None:
    """Digest of the plan that an unfinished store belongs to."""
    try:
        return str(json.loads(plan_path.read_text(encoding="utf-8"))["digest"])
    except (OSError, json.JSONDecodeError, KeyError):
        return None
