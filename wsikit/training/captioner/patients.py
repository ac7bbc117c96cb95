"""Patients of a table: identification, splits without shared patients, and checks that raise otherwise."""

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
    """The patient of each row, and how it was identified."""

    names: tuple[str, ...]
    known_by: str
    """"patient", "slide" or "file prefix"."""


def patients_of(table: ImageTable) -> Patients:
    """The column patient, else slide, else the prefix of the file name: its folder, or the part before `_` or `-`.

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
                f"(first: {table.files[row]}). Fill the column, or remove the rows."
            )
        if filled:
            return Patients(tuple(filled), column)
    return Patients(tuple(map(_prefix, table.files)), "file prefix")


def _prefix(file: str) -> str:
    path = PurePosixPath(file)
    return str(path.parent) if len(path.parts) > 1 else re.split(r"[_-]", path.stem)[0]


def hold_out(patients: Sequence[str], *, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Training rows and held-out rows, by whole patients: about a fraction `share` of the rows is held out.

    Raises
    ------
    RequestError
        If there are fewer than two patients.
    """
    order = _shuffled(set(patients), seed)
    if len(order) < 2:
        raise RequestError(f"{len(order)} patient(s) in total; at least two are needed, one of them for validation.")
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
    """Rows of each fold, by whole patients, in folds of about equal size.

    Raises
    ------
    RequestError
        If there are fewer patients than folds, or too few folds: validation needs one more patient.
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
    """Raise `RequestError` if a patient is in both parts."""
    both = sorted(set(first) & set(second))
    if both:
        raise RequestError(f"{len(both)} patient(s) in both parts, such as {both[0]}: split by patient.")


def refuse_seen_patients(record: Mapping[str, Any], patients: Iterable[str]) -> None:
    """Raise if one of these patients was used to train an adapter or to select its epoch.

    Captions of training patients are better than those of others, and may contain their labels.

    Parameters
    ----------
    record
        wsikit.json of `finetune_captioner`.
    patients
        Names of patients as in its table.

    Raises
    ------
    RequestError
        If a patient was used, or the record does not list the patients used.
    """
    seen = record.get("patients", {})
    if "trained" not in seen or "validated" not in seen:
        raise RequestError("the captioner's record does not list its training patients, so leakage cannot be excluded")
    known = {*seen["trained"], *seen["validated"]}
    met = sorted(name for name in set(patients) if patient_id(name) in known)
    if met:
        raise RequestError(
            f"the captioner was trained on {len(met)} of these patients, such as {met[0]}. "
            "Use out-of-fold captions (finetune-captioner --folds), or other patients."
        )


def patient_id(name: str) -> str:
    """Identifier of a patient in a record: a hash of the name. It hides a name only if the name cannot be guessed."""
    return hashlib.sha256(f"wsikit patient {name}".encode()).hexdigest()[:16]


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
