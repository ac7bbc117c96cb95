"""Pixels into the store: one task per shard, each written whole; the root's zarr.json comes last and commits them.

An interrupted run is continued: shards that are on disk and whole are kept, if they belong to the same plan.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import StoreError
from wsikit.execution import Executor
from wsikit.slides.base import Slide
from wsikit.slides.encoded import EncodedTiles
from wsikit.slides.store import SlideStore
from wsikit.store import ngff
from wsikit.store.atomic import PARTIAL_SUFFIX, flush, write_json
from wsikit.store.receipts import Receipt
from wsikit.tiling.plan import ImageParameters, LevelPlan, plan_levels, plan_shards
from wsikit.tiling.shard import PLAN_FOLDER, ShardResult, ShardTask, write_shard

logger = logging.getLogger(__name__)

STORE_FORMAT = 1
IMAGE_REVISION = 2
PLAN_NAME = "plan.json"
OUR_FOLDERS = ("labels", "patches", "associated", "wsikit")


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
    levels = plan_levels(slide.level_dimensions, parameters.tile_px, _passing(slide, parameters))
    tasks = [
        ShardTask(slide, folder, level, levels[i - 1] if level.source_level is None else None, shard, parameters)
        for i, level in enumerate(levels)
        for shard in plan_shards(level, parameters.chunks_per_shard)
    ]
    if on_plan:
        on_plan(len(tasks))
    results: list[ShardResult] = []
    # level by level: a built level reads the one before it
    for level in levels:
        write_json(folder / str(level.level) / "zarr.json", _level_record(level, parameters, []), sync=False)
        of_level = [task for task in tasks if task.level.level == level.level]
        results = executor.map(write_shard, of_level, on_done=lambda _: on_shard() if on_shard else None)
        record = _level_record(level, parameters, results)
        _warn_of_unreadable(slide, level, record)
        write_json(folder / str(level.level) / "zarr.json", record, sync=False)
    _commit(slide, folder, slide_id=slide_id, receipt=receipt, levels=levels)
    return SlideStore(folder)


def _passing(slide: Slide, parameters: ImageParameters) -> dict[int, tuple[int, int]]:
    """The source levels whose own tiles can be kept, and the size of these."""
    if not parameters.pass_through or not isinstance(slide, EncodedTiles):
        return {}
    sources = {level: slide.tile_source(level) for level in range(len(slide.level_dimensions))}
    return {level: source.tile_px for level, source in sources.items() if source is not None}


def _warn_of_unreadable(slide: Slide, level: LevelPlan, record: dict[str, Any]) -> None:
    count = len(record["attributes"]["wsikit"]["unreadable_tiles"])
    if count:
        logger.warning("%s: %d tiles of level %d could not be read", slide.path, count, level.level)


def _is_committed(folder: Path, receipt: Receipt) -> bool:
    try:
        return bool(SlideStore.read_record(folder)["receipt"]["digest"] == receipt.digest)
    except (StoreError, KeyError):
        return False


def _begin(folder: Path, receipt: Receipt) -> None:
    """Make `folder` ready to take the shards of this plan. What belongs to another plan of ours goes first."""
    plan_path = folder / PLAN_FOLDER / PLAN_NAME
    if folder.exists():
        if _planned(plan_path) == receipt.digest:
            _remove_partials(folder)
            return
        if not plan_path.is_file() and any(folder.iterdir()):
            SlideStore.read_record(folder)  # raises StoreError where the folder is not a store of ours
        # a kill while clearing must leave a folder that is known as ours, and not as this plan's
        write_json(plan_path, {"digest": None, "clearing": True})
        (folder / "zarr.json").unlink(missing_ok=True)
        for child in folder.iterdir():
            if child.is_dir() and (child.name.isdigit() or child.name in OUR_FOLDERS):
                shutil.rmtree(child)
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


def _remove_partials(folder: Path) -> None:
    for partial in folder.rglob(f"*{PARTIAL_SUFFIX}"):
        if partial.is_file():
            partial.unlink()


def _level_record(level: LevelPlan, parameters: ImageParameters, results: Sequence[ShardResult]) -> dict[str, Any]:
    """zarr.json of a level: what its bytes are, and what there is to say of them."""
    recoded = sum(result.recoded for result in results)
    attributes: dict[str, Any] = {
        "fidelity": "bytes" if level.passed else "encoded",
        "lossless": level.passed and recoded == 0,
        "origin": _origin(level),
        "source_level": level.source_level,
        "missing_tiles": sum(result.missing for result in results),
        "recoded_tiles": recoded,
        "unreadable_tiles": sorted([col, row] for result in results for col, row in result.unreadable),
    }
    if not level.passed:
        attributes["codec"] = {"name": "jpeg", "quality": parameters.jpeg_quality, "subsampling": "444"}
    return ngff.jpeg_array(
        width=level.width,
        height=level.height,
        tile_px=level.tile_px,
        chunks_per_shard=parameters.chunks_per_shard,
        attributes=attributes,
    )


def _origin(level: LevelPlan) -> str:
    if level.source_level is None:
        return "averaged from the level before"
    return "the source's own tiles" if level.passed else "decoded and encoded again"


def _commit(slide: Slide, folder: Path, *, slide_id: str, receipt: Receipt, levels: list[LevelPlan]) -> None:
    info = slide.info
    mpp = info.mpp
    record = {
        "format": STORE_FORMAT,
        "slide_id": slide_id,
        "lossless": all(_is_lossless(folder, level) for level in levels if level.source_level is not None),
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
    for level in levels:
        for path in (folder / str(level.level)).rglob("*"):
            if path.is_file():
                flush(path)
    write_json(folder / "zarr.json", ngff.group({"ome": ome, "wsikit": record}))
    shutil.rmtree(folder / PLAN_FOLDER)


def _is_lossless(folder: Path, level: LevelPlan) -> bool:
    record = json.loads((folder / str(level.level) / "zarr.json").read_text(encoding="utf-8"))
    return bool(record["attributes"]["wsikit"]["lossless"])


def _write_vendor_group(slide: Slide, folder: Path) -> None:
    """Vendor properties (allow-listed by the reader) and the colour profile, out of NGFF's way."""
    import zarr

    group = zarr.open_group(folder / "wsikit", mode="w", attributes={"vendor": dict(slide.info.properties or {})})
    profile = slide.info.icc_profile
    if profile:
        group.create_array("icc", data=np.frombuffer(profile, dtype=np.uint8))
