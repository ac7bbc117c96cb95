"""The content of a report, gathered from a store: example patches, captions, quality, provenance, pixels."""

from __future__ import annotations

import datetime
import json
import math
import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit._version import versions
from wsikit.exporters.classmap import attended_patches, opposing_patches, strongest_patches
from wsikit.exporters.patchdata import PAGE_BYTES, SHARED_CAPTION, PatchWords
from wsikit.exporters.pyramid import ServedPyramid, embed
from wsikit.exporters.quantity import concept_quantities
from wsikit.exporters.report_data import Fact, PatchExample, ReportData, Section
from wsikit.exporters.units import format_share
from wsikit.inference.caption_columns import CaptionColumns, read_captions
from wsikit.inference.localize import concept_columns, read_concept_map
from wsikit.results.concepts import concept_facts, concept_rows
from wsikit.results.load import StoredResults
from wsikit.tiling.stream import read_patches

EXAMPLES_PER_CLASS = 4
FIRST_FACTS = (
    "nuclei_per_mm2",
    "nuclear_diameter_um",
    "fibrillary_share",
    "large_pale_nuclei_share",
    "ganglion_like_share",
    "spindle_share",
)
"""Facts that matter most in a neuroblastic tumour; shown before all others."""
BLUR_UM = 4.0
"""Standard deviation of the blur, µm, at the value 1 of the column `blur`."""
BLURRED_UM, INKED = 1.0, 0.05
"""Limits from which on a patch counts as out of focus (µm; chromatin texture is lost) and as inked (area fraction)."""

_UNITS = {"share": ("%", 100), "count": ("", 1), "ratio": ("", 1), "density": ("OD", 1), "per mm²": ("/mm²", 1)}
_FACT_ENDING = re.compile(r"_(share|um|per_mm2)$")


def report_data(
    results: StoredResults, *, served: ServedPyramid | None = None, patch_bytes: int = PAGE_BYTES
) -> ReportData:
    """The complete content of a slide's report.

    Parameters
    ----------
    served
        Addresses of the pixels, if a server provides them; otherwise pixels are embedded.
    patch_bytes
        Maximum compressed size of the per-patch data in the page, bytes.
    """
    words = _patch_words(results)
    examples = _examples(results, words)
    return ReportData(
        class_map=results.class_map,
        thumbnail=results.thumbnail,
        result=results.result,
        reason=results.reason,
        value=None if results.value is None else (results.value.title, results.value.words()),
        examples=examples,
        tissue_mm2=float(results.store.tissue_record()["area_mm2"]),
        unreadable_fraction=results.unreadable_fraction,
        quality=_quality(results, words),
        provenance=_provenance(results),
        created=now(),
        words=words,
        attention=results.attention,
        concepts=concept_quantities(results.table) if len(results.table) else (),
        pyramid=served or embed(results.store, _boxes(results), _boxes(results, [example.row for example in examples])),
        patch_bytes=patch_bytes,
    )


def now() -> str:
    """The time, ISO 8601 with time zone; SOURCE_DATE_EPOCH (seconds since 1970) replaces the clock, if it is set."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    if fixed is not None:
        return datetime.datetime.fromtimestamp(int(fixed), datetime.UTC).isoformat(timespec="seconds")
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _boxes(results: StoredResults, rows: list[int] | None = None) -> npt.NDArray[np.float64]:
    """(n, 4) x, y, width, height of patches, level-0 px."""
    coords = results.class_map.coords[rows] if rows is not None else results.class_map.coords
    sides = np.broadcast_to(np.asarray(results.class_map.grid.side), coords.shape)
    return np.hstack([coords, sides]).astype(np.float64).reshape(-1, 4)


def _patch_words(results: StoredResults) -> PatchWords:
    """The per-patch columns of the table; columns of a model only if predictions are shown."""
    table = results.table
    there = set(table.columns()) if len(table) else set()
    predicted = results.class_map.probs is not None

    def column(name: str, wanted: bool = True) -> npt.NDArray[Any] | None:
        return table.read(name) if wanted and name in there else None

    captions = read_captions(table) if there else None
    names, units, facts = _joined(concept_facts(results), _fact_table(results, there))
    blur, readable = column("blur"), column("readable")
    return PatchWords(
        captions=None if captions is None else captions.texts,
        shared=None if captions is None else _shared(captions),
        fact_names=names,
        fact_units=units,
        facts=facts,
        gate=column("gate", predicted),
        ood_score=column("ood_score", predicted),
        blur_um=None if blur is None else blur * BLUR_UM,
        pen=column("pen"),
        readable=None if readable is None else readable.astype(bool),
    )


_Facts = tuple[tuple[str, ...], tuple[str, ...], npt.NDArray[np.float64] | None]


def _joined(one: _Facts, two: _Facts) -> _Facts:
    """Two tables of facts side by side."""
    if one[2] is None or two[2] is None:
        return two if one[2] is None else one
    return one[0] + two[0], one[1] + two[1], np.concatenate([one[2], two[2]], axis=1)


def _shared(captions: CaptionColumns) -> npt.NDArray[np.bool_]:
    """(N,) whether the caption was written for a similar patch and is shared."""
    return np.asarray(captions.rows != np.arange(len(captions.rows)), dtype=bool)


def _fact_table(
    results: StoredResults, there: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...], npt.NDArray[np.float64] | None]:
    """Names and units for display and the (N, F) values in these units; `FIRST_FACTS` first."""
    from wsikit.facts import FACTS

    if "caption_facts" not in there:
        return (), (), None
    known = list(results.table.attributes("caption_facts")["names"])
    order = [name for name in FIRST_FACTS if name in known]
    order += [name for name in known if name not in FIRST_FACTS]
    values = np.asarray(results.table.read("caption_facts"), dtype=np.float64)
    units = [_UNITS.get(FACTS[name].unit, (FACTS[name].unit, 1)) if name in FACTS else ("", 1) for name in order]
    factors = np.asarray([factor for _, factor in units], dtype=np.float64)
    names = tuple(_FACT_ENDING.sub("", name).replace("_", " ") for name in order)
    return names, tuple(unit for unit, _ in units), values[:, [known.index(name) for name in order]] * factors


def _examples(results: StoredResults, words: PatchWords) -> tuple[PatchExample, ...]:
    """The most probable patches of each voting class; if all are of the leading class, also patches against it; of a
    model with attention first those that weigh most."""
    class_map, attention = results.class_map, results.attention
    attended = [] if attention is None else attended_patches(class_map, attention, EXAMPLES_PER_CLASS)
    rows = [row for index in class_map.voting for row in strongest_patches(class_map, index, EXAMPLES_PER_CLASS)]
    if not rows:
        return ()
    rows = attended + [row for row in rows if row not in attended]
    opposing = _opposing(results, rows)
    rows += opposing
    order = np.argsort(rows, kind="stable")
    coords = class_map.coords[np.asarray(rows)[order]]
    images = read_patches(results.store, class_map.grid, coords).images[np.argsort(order)]
    return tuple(
        PatchExample(
            row=row,
            image=image,
            caption=_caption(words, row),
            facts=_facts(words, row),
            gate=None if words.gate is None else float(words.gate[row]),
            attention=None if attention is None else float(attention[row]),
            attended=at < len(attended),
            opposing=at >= len(rows) - len(opposing),
        )
        for at, (row, image) in enumerate(zip(rows, images, strict=True))
    )


def _opposing(results: StoredResults, shown: list[int]) -> list[int]:
    """Patches against the leading class, if no patch of another class is shown."""
    result, class_map = results.result, results.class_map
    if result is None or result.leading is None:
        return []
    leading = class_map.voting[result.leading]
    if any(class_map.labels[row] != leading for row in shown):
        return []
    return [row for row in opposing_patches(class_map, leading, EXAMPLES_PER_CLASS) if row not in shown]


def _caption(words: PatchWords, row: int) -> str | None:
    """A patch's caption, with a remark if it is shared with a similar patch."""
    if words.captions is None:
        return None
    text = str(words.captions[row])
    shared = words.shared is not None and bool(words.shared[row])
    return f"{text} {SHARED_CAPTION}" if text and shared else text


