"""What a report says, gathered from a store: patches for and against, words, quality, provenance, pixels."""

from __future__ import annotations

import datetime
import json
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit._version import versions
from wsikit.exporters.classmap import opposing_patches, strongest_patches
from wsikit.exporters.patchdata import PAGE_BYTES, PatchWords
from wsikit.exporters.pyramid import ServedPyramid, embed
from wsikit.exporters.report_data import Fact, PatchExample, ReportData, Section
from wsikit.exporters.units import format_share
from wsikit.inference.caption_columns import CaptionColumns, read_captions
from wsikit.results.load import StoredResults, unreadable_fraction
from wsikit.tiling.stream import read_patches

EXAMPLES_PER_CLASS = 4
TELLING_FACTS = (
    "nuclei_per_mm2",
    "nuclear_diameter_um",
    "fibrillary_share",
    "large_pale_nuclei_share",
    "ganglion_like_share",
    "spindle_share",
)
"""What a pathologist asks of a neuroblastic tumour first; shown before all other facts."""
BLUR_UM = 4.0
"""Standard deviation of a blur, µm, where the column `blur` says 1."""
BLURRED_UM, INKED = 1.0, 0.05
"""A patch counts as out of focus from this blur on (chromatin is lost), as inked from this share of its area on."""

_UNITS = {"share": ("%", 100), "count": ("", 1), "ratio": ("", 1), "density": ("OD", 1), "per mm²": ("/mm²", 1)}
_FACT_ENDING = re.compile(r"_(share|um|per_mm2)$")


def report_data(
    found: StoredResults,
    thumbnail: np.ndarray,
    *,
    served: ServedPyramid | None = None,
    patch_bytes: int = PAGE_BYTES,
) -> ReportData:
    """Everything that a report says about a slide.

    Parameters
    ----------
    thumbnail
        uint8 (h, w, 3) of the whole slide.
    served
        Where the page finds its pixels, if a server gives them; else they are embedded.
    patch_bytes
        Compressed bytes that the page may spend on what it knows of its patches.
    """
    words = _patch_words(found)
    examples = _examples(found, words)
    return ReportData(
        class_map=found.class_map,
        thumbnail=thumbnail,
        result=found.result,
        reason=found.reason,
        examples=examples,
        tissue_mm2=float(found.store.tissue_record()["area_mm2"]),
        unreadable_fraction=unreadable_fraction(found),
        quality=_quality(found, words),
        provenance=_provenance(found),
        created=now(),
        words=words,
        pyramid=served or embed(found.store, _boxes(found), _boxes(found, [example.row for example in examples])),
        patch_bytes=patch_bytes,
    )


def now() -> str:
    """ISO 8601, with the time zone."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _boxes(found: StoredResults, rows: list[int] | None = None) -> npt.NDArray[np.float64]:
    """(n, 4) x, y, width, height of patches, level-0 px."""
    coords = found.class_map.coords[rows] if rows is not None else found.class_map.coords
    sides = np.broadcast_to(np.asarray(found.class_map.grid.side), coords.shape)
    return np.hstack([coords, sides]).astype(np.float64).reshape(-1, 4)


def _patch_words(found: StoredResults) -> PatchWords:
    """What the table says of every patch; predictions' own columns only where there are predictions to show."""
    table = found.table
    there = set(table.columns()) if len(table) else set()
    predicted = found.class_map.probs is not None

    def column(name: str, wanted: bool = True) -> npt.NDArray[Any] | None:
        return table.read(name) if wanted and name in there else None

    captions = read_captions(table) if there else None
    names, units, facts = _fact_table(found, there)
    blur, readable = column("blur"), column("readable")
    return PatchWords(
        captions=None if captions is None else captions.texts,
        borrowed=None if captions is None else _borrowed(captions),
        fact_names=names,
        fact_units=units,
        facts=facts,
        gate=column("gate", predicted),
        ood_score=column("ood_score", predicted),
        blur_um=None if blur is None else blur * BLUR_UM,
        pen=column("pen"),
        readable=None if readable is None else readable.astype(bool),
    )


def _borrowed(captions: CaptionColumns) -> npt.NDArray[np.bool_]:
    """(N,) whether the caption was written about another patch."""
    return np.asarray(captions.rows != np.arange(len(captions.rows)), dtype=bool)


