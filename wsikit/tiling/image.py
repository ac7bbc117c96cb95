"""Writing of a store's pixels: one task per shard, each written atomically; the root's zarr.json is written last and
commits them.

An interrupted run is continued: complete shards on disk are kept, if they belong to the same plan.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.executor import Executor
from wsikit.slides.base import BaseSlide, Slide
from wsikit.slides.encoded_tiles import EncodedTiles, TileSource
from wsikit.slides.file_state import FileState
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.store import SlideStore
from wsikit.store.flushing import Flushing
from wsikit.store.paths import place, remove_tree
from wsikit.store.receipts import Receipt
from wsikit.tiling import zarr_metadata as records
from wsikit.tiling.begin import begin
from wsikit.tiling.plan import ImageParameters, LevelPlan, Planes, plan_levels, plan_shards
from wsikit.tiling.ranges import Buffers
from wsikit.tiling.regions import background_tiles
from wsikit.tiling.repair import LevelWork, lost_part
from wsikit.tiling.shard import PLAN_FOLDER, ShardResult, ShardTask, write_shard
from wsikit.tissue.mask import TissueMask

logger = logging.getLogger(__name__)

IMAGE_REVISION = 4
_FLUORESCENCE_FILL = 0


@dataclass(frozen=True)
class ImageSource:
    """The slide whose pixels are to be stored, with its fingerprint and the levels that can be passed through."""

    slide: Slide
    fingerprint: str
    """Of the file. If it differs from that of the store's source, the pixels are written again."""
    state: FileState
    """Of the file, when it was opened."""
    passing: dict[int, TileSource]
    """Levels whose encoded tiles can be passed through, and the format of these tiles."""
    faults: dict[int, str] = field(default_factory=dict)
    """Why the tiles of the other levels cannot be, where that is known."""

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
        state = FileState.of(slide.path)
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
    repair = _committed(folder, receipt, source.slide) is not None
    if not repair:
        begin(folder, receipt, source.slide)
    with Flushing() as flushing:
        run = _Run(source, folder, parameters, tissue, executor, on_plan, on_shard, repair, flushing)
        try:
            _write_all(run, slide_id, receipt)
        finally:
            Buffers.free()
    if (folder / PLAN_FOLDER).is_dir():
        remove_tree(folder / PLAN_FOLDER)
    return SlideStore(folder)


@dataclass(frozen=True)
class _Run:
    """One writing of a store's image; most are the arguments of `write_image`."""

    source: ImageSource
    folder: Path
    parameters: ImageParameters
    tissue: TissueMask | None
    executor: Executor
    on_plan: Callable[[int], None] | None
    on_shard: Callable[[], None] | None
    repair: bool
    """Whether the store was complete, and only lost files are written."""
    flushing: Flushing
    """The files that must be on the disk before the store is complete."""


def _write_all(run: _Run, slide_id: str, receipt: Receipt) -> None:
    """Write shards, metadata, and the root's metadata, before which all the others are flushed."""
    slide, folder, parameters = run.source.slide, run.folder, run.parameters
    levels: list[LevelPlan] = []
    lossless = parameters.pixels == "none"
    if parameters.pixels == "keep":
        levels = _levels(run)
        work = [_all_of(run, levels, level) for level in levels]
        if run.repair:
            work = [lost_part(folder, whole) for whole in work]
        with ThreadPoolExecutor(1, thread_name_prefix="wsikit-pictures") as other:  # starts a thread where it has work
            names = records.kept_pictures(slide, parameters)
            arguments = (slide, folder, names, parameters, run.flushing)
            pictures = other.submit(records.write_associated, *arguments) if names else None
            lossless = _write_levels(run, work)
            if pictures is not None:
                pictures.result()
    records.write_vendor_group(slide, folder, run.flushing)
    if run.repair:  # the root of an earlier version keeps its format
        run.flushing.wait()
        run.source.state.check()
        return
    records.write_root(
        slide,
        folder,
        slide_id=slide_id,
        receipt=receipt,
        levels=levels,
        parameters=parameters,
        lossless=lossless,
        flushing=run.flushing,
        check=run.source.state.check,
    )


def _levels(run: _Run) -> list[LevelPlan]:
    """The plan of the levels."""
    slide, tissue = run.source.slide, run.tissue
    fill = _FLUORESCENCE_FILL if tissue is not None and tissue.stain == "fluorescence" else 255
    if isinstance(slide, SlideStore) and slide.holds_pixels:
        fill = slide.level_format(0).fill  # what its tiles are that it does not store
    channels = slide.info.channels
    planes = Planes(len(channels), channels[0].dtype) if channels else None
    return plan_levels(
        slide.level_dimensions,
        run.parameters,
        run.source.passing,
        faults=run.source.faults,
        fill=fill,
        planes=planes,
    )


def _all_of(run: _Run, levels: list[LevelPlan], level: LevelPlan) -> LevelWork:
    """All shards of a level."""
    background = background_tiles(level, run.tissue) if run.tissue is not None else frozenset()
    above = levels[level.level - 1] if level.source_level is None else None
    quality, flushing = run.parameters.jpeg_quality, run.flushing if run.executor.scheduler == "threads" else None
    tasks = [
        ShardTask(run.source.slide, run.folder, level, above, shard, quality, background, flushing)
        for shard in plan_shards(level)
    ]
    return LevelWork(level, tuple(tasks), len(background))


def _write_levels(run: _Run, work: list[LevelWork]) -> bool:
    """Write the shards and the levels' metadata; return whether the result is lossless."""
    source, folder, parameters, on_shard = run.source, run.folder, run.parameters, run.on_shard
    slide = source.slide
    if run.on_plan:
        run.on_plan(sum(len(of_level.tasks) for of_level in work))
    # levels from the source are independent; a built level reads the one before it
    stages = [[of_level for of_level in work if of_level.plan.source_level is not None]]
    stages += [[of_level] for of_level in work if of_level.plan.source_level is None]
    exact = "wsikit.white-level" not in (slide.info.properties or {})
    lossless = work[0].plan.source_level == 0
    for stage in stages:
        of_stage = [task for of_level in stage for task in of_level.tasks]
        results = iter(run.executor.map(write_shard, of_stage, on_done=lambda _: on_shard() if on_shard else None))
        for of_level in stage:
            if of_level.is_complete:
                continue
            source.state.check()
            found = list(islice(results, len(of_level.tasks)))
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
            if run.repair:
                run.flushing.wait()  # the root is there already: the level's metadata commit its shards
            records.write_level(folder, of_level.plan, attributes, parameters, run.flushing)
            lossless = lossless and (attributes["lossless"] or of_level.plan.source_level is None)
    return lossless


def _warn_of_unreadable(slide: Slide, level: LevelPlan, results: list[ShardResult]) -> None:
    count = sum(len(result.unreadable) for result in results)
    if count:
        logger.warning("%s: %d tiles of level %d could not be read", slide.path, count, level.level)
