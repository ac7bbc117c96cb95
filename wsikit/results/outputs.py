"""The files in a slide's folder of results: map, outlines, report, result.json, thumbnail. All come from its store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsikit._version import versions
from wsikit.exporters.geojson import write_geojson
from wsikit.exporters.heatmap import write_map_png
from wsikit.exporters.overlay import paint_map, picture_size
from wsikit.exporters.pyramid import encode_jpeg
from wsikit.exporters.report import PATCH_FOLDER, write_report
from wsikit.inference.localize import concept_columns
from wsikit.results.load import StoredResults
from wsikit.results.record import SlideSummary, result_record, summarize
from wsikit.results.report import now, report_data
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import write_bytes, write_json
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable

__all__ = [
    "FILES",
    "SlideSummary",
    "outputs_receipt",
    "stored_outputs_receipt",
    "summarize",
    "thumbnail_jpeg",
    "write_outputs",
]

OUTPUTS_REVISION = 6
FILES = ("map.png", "subtype.geojson", "report.html", "result.json", "thumbnail.jpg")
PROVENANCE = "provenance.json"
PATCHES = f"report{PATCH_FOLDER}"
"""Folder with the data of the patches, where they do not fit into the report's page."""
THUMBNAIL = (200, 150)
"""Maximum width and height of each half of thumbnail.jpg: the slide, and the map over it."""


def write_outputs(
    store: SlideStore,
    table: PatchTable,
    folder: Path,
    *,
    method: str | None = None,
    not_predicted: str | None = None,
) -> SlideSummary:
    """Bring `FILES` in `folder` up to date with the store and return the slide's result.

    Files that were made from the same inputs with the same parameters are kept (see `PROVENANCE`).

    Parameters
    ----------
    method
        Which vote is shown; None: that of the model.
    not_predicted
        Why no model was run on this slide, or None.
    """
    results = StoredResults(store, table.name, method, not_predicted)
    receipt = outputs_receipt(results)
    stored = stored_outputs_receipt(folder)
    if stored is None or stored.digest != receipt.digest:
        class_map = results.class_map
        write_map_png(folder / "map.png", class_map, results.thumbnail, results.result, reason=results.reason)
        write_geojson(folder / "subtype.geojson", class_map.with_unpredicted(), bounds=store.info.bounds)
        write_report(folder / "report.html", report_data(results))
        write_json(folder / "result.json", result_record(results))
        write_bytes(folder / "thumbnail.jpg", thumbnail_jpeg(results))
        sizes = {name: (folder / name).stat().st_size for name in FILES}
        record: dict[str, Any] = {"receipt": receipt.to_json(), "made": now(), "versions": versions(), "bytes": sizes}
        if (folder / PATCHES).is_dir():
            record["patch_bytes"] = _bytes_in(folder / PATCHES)
        store.check_source(complete=True)  # what cannot be read raises
        write_json(folder / PROVENANCE, record)
    return summarize(results)


def thumbnail_jpeg(results: StoredResults) -> bytes:
    """Slide and map side by side, small, as JPEG."""
    size = picture_size(results.class_map.grid, *THUMBNAIL)
    slide = np.asarray(Image.fromarray(results.thumbnail).resize(size, Image.Resampling.LANCZOS))
    gap: npt.NDArray[np.uint8] = np.full((size[1], 6, 3), 255, dtype=np.uint8)
    class_map = results.class_map.as_voted(results.result)
    return encode_jpeg(np.hstack([slide, gap, paint_map(class_map, results.thumbnail, size)]), 85)


def outputs_receipt(results: StoredResults) -> Receipt:
    """Receipt of the files that `write_outputs` would write from these results."""
    table, method, predicted = results.table, results.shown_method, results.result is not None
    names = ("coords", "readable", "caption", "probability", "attention") if predicted else ("coords", "readable")
    receipts = {name: table.receipt(name) for name in (*names, *concept_columns(table))}
    inputs = {name: receipt.digest for name, receipt in receipts.items() if receipt is not None}
    voted = table.vote_receipt(method) if predicted else None
    if voted is not None:
        inputs["vote"] = voted.digest
    return Receipt("outputs", OUTPUTS_REVISION, {"method": method, "reason": results.reason}, inputs)


def stored_outputs_receipt(folder: Path) -> Receipt | None:
    """Receipt of the files in `folder`; None if one of `FILES` is missing or cut off, or the record is damaged."""
    try:
        record = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        receipt = Receipt.from_json(record["receipt"])
        stated = record.get("bytes", {})  # earlier versions state none
        found = {name: (folder / name).stat().st_size for name in FILES}
        whole = all(stated.get(name, size) == size for name, size in found.items())
        whole &= "patch_bytes" not in record or record["patch_bytes"] == _bytes_in(folder / PATCHES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return receipt if whole else None


def _bytes_in(folder: Path) -> int:
    """Length of all files in a folder, bytes."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)
