"""Who is whose: patients of a table, split so that no patient is on two sides, and the guards that refuse otherwise."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from wsikit.errors import RequestError

if TYPE_CHECKING:
    from wsikit.training.datasets import ImageTable


@dataclass(frozen=True)
class Patients:
    """The patient of each row, and whence it is known."""

    names: tuple[str, ...]
    known_by: str
    """"patient", "slide" or "file prefix"."""


def patients_of(table: ImageTable) -> Patients:
    """The column patient, else slide, else what file names begin with: their folder, or the part before `_` or `-`.

    Raises
    ------
    RequestError
        If a column is filled in some rows only.
    """
    for column, values in (("patient", table.patients), ("slide", table.slides)):
        filled = [value for value in values if value is not None]
        if filled and len(filled) < len(values):
            row = next(row for row, value in enumerate(values) if value is None)
            raise RequestError(
                f"{table.source}: {len(values) - len(filled)} of {len(values)} rows have no {column} "
                f"(first: {table.files[row]}). Fill the column, or take the rows out."
            )
        if filled:
            return Patients(tuple(filled), column)
    return Patients(tuple(map(_prefix, table.files)), "file prefix")


def _prefix(file: str) -> str:
    path = PurePosixPath(file)
    return str(path.parent) if len(path.parts) > 1 else re.split(r"[_-]", path.stem)[0]


def hold_out(patients: Sequence[str], *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out, by whole patients: about `share` of the rows are held out.

    Raises
    ------
    RequestError
        If there are fewer than two patients.
    """
    order = _shuffled(set(patients), seed)
    if len(order) < 2:
        raise RequestError(f"{len(order)} patient(s) in all: at least two are needed, one of them to validate on.")
    counts = dict.fromkeys(order, 0)
    for name in patients:
        counts[name] += 1
    held: set[str] = set()
    for name in order[:-1]:
        if held and sum(counts[n] for n in held) + counts[name] / 2 > share * len(patients):
            break
        held.add(name)
    train = [row for row, name in enumerate(patients) if name not in held]
    validation = [row for row, name in enumerate(patients) if name in held]
    refuse_shared_patients([patients[row] for row in train], [patients[row] for row in validation])
    return train, validation


def folds_of(patients: Sequence[str], n_folds: int, *, seed: int) -> list[list[int]]:
    """Rows of each fold, by whole patients, the folds about equally large.

    Raises
    ------
    RequestError
        If there are fewer patients than folds, or too few folds: validation needs a patient besides.
    """
    order = _shuffled(set(patients), seed)
    if n_folds < 2 or len(order) < max(n_folds, 3):
        raise RequestError(f"{n_folds} folds of {len(order)} patients: give at least 2 folds and 3 patients.")
    rows: dict[str, list[int]] = {name: [] for name in order}
    for row, name in enumerate(patients):
        rows[name].append(row)
    folds: list[list[int]] = [[] for _ in range(n_folds)]
    for name in sorted(order, key=lambda n: -len(rows[n])):
        min(folds, key=len).extend(rows[name])
    return [sorted(fold) for fold in folds]


def refuse_shared_patients(first: Iterable[str], second: Iterable[str]) -> None:
    """Raise `RequestError` if a patient is on both sides."""
    both = sorted(set(first) & set(second))
    if both:
        raise RequestError(f"{len(both)} patient(s) in both parts, such as {both[0]}: split by patient.")


def refuse_seen_patients(record: Mapping[str, Any], patients: Iterable[str]) -> None:
    """Raise unless an adapter has seen none of these patients, neither in training nor to choose its epoch.

    Captions of patients that a captioner was trained on are better than those of others, and may carry their labels.

    Parameters
    ----------
    record
        wsikit.json of `finetune_captioner`.
    patients
        As its table named them.

    Raises
    ------
    RequestError
        If one was seen, or the record does not say whom it has seen.
    """
    seen = record.get("patients", {})
    if "trained" not in seen or "validated" not in seen:
        raise RequestError("the captioner's record does not say which patients it was trained on: it cannot be trusted")
    known = {*seen["trained"], *seen["validated"]}
    met = sorted(name for name in set(patients) if patient_id(name) in known)
    if met:
        raise RequestError(
            f"the captioner was trained on {len(met)} of these patients, such as {met[0]}. "
            "Use out-of-fold captions (finetune-captioner --folds), or other patients."
        )


def patient_id(name: str) -> str:
    """What stands for a patient in a record. A hash hides a name only from those who do not guess it."""
    return hashlib.sha256(f"wsikit patient {name}".encode()).hexdigest()[:16]


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
