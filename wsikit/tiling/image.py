"""Writing of a store's pixels: one task per shard, each written atomically; the root's zarr.json is written last and
commits them.

An interrupted run is continued: complete shards on disk are kept, if they belong to the same plan.
"""

from __future__ import annotations

import json
import logging
import math
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsikit.errors import SlideError, StoreError
from wsikit.executor import Executor
from wsikit.slides.base import BaseSlide, Slide
from wsikit.slides.encoded_tiles import EncodedTiles, TileSource
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import read_metadata, remove_partials, write_json, write_new_json
from wsikit.store.paths import is_url, place, remove_tree
from wsikit.store.receipts import Receipt
from wsikit.tiling import zarr_metadata as records
from wsikit.tiling.plan import ImageParameters, LevelPlan, Planes, plan_levels, plan_shards
from wsikit.tiling.regions import background_tiles
from wsikit.tiling.repair import LevelWork, lost_part
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
    faults: dict[int, str] = field(default_factory=dict)
    """Why the tiles of the other levels cannot be, where that is known."""

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
        faults: dict[int, str] = {}
        if isinstance(slide, BaseSlide):
            others = [level for level in range(len(slide.level_dimensions)) if level not in passing]
            faults = {level: fault for level in others if (fault := slide.pass_through_fault(level)) is not None}
        state = cls.state_of(slide.path)
        return cls(slide, fingerprint(slide.path), state, passing, faults)

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
    if isinstance(source.slide, SlideStore):
        settings["tiles"] = "passed through"  # earlier, a store's tiles were encoded a second time
    if source.slide.info.channels:
        # names, colours and windows are stored, and the composite is made with them
        settings["channels"] = [asdict(channel) for channel in source.slide.info.channels]
    if source.slide.info.scenes:
        settings["scene"] = source.slide.info.scene
    inputs = {"source": source.fingerprint} | ({"tissue": tissue.digest} if tissue else {})
    return Receipt("image", IMAGE_REVISION, settings, inputs)


def open_committed(folder: Path, receipt: Receipt, slide: Slide) -> SlideStore | None:
    """The store at `folder`, if its pixels are complete under `receipt` and no file of them is lost; else None.

    The place of its slide is updated: it may have been moved.
    """
    record = _committed(folder, receipt, slide)
    if record is None:
        return None
    try:
        if _was_moved(record, slide):
            records.move_source(folder, slide)
        if (folder / PLAN_FOLDER).is_dir():
            remove_tree(folder / PLAN_FOLDER)  # killed after the commit
        store = SlideStore(folder)
    except StoreError:
        return None
    return None if damage_of(store, slide) else store


def _was_moved(record: Mapping[str, Any], slide: Slide) -> bool:
    """Whether the record states another place of the slide than where it is."""
    source = record["source"]
    if record["pixels"] == "source" and source["path"] != str(place(slide.path).absolute()):
        return True
    return "place" in source and source["place"] != records.place_digest(slide.path)


def damage_of(store: SlideStore, slide: Slide) -> str | None:
    """What was lost of a store's pixels since they were written, in words; None if nothing. By listing; no decoding."""
    try:
        faults = store.damaged_files()
    except StoreError as error:
        return str(error)
    if faults:
        path, fault = next(iter(faults.items()))
        return f"{fault}: {path}" if len(faults) == 1 else f"{len(faults)} files are missing or cut off, such as {path}"
    if not (store.folder / "wsikit" / "zarr.json").is_file():
        return "the properties of the slide are missing"
    if bool(slide.info.icc_profile) != bool(store.info.icc_profile):
        return "the colour profile is missing"
    return None


def _committed(folder: Path, receipt: Receipt, slide: Slide) -> dict[str, Any] | None:
    """The root's record, if the pixels were completed under `receipt`; some of their files may be lost since."""
    try:
        record = SlideStore.read_record(folder)
    except StoreError:
        return None
    same = record["receipt"]["digest"] == receipt.digest and not read_otherwise(record, slide)
    return record if same else None


