"""Per-patch data of a page: classes, probabilities, captions and facts as one compressed block of columns.

Numbers are rounded to useful precision. If the data do not fit into the page, facts are left out first, then captions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.deflate import gzipped

PAGE_BYTES = 3_000_000
"""Maximum compressed size of a page's per-patch data, bytes."""

MOST_NUMBERS = 3_000_000
"""Numbers that a browser unpacks in a few seconds; more are not packed."""
OWN_NUMBERS = 12
"""Numbers of a patch in addition to its facts: coordinates, class, probabilities, gate …"""

SHARED_CAPTION = "[Written about a patch that looks like this one.]"
"""Remark after a caption that a patch shares with a similar one."""

Columns = dict[str, Any]


@dataclass(frozen=True, eq=False)
class PatchWords:
    """Captions, facts and further columns of the patches, (N,) in the order of the class map; None: not available."""

    captions: npt.NDArray[np.object_] | None = None
    """Text; empty where there is none."""
    shared: npt.NDArray[np.bool_] | None = None
    """True where the caption was written for a similar patch."""
    fact_names: tuple[str, ...] = ()
    """F names for display."""
    fact_units: tuple[str, ...] = ()
    facts: npt.NDArray[np.floating] | None = None
    """(N, F) in these units; NaN = unknown."""
    gate: npt.NDArray[np.floating] | None = None
    """Weight of the text in the fusion, 0 to 1."""
    ood_score: npt.NDArray[np.floating] | None = None
    """Out-of-distribution score; above 1 a patch is out-of-distribution."""
    blur_um: npt.NDArray[np.floating] | None = None
    """Standard deviation of the blur, µm."""
    pen: npt.NDArray[np.floating] | None = None
    """Fraction of the patch under marker ink."""
    readable: npt.NDArray[np.bool_] | None = None
    """Whether all pixels of the patch could be read."""


@dataclass(frozen=True)
class PackedPatches:
    """The packed block and what is left out."""

    block: str
    """base64 of gzip of JSON."""
    left_out: tuple[str, ...]
    """What did not fit, in words; empty if everything did."""


def pack(
    class_map: ClassMap, words: PatchWords, shown: Collection[int] = (), *, max_bytes: int = PAGE_BYTES
) -> PackedPatches:
    """Pack all patches, or as much of their data as fits into `max_bytes`; the rows in `shown` keep all of it."""
    kept = np.zeros(len(class_map.labels), dtype=bool)
    kept[list(shown)] = True
    everything = np.ones_like(kept)
    n_facts = 0 if words.facts is None else words.facts.shape[1]
    steps: list[tuple[tuple[str, ...], int, Callable[[], Columns]]] = [
        ((), n_facts, lambda: _columns(class_map, words, everything, everything)),
        (("measured facts",), 0, lambda: _columns(class_map, words, everything, kept)),
        (("measured facts", "captions"), 0, lambda: _columns(class_map, words, kept, kept)),
    ]
    for left_out, n_wide, make in steps:
        if len(kept) * (OWN_NUMBERS + n_wide) > MOST_NUMBERS:
            continue  # no page of a usable size could hold it
        block = _compress(make())
        if len(block) <= max_bytes:
            return PackedPatches(base64.b64encode(block).decode("ascii"), left_out)
    rows = np.flatnonzero(kept)
    few = _columns(class_map, words, kept, kept, rows)
    return PackedPatches(base64.b64encode(_compress(few)).decode("ascii"), ("all data of single patches",))


def _columns(
    class_map: ClassMap,
    words: PatchWords,
    with_caption: npt.NDArray[np.bool_],
    with_facts: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64] | None = None,
) -> Columns:
    """Columns of the patches at `rows`, all by default."""
    at = np.arange(len(class_map.labels)) if rows is None else rows
    columns: Columns = {
        "row": None if rows is None else at.tolist(),
        "x": class_map.coords[at, 0].tolist(),
        "y": class_map.coords[at, 1].tolist(),
        "label": class_map.labels[at].tolist(),
    }
    if class_map.probs is not None:
        probs = np.asarray(class_map.probs, dtype=np.float64)[at]
        columns["probs"] = [_rounded(probs[:, index], 4) for index in range(probs.shape[1])]
    for name in ("gate", "ood_score", "blur_um", "pen"):
        values = getattr(words, name)
        if values is not None and np.isfinite(values[at]).any():
            columns[name] = _rounded(np.asarray(values, dtype=np.float64)[at], 3)
    if words.readable is not None and not words.readable[at].all():
        columns["unreadable"] = np.flatnonzero(~words.readable[at]).tolist()
    if words.captions is not None:
        columns["captions"], columns["caption"] = _captions(words, at, with_caption)
    if words.facts is not None:
        columns["fact_names"], columns["fact_units"] = list(words.fact_names), list(words.fact_units)
        table = np.where(with_facts[at, None], np.asarray(words.facts, dtype=np.float64)[at], np.nan)
        columns["facts"] = [_significant(table[:, index]) for index in range(table.shape[1])]
    return columns


def _captions(
    words: PatchWords, at: npt.NDArray[np.int64], wanted: npt.NDArray[np.bool_]
) -> tuple[list[str], list[int]]:
    """Each distinct text once, and per patch its index; -1 for none."""
    known: dict[str, int] = {}
    indices = []
    for row in at.tolist():
        text = caption_of(words, row) if wanted[row] else ""
        indices.append(known.setdefault(text, len(known)) if text else -1)
    return list(known), indices


def caption_of(words: PatchWords, row: int) -> str:
    """Caption of a patch, with a remark if it is shared; empty if there is none."""
    if words.captions is None:
        return ""
    text = str(words.captions[row])
    shared = words.shared is not None and bool(words.shared[row])
    return f"{text} {SHARED_CAPTION}" if text and shared else text


def _rounded(values: npt.NDArray[np.float64], digits: int) -> list[float | None]:
    return _plain(np.round(values, digits))


def _significant(values: npt.NDArray[np.float64]) -> list[float | None]:
    """To three digits."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (2 - np.floor(np.log10(np.abs(values))))
        rounded = np.where(np.isfinite(scale), np.rint(values * scale) / scale, values)
    return _plain(rounded)


def _plain(values: npt.NDArray[np.float64]) -> list[float | None]:
    known = np.isfinite(values)
    if known.all():
        return list(values.tolist())
    return [value if is_known else None for value, is_known in zip(values.tolist(), known.tolist())]


def _compress(columns: Columns) -> bytes:
    text = json.dumps(columns, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return gzipped(text.encode("utf-8"), 5)