def _fact_table(
    found: StoredResults, there: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...], npt.NDArray[np.float64] | None]:
    """Names and units for people and (N, F) values in them, the most telling facts first."""
    from wsikit.facts import FACTS

    if "caption_facts" not in there:
        return (), (), None
    known = list(found.table.attributes("caption_facts")["names"])
    order = [name for name in TELLING_FACTS if name in known]
    order += [name for name in known if name not in TELLING_FACTS]
    values = np.asarray(found.table.read("caption_facts"), dtype=np.float64)
    units = [_UNITS.get(FACTS[name].unit, (FACTS[name].unit, 1)) if name in FACTS else ("", 1) for name in order]
    factors = np.asarray([factor for _, factor in units], dtype=np.float64)
    names = tuple(_FACT_ENDING.sub("", name).replace("_", " ") for name in order)
    return names, tuple(unit for unit, _ in units), values[:, [known.index(name) for name in order]] * factors


def _examples(found: StoredResults, words: PatchWords) -> tuple[PatchExample, ...]:
    """The strongest patches of each voting class, and those that speak most against the class ahead where few do."""
    class_map = found.class_map
    rows = [row for index in class_map.voting for row in strongest_patches(class_map, index, EXAMPLES_PER_CLASS)]
    if not rows:
        return ()
    doubting = _doubting(found, rows)
    rows += doubting
    order = np.argsort(rows, kind="stable")
    coords = class_map.coords[np.asarray(rows)[order]]
    images = read_patches(found.store, class_map.grid, coords).images[np.argsort(order)]
    return tuple(
        PatchExample(
            row=row,
            image=image,
            caption=_caption(words, row),
            facts=_facts(words, row),
            gate=None if words.gate is None else float(words.gate[row]),
            doubting=at >= len(rows) - len(doubting),
        )
        for at, (row, image) in enumerate(zip(rows, images, strict=True))
    )


def _doubting(found: StoredResults, shown: list[int]) -> list[int]:
    """Patches against the class ahead, where no patch of another class is there to be shown."""
    result, class_map = found.result, found.class_map
    if result is None or result.leading is None:
        return []
    ahead = class_map.voting[result.leading]
    if any(class_map.labels[row] != ahead for row in shown):
        return []
    return [row for row in opposing_patches(class_map, ahead, EXAMPLES_PER_CLASS) if row not in shown]


def _caption(words: PatchWords, row: int) -> str | None:
    """A patch's caption; where it was written about another patch, that is said."""
    if words.captions is None:
        return None
    text = str(words.captions[row])
    borrowed = words.borrowed is not None and bool(words.borrowed[row])
    return f"{text} [Written about a patch that looks like this one.]" if text and borrowed else text


def _facts(words: PatchWords, row: int) -> tuple[Fact, ...]:
    if words.facts is None:
        return ()
    values = words.facts[row].tolist()
    return tuple(
        Fact(name, value, unit)
        for name, unit, value in zip(words.fact_names, words.fact_units, values)
        if math.isfinite(value)
    )


def _quality(found: StoredResults, words: PatchWords) -> tuple[tuple[str, str], ...]:
    rows = [("Kind of picture", str(found.store.tissue_record()["stain"]))]
    if words.blur_um is not None and np.isfinite(words.blur_um).any():
        share = float(np.nanmean(words.blur_um >= BLURRED_UM))
        rows.append((f"Out of focus (blur of {BLURRED_UM:g} µm and more)", f"{format_share(share)} of the patches"))
    if words.pen is not None and np.isfinite(words.pen).any():
        share = float(np.nanmean(words.pen >= INKED))
        rows.append((f"Marker ink (on {INKED:.0%} of a patch and more)", f"{format_share(share)} of the patches"))
    return tuple(rows)


def _provenance(found: StoredResults) -> tuple[Section, ...]:
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
    receipts = [found.table.receipt(column) for column in ("coords", "caption", "probability")]
    if found.result is not None:
        receipts.append(found.table.vote_receipt(found.result.method))
    for receipt in receipts:
        if receipt is not None:
            settings = ", ".join(f"{name}={_short(value)}" for name, value in sorted(receipt.parameters.items()))
            steps.append((receipt.stage, settings or "defaults"))
    sections.append(Section("Steps", tuple(steps)))
    sections.append(Section("Software", tuple(versions().items())))
    return tuple(sections)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
