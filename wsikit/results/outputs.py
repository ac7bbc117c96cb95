"""What a slide's folder of results holds, made from its store: map, outlines, report, the statement as JSON.

This is the glue: it knows the store's columns and the exporters' plain data, and neither knows the other.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wsikit._version import versions
from wsikit.exporters.geojson import write_geojson
from wsikit.exporters.heatmap import write_map_png
from wsikit.exporters.overlay import paint_map, picture_size
from wsikit.exporters.pyramid import encode_jpeg
from wsikit.exporters.report import write_report
from wsikit.results.load import StoredResults, load_results, unreadable_fraction, whole_slide
from wsikit.results.record import statement
from wsikit.results.report import now, report_data
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import write_bytes, write_json
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable

__all__ = ["FILES", "SlideSummary", "load_results", "report_data", "summarize", "whole_slide", "write_outputs"]

OUTPUTS_REVISION = 2
FILES = ("map.png", "subtype.geojson", "report.html", "result.json", "thumbnail.jpg")
PROVENANCE = "provenance.json"
THUMBNAIL = (200, 150)
"""Width and height that each half of thumbnail.jpg may take: the slide, and the map over it."""


@dataclass(frozen=True)
class SlideSummary:
    """A slide's result as a row of slides.csv says it."""

    subtype: str | None
    probability: dict[str, float]
    """By code of the voting classes."""
    margin: float | None
    abstained: bool
    reason: str | None
    unreadable_fraction: float
    """Share of the patches that could not be read."""


def write_outputs(
    store: SlideStore,
    table: PatchTable,
    folder: Path,
    *,
    method: str = "mean",
    not_predicted: str | None = None,
) -> SlideSummary:
    """Bring `FILES` in `folder` up to date with the store and return the slide's result.

    Parameters
    ----------
    not_predicted
        Why no model was run on this slide, or None.
    """
    found = load_results(store, table, method=method, not_predicted=not_predicted)
    receipt = outputs_receipt(found, method)
    stored = stored_outputs_receipt(folder)
    if stored is None or stored.digest != receipt.digest:
        thumbnail = whole_slide(store)
        write_map_png(folder / "map.png", found.class_map, thumbnail, found.result, reason=found.reason)
        write_geojson(folder / "subtype.geojson", found.class_map)
        write_report(folder / "report.html", report_data(found, thumbnail))
        write_json(folder / "result.json", statement(found))
        write_bytes(folder / "thumbnail.jpg", thumbnail_jpeg(found, thumbnail))
        write_json(folder / PROVENANCE, {"receipt": receipt.to_json(), "made": now(), "versions": versions()})
    return summarize(found)


def summarize(found: StoredResults) -> SlideSummary:
    """A slide's result in the words of slides.csv."""
    result, class_map = found.result, found.class_map
    unreadable = unreadable_fraction(found)
    if result is None:
        return SlideSummary(None, {}, None, True, found.reason, round(unreadable, 6))
    codes = [class_map.classes[index] for index in class_map.voting]
    probability = {
        code: round(float(value), 4) for code, value in zip(codes, result.probs, strict=True) if math.isfinite(value)
    }
    return SlideSummary(
        subtype=None if result.label is None else codes[result.label],
        probability=probability,
        margin=round(result.margin, 4) if math.isfinite(result.margin) else None,
        abstained=result.abstained,
        reason=result.reason or None,
        unreadable_fraction=round(unreadable, 6),
    )


def thumbnail_jpeg(found: StoredResults, whole: np.ndarray) -> bytes:
    """Slide and map side by side, small, as JPEG."""
    size = picture_size(found.class_map.grid, *THUMBNAIL)
    slide = np.asarray(Image.fromarray(whole).resize(size, Image.Resampling.LANCZOS))
    gap = np.full((size[1], 6, 3), 255, dtype=np.uint8)
    return encode_jpeg(np.hstack([slide, gap, paint_map(found.class_map, whole, size)]), 85)


def outputs_receipt(found: StoredResults, method: str) -> Receipt:
    """Of the files that `write_outputs` would write from these results."""
    table = found.table
    names = ("coords", "readable", "caption", "probability") if found.result is not None else ("coords", "readable")
    receipts = {name: table.receipt(name) for name in names}
    inputs = {name: receipt.digest for name, receipt in receipts.items() if receipt is not None}
    voted = table.vote_receipt(method) if found.result is not None else None
    if voted is not None:
        inputs["vote"] = voted.digest
    return Receipt("outputs", OUTPUTS_REVISION, {"method": method, "reason": found.reason}, inputs)


def stored_outputs_receipt(folder: Path) -> Receipt | None:
    """Of the files in `folder`; None if one of `FILES` is missing or their provenance cannot be read."""
    try:
        record = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))["receipt"]
        receipt = Receipt.from_json(record)
    except (OSError, json.JSONDecodeError, KeyError):
        return None
    return receipt if all((folder / name).is_file() for name in FILES) else None