def read_otherwise(record: Mapping[str, Any], slide: Slide) -> dict[str, Any]:
    """What an earlier version of wsikit read from the same file otherwise: size and pixel size, as in the record.

    The receipt does not state them, as they follow from the file; but a version that reads them right must correct
    stores of one that did not.
    """
    found: dict[str, Any] = {}
    if list(slide.dimensions) != record["dimensions"]:
        found["dimensions"] = record["dimensions"]
    stated, now = record["mpp"], slide.info.mpp
    if (stated is None) != (now is None) or (
        stated is not None
        and now is not None
        and not all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(stated, now, strict=True))
    ):
        found["mpp"] = stated
    return found


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

    Of a store that was complete under `receipt`, only the files that it lost since are written, with the same content;
    tables and labels are kept.

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
    repair = _committed(folder, receipt, slide) is not None
    if not repair:
        _begin(folder, receipt, slide)
    levels: list[LevelPlan] = []
    lossless = parameters.pixels == "none"
    if parameters.pixels == "keep":
        fill = _FLUORESCENCE_FILL if tissue is not None and tissue.stain == "fluorescence" else 255
        if isinstance(slide, SlideStore) and slide.holds_pixels:
            fill = slide.level_format(0).fill  # what its tiles are that it does not store
        channels = slide.info.channels
        planes = Planes(len(channels), channels[0].dtype) if channels else None
        levels = plan_levels(
            slide.level_dimensions, parameters, source.passing, faults=source.faults, fill=fill, planes=planes
        )
        work = [_all_of(source, folder, levels, level, parameters, tissue) for level in levels]
        if repair:
            work = [lost_part(folder, whole) for whole in work]
        lossless = _write_levels(source, folder, work, parameters, executor, on_plan, on_shard)
        records.write_associated(slide, folder, parameters)
    records.write_vendor_group(slide, folder)
    records.flush_metadata(folder, levels)
    _check_unchanged(source)
    if not repair:  # the root of an earlier version keeps its format
        records.write_root(
            slide,
            folder,
            slide_id=slide_id,
            receipt=receipt,
            levels=levels,
            parameters=parameters,
            lossless=lossless,
        )
    if (folder / PLAN_FOLDER).is_dir():
        remove_tree(folder / PLAN_FOLDER)
    return SlideStore(folder)


def _all_of(
    source: ImageSource,
    folder: Path,
    levels: list[LevelPlan],
    level: LevelPlan,
    parameters: ImageParameters,
    tissue: TissueMask | None,
) -> LevelWork:
    """All shards of a level."""
    background = background_tiles(level, tissue) if tissue is not None else frozenset()
    above = levels[level.level - 1] if level.source_level is None else None
    tasks = [
        ShardTask(source.slide, folder, level, above, shard, parameters.jpeg_quality, background)
        for shard in plan_shards(level)
    ]
    return LevelWork(level, tuple(tasks), len(background))


def _write_levels(
    source: ImageSource,
    folder: Path,
    work: list[LevelWork],
    parameters: ImageParameters,
    executor: Executor,
    on_plan: Callable[[int], None] | None,
    on_shard: Callable[[], None] | None,
) -> bool:
    """Write the shards and the levels' metadata; return whether the result is lossless."""
    slide = source.slide
    if on_plan:
        on_plan(sum(len(of_level.tasks) for of_level in work))
    # levels from the source are independent; a built level reads the one before it
    stages = [[of_level for of_level in work if of_level.plan.source_level is not None]]
    stages += [[of_level] for of_level in work if of_level.plan.source_level is None]
    exact = "wsikit.white-level" not in (slide.info.properties or {})
    lossless = work[0].plan.source_level == 0
    for stage in stages:
        of_stage = [task for of_level in stage for task in of_level.tasks]
        results = executor.map(write_shard, of_stage, on_done=lambda _: on_shard() if on_shard else None)
        written = {task.note_path: result for task, result in zip(of_stage, results, strict=True)}
        for of_level in stage:
            if of_level.is_complete:
                continue
            _check_unchanged(source)
            found = [written[task.note_path] for task in of_level.tasks]
            if of_level.before is None:
                attributes = records.level_attributes(
                    of_level.plan, parameters, found, dropped=of_level.dropped, exact=exact
                )
                if isinstance(slide, SlideStore):
                    attributes = records.of_store(attributes, slide, of_level.plan)
            else:
                attributes = dict(of_level.before)
            attributes |= of_level.files(folder, found)
            _warn_of_unreadable(slide, of_level.plan, found)
            records.write_level(folder, of_level.plan, attributes, parameters)
            lossless = lossless and (attributes["lossless"] or of_level.plan.source_level is None)
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


