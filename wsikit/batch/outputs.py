"""What a slide's folder of results holds, made from its store: map.png, subtype.geojson, report.html.

This is the glue: it knows the store's columns and the exporters' plain data, and neither knows the other.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.batch.records import versions
from wsikit.errors import ReadError
from wsikit.export.classmap import ClassMap, strongest_patches
from wsikit.export.geojson import write_geojson
from wsikit.export.heatmap import write_map_png
from wsikit.export.palette import parse_color
from wsikit.export.report import Fact, PatchExample, ReportData, Section, write_report
from wsikit.inference.caption_columns import CaptionColumns, read_captions
from wsikit.inference.stages import stored_vote
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import write_json
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable
from wsikit.tiling.stream import read_patches
from wsikit.tissue.overview import read_overview
from wsikit.voting import SlideResult, vote_inputs

OUTPUTS_REVISION = 1
EXAMPLES_PER_CLASS = 4
THUMBNAIL_PX = 1600
FILES = ("map.png", "subtype.geojson", "report.html")
PROVENANCE = "provenance.json"
TELLING_FACTS = (
    "nuclei_per_mm2",
    "nuclear_diameter_um",
    "fibrillary_share",
    "large_pale_nuclei_share",
    "ganglion_like_share",
    "spindle_share",
)
"""What a pathologist asks of a neuroblastic tumour first; shown before all other facts."""

_UNITS = {"share": ("%", 100), "count": ("", 1), "ratio": ("", 1), "density": ("OD", 1), "per mm²": ("/mm²", 1)}
_FACT_ENDING = re.compile(r"_(share|um|per_mm2)$")


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


@dataclass(frozen=True)
class Findings:
    """What the store holds of one grid, read once for all exporters."""

    store: SlideStore
    table: PatchTable
    class_map: ClassMap
    result: SlideResult | None
    reason: str
    """Why there is no vote, where `result` is None."""
    model: dict[str, Any] = field(default_factory=dict)
    """What is kept of the model beside its predictions; empty without predictions."""


def gather(store: SlideStore, table: PatchTable, *, method: str = "mean", not_predicted: str | None = None) -> Findings:
    """Read a store's predictions and vote.

    Parameters
    ----------
    method
        Which vote to show, where there are several.
    not_predicted
        Why no model was run; predictions that may be there from before are then left aside.
    """
    coords = table.coords
    predicted = not_predicted is None and "probability" in table.columns()
    common = {
        "slide_id": store.slide_id,
        "grid": table.grid,
        "mpp_source": store.mpp_source,
        "coords": coords,
    }
    if not predicted:
        none = np.full(len(coords), -1, dtype=np.int64)
        empty = ClassMap(**common, labels=none, probs=None, classes=(), class_names=(), colors=())
        return Findings(store, table, empty, None, not_predicted or "no model was run")
    attributes = table.attributes("probability")
    model = attributes["model"]
    classes, background = tuple(attributes["names"]), tuple(model["background"])
    probs = table.read("probability")
    inputs = vote_inputs(probs, classes, background)
    class_map = ClassMap(
        **common,
        labels=inputs.labels,
        probs=probs,
        classes=classes,
        class_names=tuple(model["class_names"]),
        colors=tuple(parse_color(color) for color in model["colors"]),
        background=background,
        notice=model["notice"],
    )
    if method not in table.votes():
        return Findings(store, table, class_map, None, f"no vote by {method} yet", model)
    return Findings(store, table, class_map, stored_vote(table, method), "", model)


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
    found = gather(store, table, method=method, not_predicted=not_predicted)
    receipt = _receipt(found, method)
    if not _up_to_date(folder, receipt):
        thumbnail = whole_slide(store)
        write_map_png(folder / "map.png", found.class_map, thumbnail, found.result, reason=found.reason)
        write_geojson(folder / "subtype.geojson", found.class_map)
        write_report(folder / "report.html", report_data(found, thumbnail))
        write_json(folder / PROVENANCE, {"receipt": receipt.to_json(), "made": _now(), "versions": versions()})
    return summarize(found)


def whole_slide(store: SlideStore) -> npt.NDArray[np.uint8]:
    """The slide at `THUMBNAIL_PX` or less along its longer side, uint8 (h, w, 3); unreadable parts hatched."""
    try:
        return store.thumbnail(THUMBNAIL_PX)
    except ReadError:
        mpp = max(size * scale for size, scale in zip(store.dimensions, store.mpp, strict=True)) / THUMBNAIL_PX
        picture, unreadable = read_overview(store, max(mpp, *store.mpp))
        rows, cols = np.nonzero(unreadable)
        picture[rows, cols] = np.where((rows + cols) % 12 < 4, 90, 170)[:, None]
        return picture


def summarize(found: Findings) -> SlideSummary:
    """A slide's result in the words of slides.csv."""
    result, class_map = found.result, found.class_map
    readable = found.table.read("readable") if len(found.table) else np.empty(0)
    unreadable = float(1 - readable.mean()) if len(readable) else found.store.tissue_record()["unreadable_fraction"]
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