def _facts(words: PatchWords, row: int) -> tuple[Fact, ...]:
    if words.facts is None:
        return ()
    values = words.facts[row].tolist()
    return tuple(
        Fact(name, value, unit)
        for name, unit, value in zip(words.fact_names, words.fact_units, values)
        if math.isfinite(value)
    )


def _quality(results: StoredResults, words: PatchWords) -> tuple[tuple[str, str], ...]:
    rows = [("Stain", str(results.store.tissue_record()["stain"]))]
    if words.blur_um is not None and np.isfinite(words.blur_um).any():
        share = float(np.nanmean(words.blur_um >= BLURRED_UM))
        rows.append((f"Out of focus (blur of {BLURRED_UM:g} µm and more)", f"{format_share(share)} of the patches"))
    if words.pen is not None and np.isfinite(words.pen).any():
        share = float(np.nanmean(words.pen >= INKED))
        rows.append((f"Marker ink (on {INKED:.0%} of a patch and more)", f"{format_share(share)} of the patches"))
    return tuple(rows)


def _provenance(results: StoredResults) -> tuple[Section, ...]:
    record = results.store.record
    source = record["source"]
    slide = (
        ("File", str(source["name"])),
        ("Vendor", str(source["vendor"])),
        ("Reader", str(source["reader"])),
        ("Fingerprint", str(source["fingerprint"])),
        ("Pixel size from", results.store.mpp_source),
    )
    sections = [Section("Slide", slide)]
    if results.model:
        sections.append(
            Section("Model", tuple((name, str(results.model[name])) for name in ("name", "version", "fingerprint")))
        )
    if through := concept_rows(results):
        sections.append(Section("What the concepts contributed", through))
    steps = []
    receipts = [results.table.receipt(column) for column in ("coords", "caption", "probability")]
    if results.result is not None:
        receipts.append(results.table.vote_receipt(results.result.method))
    for receipt in receipts:
        if receipt is not None:
            settings = ", ".join(f"{name}={_short(value)}" for name, value in sorted(receipt.parameters.items()))
            steps.append((receipt.stage, settings or "defaults"))
    sections.append(Section("Steps", tuple(steps)))
    localised = _localised(results)
    if localised:
        sections.append(Section("Found by text", localised))
    sections.append(Section("Software", tuple(versions().items())))
    return tuple(sections)


def _localised(results: StoredResults) -> tuple[tuple[str, str], ...]:
    """Each concept that was localised by text: its presence score, its area, and the encoder."""
    rows = []
    for column in concept_columns(results.table):
        found = read_concept_map(results.table, column, top=0)
        encoder = results.table.attributes(column).get("encoder", {}).get("name", "")
        parts = [] if found.presence is None else [f"presence {found.presence:.2f}"]
        if found.unit == "probability":
            parts.append(f"{found.area_mm2:.3g} mm² of p ≥ {found.threshold:g}")
        rows.append((found.title, ", ".join([*parts, f"encoder {encoder}"])))
    return tuple(rows)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
