"""Captions of a patch set, and their numbers, from the configured source. A captioner trained on one of the patients is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.captions import load_captioner
from wsikit.captions.base import Captioner, FitsToSlide, sample_rows
from wsikit.captions.parsed_facts import facts_of_texts
from wsikit.captions.vlm.files import RECORD_FILE
from wsikit.errors import RequestError
from wsikit.facts import FACTS, STATED
from wsikit.tables import read_table
from wsikit.training.captioner.patients import refuse_seen_patients
from wsikit.training.config import CaptionsConfig
from wsikit.training.data import PatchSet

AT_ONCE = 64


def with_captions(
    data: PatchSet,
    config: CaptionsConfig,
    *,
    mpp: float,
    numbers: bool = False,
    on_done: Callable[[int], None] = lambda done: None,
) -> PatchSet:
    """Return the patches with the captions of `config`; `on_done` is called with numbers of further patches done.

    Captions of a measuring captioner come with the facts that they state. With `numbers`, the words of other captions
    are parsed to facts with their uncertainty.

    Raises
    ------
    RequestError
        If a patch has no row in the CSV, or the captioner was trained on one of the patients.
    """
    if config.source == "none":
        return data.with_captions([""] * len(data))
    if config.csv is not None:
        return _parsed(data.with_captions(_from_csv(Path(config.csv), data.ids)), numbers)
    if config.captioner is None:
        return _parsed(data, numbers)
    _refuse_seen(config.captioner, data)
    captioner = load_captioner(config.captioner)
    texts = np.full(len(data), "", dtype=object)
    facts = np.full((len(data), len(captioner.fact_names)), np.nan, dtype=np.float32)
    if isinstance(captioner, FitsToSlide):
        slides = data.slide_ids
        for slide in np.unique(slides):
            rows = np.flatnonzero(slides == slide)
            fitted = captioner.fit(data.images[rows[sample_rows(len(rows))]], mpp=mpp)
            _describe(fitted, data, rows, mpp, texts, facts, on_done)
    else:
        _describe(captioner, data, np.arange(len(data)), mpp, texts, facts, on_done)
    described = data.with_captions(texts.tolist())
    if captioner.fact_names:
        return described.with_facts(captioner.fact_names, facts)
    return _parsed(described, numbers)


def _describe(
    captioner: Captioner,
    data: PatchSet,
    rows: npt.NDArray[np.int64],
    mpp: float,
    texts: npt.NDArray[np.object_],
    facts: npt.NDArray[np.float32],
    on_done: Callable[[int], None],
) -> None:
    """Put captions and facts of some patches into `texts` (N,) and `facts` (N, F)."""
    names = captioner.fact_names
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        for row, caption in zip(some, captioner.caption(data.images[some], mpp=mpp), strict=True):
            texts[row] = caption.text
            facts[row] = [caption.facts.get(name, np.nan) for name in names]
        on_done(len(some))


def _parsed(data: PatchSet, numbers: bool) -> PatchSet:
    """The patches with the facts that the words of their captions state, if numbers are asked for."""
    if not numbers:
        return data
    names = (*FACTS, *STATED)
    return data.with_facts(names, *facts_of_texts(data.captions, names))


def _refuse_seen(spec: str, data: PatchSet) -> None:
    """Raise if a local captioner was trained on a patient of the data."""
    for part in spec.split("#"):
        record = Path(part) / RECORD_FILE
        if not record.is_file():
            continue
        known = json.loads(record.read_text(encoding="utf-8"))
        if known.get("patients"):
            refuse_seen_patients(known, set(data.groups.tolist()))


def _from_csv(path: Path, ids: Sequence[str]) -> list[str]:
    """One caption per id, in order; the adapter of each fold is checked against the patients of that fold."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file. Give the CSV with the captions.")
    table = read_table(path, ("file_name", "description", "patient", "fold", "adapter"))
    if not table.rows or not {"file_name", "description"} <= set(table.used):
        raise RequestError(f"{path}: {len(table.rows)} rows; expected the columns file_name and description.")
    for line, fault in table.faults.items():
        raise RequestError(f"{path}, line {line}: {fault}")
    rows = [{name: row.get(name, "") for name in table.used} for _, row in table.rows]
    _refuse_seen_folds(path, rows)
    texts = {row["file_name"]: row["description"] or "" for row in rows}
    if len(texts) != len(rows):
        raise RequestError(f"{path}: an image has two rows. Keep one caption per image.")
    if missing := [one for one in ids if one not in texts]:
        raise RequestError(
            f"{path}: no caption for {missing[0]} ({len(missing)} of {len(ids)} patches). Give each patch a "
            "row; its caption may be empty."
        )
    return [texts[one] for one in ids]


def _refuse_seen_folds(path: Path, rows: Sequence[dict[str, str]]) -> None:
    for fold in sorted({row["fold"] for row in rows if row.get("adapter") and row.get("fold")}):
        record = path.parent / f"fold-{fold}" / RECORD_FILE
        if not record.is_file():
            raise RequestError(
                f"{path}: captions by the adapter of fold {fold}, whose record {record} is missing, so the patients "
                "of its training are unknown. Keep the CSV in the folder that finetune-captioner wrote."
            )
        patients = {row.get("patient", "") for row in rows if row.get("fold") == fold}
        refuse_seen_patients(json.loads(record.read_text(encoding="utf-8")), patients)