def report_data(found: Findings, thumbnail: np.ndarray) -> ReportData:
    """Everything that a report says about a slide."""
    tissue = found.store.tissue_record()
    return ReportData(
        class_map=found.class_map,
        thumbnail=thumbnail,
        result=found.result,
        reason=found.reason,
        examples=_examples(found),
        tissue_mm2=float(tissue["area_mm2"]),
        unreadable_fraction=summarize(found).unreadable_fraction,
        quality=(("Kind of picture", str(tissue["stain"])),),
        provenance=_provenance(found),
        created=_now(),
    )


def _examples(found: Findings) -> tuple[PatchExample, ...]:
    """The strongest patches of each voting class, with their words."""
    class_map, table = found.class_map, found.table
    rows = [row for index in class_map.voting for row in strongest_patches(class_map, index, EXAMPLES_PER_CLASS)]
    if not rows:
        return ()
    order = np.argsort(rows, kind="stable")
    images = read_patches(found.store, table.grid, class_map.coords[np.asarray(rows)[order]]).images[np.argsort(order)]
    columns = table.columns()
    captions = read_captions(table)
    facts = table.read("caption_facts") if "caption_facts" in columns else None
    names = table.attributes("caption_facts")["names"] if facts is not None else []
    gate = table.read("gate")
    return tuple(
        PatchExample(
            row=row,
            image=image,
            caption=None if captions is None else _words(captions, row),
            facts=_facts(names, facts[row]) if facts is not None else (),
            gate=float(gate[row]),
        )
        for row, image in zip(rows, images, strict=True)
    )


def _words(captions: CaptionColumns, row: int) -> str:
    """A patch's caption; where it was written about another patch, that is said."""
    text = str(captions.texts[row])
    return (
        text if not text or captions.rows[row] == row else f"{text} [Written about a patch that looks like this one.]"
    )


def _facts(names: list[str], values: np.ndarray) -> tuple[Fact, ...]:
    """What was measured, the most telling first, shares as per cent."""
    from wsikit.captions.lexicon import FACTS

    known = {name: float(value) for name, value in zip(names, values, strict=True) if math.isfinite(value)}
    ordered = [name for name in TELLING_FACTS if name in known]
    ordered += [name for name in known if name not in TELLING_FACTS]
    found = []
    for name in ordered:
        unit, factor = _UNITS.get(FACTS[name].unit, (FACTS[name].unit, 1)) if name in FACTS else ("", 1)
        found.append(Fact(_FACT_ENDING.sub("", name).replace("_", " "), known[name] * factor, unit))
    return tuple(found)


def _provenance(found: Findings) -> tuple[Section, ...]:
    record = found.store.record
    source = record["source"]
    slide = (
        ("File", str(source["name"])),
        ("Vendor", str(source["vendor"])),
        ("Reader", str(source["reader"])),
        ("Fingerprint", str(source["fingerprint"])),
        ("Pixel size from", found.store.mpp_source),
    )
    sections = [Section("Slide", slide)]
    if found.model:
        sections.append(
            Section("Model", tuple((name, str(found.model[name])) for name in ("name", "version", "fingerprint")))
        )
    steps = []
    for column in ("coords", "caption", "probability"):
        receipt = found.table.receipt(column)
        if receipt is not None:
            settings = ", ".join(f"{name}={_short(value)}" for name, value in sorted(receipt.parameters.items()))
            steps.append((receipt.stage, settings or "defaults"))
    sections.append(Section("Steps", tuple(steps)))
    sections.append(Section("Software", tuple(versions().items())))
    return tuple(sections)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _receipt(found: Findings, method: str) -> Receipt:
    table = found.table
    names = ("coords", "readable", "caption", "probability") if found.result is not None else ("coords", "readable")
    receipts = {name: table.receipt(name) for name in names}
    inputs = {name: receipt.digest for name, receipt in receipts.items() if receipt is not None}
    voted = table.vote_receipt(method) if found.result is not None else None
    if voted is not None:
        inputs["vote"] = voted.digest
    return Receipt("outputs", OUTPUTS_REVISION, {"method": method, "reason": found.reason}, inputs)


def _up_to_date(folder: Path, receipt: Receipt) -> bool:
    try:
        kept = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))["receipt"]["digest"]
    except (OSError, json.JSONDecodeError, KeyError):
        return False
    return bool(kept == receipt.digest) and all((folder / name).is_file() for name in FILES)


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
