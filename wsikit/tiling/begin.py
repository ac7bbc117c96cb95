"""The beginning of a store's pixels: what is there is kept if it belongs to the same plan, removed if it belongs to
another one of the same slide, and refused else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.slides.base import Slide
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import read_metadata, remove_partials, write_json, write_new_json
from wsikit.store.paths import remove_tree
from wsikit.store.receipts import Receipt
from wsikit.tiling import zarr_metadata as records
from wsikit.tiling.shard import PLAN_FOLDER

PLAN_NAME = "plan.json"
OUR_FOLDERS = ("labels", "maps", "patches", "associated", "wsikit")


def begin(folder: Path, receipt: Receipt, slide: Slide) -> None:
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
    elif not write_new_json(plan_path, plan, sync=False):  # if a power cut empties it, nothing of the store is kept
        begin(folder, receipt, slide)  # another run has just begun


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