def _begin(folder: Path, receipt: Receipt, slide: Slide) -> None:
    """Prepare `folder` for the shards of this plan. Content of another plan for the same slide is removed first.

    Raises
    ------
    StoreError
        The folder holds, or another run is writing, a store of another slide; or wsikit did not write it.
    """
    plan_path = folder / PLAN_FOLDER / PLAN_NAME
    plan = {**receipt.to_json(), "source": {"name": Path(slide.path).name, "place": records.place_digest(slide.path)}}
    if folder.exists():
        planned = _planned(plan_path)
        if planned.get("digest") == receipt.digest:
            remove_partials(folder)
            return
        if planned.get("source"):
            _check_same_slide(folder, planned["source"] | {"fingerprint": planned["inputs"]["source"]}, slide, receipt)
        kept: tuple[str, ...] = ()
        if not (folder / PLAN_FOLDER).is_dir() and any(folder.iterdir()):
            label = read_metadata(folder / "labels" / "tissue")
            if read_metadata(folder) is None and label is not None:
                kept = _kept_without_root(folder, label, receipt)
            else:
                found = SlideStore.read_record(folder)  # raises StoreError if wsikit did not write it
                _check_same_slide(folder, found["source"], slide, receipt)
        # after a kill during removal, the folder must be recognised as wsikit's, but not as this plan's
        write_json(plan_path, {"digest": None, "clearing": True})
        for name in ("zarr.json", ".zattrs", ".zgroup"):
            (folder / name).unlink(missing_ok=True)
        for child in folder.iterdir():
            if child.is_dir() and (child.name.isdigit() or child.name in OUR_FOLDERS) and child.name not in kept:
                remove_tree(child)
        for note in plan_path.parent.iterdir():
            if note != plan_path:
                note.unlink()
        write_json(plan_path, plan)
    elif not write_new_json(plan_path, plan):
        _begin(folder, receipt, slide)  # another run has just begun


def _kept_without_root(folder: Path, label: Any, receipt: Receipt) -> tuple[str, ...]:
    """The folders that still apply in a store that has lost its zarr.json: its tissue label states what it is made of.

    Raises
    ------
    StoreError
        The label was made from other pixels and another slide.
    """
    try:
        inputs = label["attributes"]["wsikit"]["receipt"]["inputs"]
        if inputs.get("image") == receipt.digest:
            return ("labels", "maps", "patches")
        if inputs.get("source") == receipt.inputs["source"]:
            return ()
    except (KeyError, TypeError, AttributeError):
        pass
    raise StoreError(
        f"{folder}: has lost its zarr.json, and it is not known whether it was made from this slide and with these "
        f"options. Copy the store again, or delete {folder}, and run again."
    )


def _planned(plan_path: Path) -> dict[str, Any]:
    """The plan that an unfinished store belongs to; empty if there is none."""
    try:
        plan = json.loads(plan_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def _check_same_slide(folder: Path, source: Mapping[str, Any], slide: Slide, receipt: Receipt) -> None:
    """StoreError if the store of `source` was made from another slide: neither the same place nor the same content.

    Stores of earlier versions do not state the place; there the same file name is accepted.
    """
    if source.get("fingerprint") == receipt.inputs["source"]:
        return
    name = Path(slide.path).name
    stated = source.get("place") or (records.place_digest(source["path"]) if source.get("path") else None)
    if source.get("name") == name if stated is None else stated == records.place_digest(slide.path):
        return
    raise StoreError(
        f"{folder}: holds another slide, {source.get('name')}, not {slide.path}. Give another place with -o, or delete "
        f"{folder} to replace it."
    )
