"""Splits grouped by patient and balanced by class, written to disk with hashes and checked when read back.

Parts are "train", "validation" and "test"; rows are those of the patch set, ids identify them on disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.atomic import write_json
from wsikit.training.data import PatchSet

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = PARTS = ("train", "validation", "test")
FORMAT = 1

Rows = npt.NDArray[np.int64]
Split = dict[str, Rows]
"""Rows of each part, ascending."""


def split(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], *, validation: float, test: float, seed: int
) -> Split:
    """Split into train, validation and test: no group in two parts, classes balanced as far as the groups allow.

    `validation` and `test` are fractions of the patches. Groups are never divided, so fractions are approximate.

    Raises
    ------
    RequestError
        If there are too few groups for it.
    """
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise RequestError(
            f"split: validation {validation}, test {test}; both must lie in (0, 1) and sum to less than 1."
        )
    _check_enough(len(np.unique(groups)), validation=validation, test=test)
    everything = np.arange(len(labels))
    held_out = _fold(labels, groups, share=test, seed=seed)
    rest = np.setdiff1d(everything, held_out)
    chosen = _fold(labels[rest], groups[rest], share=validation / (1 - test), seed=seed)
    parts = {TRAIN: np.delete(rest, chosen), VALIDATION: rest[chosen], TEST: held_out}
    check_parts(labels, groups, parts)
    return parts


def _check_enough(n: int, *, validation: float, test: float) -> None:
    """Refuse fractions that are less than one of `n` groups."""
    if n < len(PARTS):
        raise RequestError(f"split: {n} patients are too few for {', '.join(PARTS)}: each part needs one.")
    if n < _n_folds(test) or n - 1 < _n_folds(validation / (1 - test)):
        least = np.ceil(100 / n) / 100
        raise RequestError(
            f"split: {n} patients are too few for validation: {validation:g}, test: {test:g}, as none is divided. Give "
            f"{least:g} or more for each, or more patients."
        )


def folds(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], k: int, *, seed: int) -> list[Split]:
    """K splits: each fold is the test part once, the next one the validation part, the others the training part.

    Raises
    ------
    RequestError
        If there are fewer than `k` groups, or k is below 3.
    """
    if k < 3:
        raise RequestError(f"folds: {k}; expected 3 or more, for training, validation and test.")
    tested = _folds(labels, groups, k, seed)
    everything = np.arange(len(labels))
    found = []
    for i in range(k):
        test, validation = tested[i], tested[(i + 1) % k]
        train = np.setdiff1d(everything, np.concatenate([test, validation]))
        found.append({TRAIN: train, VALIDATION: validation, TEST: test})
        check_parts(labels, groups, found[-1])
    return found


def held_out_folds(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], k: int, *, test: float, seed: int
) -> list[Split]:
    """K splits with the same test part, a fraction `test`; each of K folds of the others is the validation part once.

    Raises
    ------
    RequestError
        If there are too few groups for it.
    """
    held_out = _fold(labels, groups, share=test, seed=seed)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    found = []
    for chosen in _folds(labels[rest], groups[rest], k, seed):
        found.append({TRAIN: np.delete(rest, chosen), VALIDATION: rest[chosen], TEST: held_out})
        check_parts(labels, groups, found[-1])
    return found


def check_parts(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], parts: Mapping[str, Rows]) -> None:
    """Check that no patient is in two parts and that every class occurs in the training part.

    Raises
    ------
    RequestError
        Naming the patient and both parts, or the class.
    """
    owner: dict[str, str] = {}
    for name, rows in parts.items():
        if not len(rows):
            raise RequestError(f"split: the part {name} is empty; there are too few patients for it.")
        for group in np.unique(groups[rows]).tolist():
            if group in owner:
                raise RequestError(f"split: {group!r} is in {owner[group]} and in {name}; patients belong to one part.")
            owner[group] = name
    wanted = set(np.unique(labels).tolist())
    for name, rows in parts.items():
        lacking = wanted - set(np.unique(labels[rows]).tolist())
        if lacking and name == TRAIN:
            raise RequestError(f"split: no training patch of class {min(lacking)}; use another seed.")
        if lacking:
            logger.warning("split: the part %s has no patch of class(es) %s", name, sorted(lacking))


def write_splits(
    path: str | Path, data: PatchSet, splits: Sequence[Mapping[str, Rows]], *, seed: int
) -> dict[str, Any]:
    """Write splits as JSON: ids of every part, their sha256, and the sha256 of the data.

    Returns the record that was written.
    """
    if not data.ids:
        raise RequestError("split: the patches have no ids, so their split cannot be saved.")
    ids = np.array(data.ids, dtype=object)
    record = {
        "format": FORMAT,
        "seed": seed,
        "patches": len(data),
        "data_sha256": data_digest(data),
        "folds": [
            {
                name: {
                    "n": len(rows),
                    "groups": len(np.unique(data.groups[rows])),
                    "per_class": np.bincount(data.labels[rows], minlength=len(data.classes)).tolist(),
                    "sha256": ids_digest(ids[rows].tolist()),
                    "ids": ids[rows].tolist(),
                }
                for name, rows in parts.items()
            }
            for parts in splits
        ],
    }
    write_json(path, record)
    return record


def read_splits(path: str | Path, data: PatchSet) -> list[Split]:
    """Read splits as rows of `data`, whatever the order of its rows.

    Raises
    ------
    RequestError
        If the file was changed, or made for other patches, labels or groups; or if a patient is in two parts.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the splits.json that wsikit train wrote.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not JSON ({error}). Copy the file again from its source.") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise RequestError(f"{path}: not a split of this version of wsikit; make it again.")
    if record["data_sha256"] != data_digest(data):
        raise RequestError(
            f"{path}: made for other patches ({record['patches']}, here {len(data)}): ids, classes or patients differ. "
            "Give the same data, or make a new split."
        )
    places = {name: row for row, name in enumerate(data.ids)}
    found = []
    for number, fold in enumerate(record["folds"]):
        parts: Split = {}
        for name, part in fold.items():
            if ids_digest(part["ids"]) != part["sha256"]:
                raise RequestError(f"{path}: fold {number}, {name}: the ids were changed after it was written.")
            parts[name] = np.array(sorted(places[one] for one in part["ids"]), dtype=np.int64)
        check_parts(data.labels, data.groups, parts)
        found.append(parts)
    return found


def ids_digest(ids: Sequence[str]) -> str:
    """sha256 of ids, independent of their order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def data_digest(data: PatchSet) -> str:
    """sha256 of ids, classes and groups of all patches, independent of their order; without pixels and captions."""
    names = data.classes or tuple(map(str, range(int(data.labels.max(initial=0)) + 1)))
    lines = zip(data.ids, data.labels.tolist(), data.groups.tolist(), strict=True)
    return ids_digest([f"{one}\t{names[label]}\t{group}" for one, label, group in lines])


def _n_folds(share: float) -> int:
    """The number of folds of which one holds about `share` of the patches."""
    return max(2, round(1 / share))


def _fold(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], *, share: float, seed: int) -> Rows:
    """Rows of about `share` of the patches."""
    return _folds(labels, groups, _n_folds(share), seed)[0]


def _folds(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], k: int, seed: int) -> list[Rows]:
    """K disjoint sets of rows, each of whole groups."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = len(np.unique(groups))
    if n_groups < k:
        raise RequestError(f"split: {n_groups} patients are too few for {k} folds; use fewer folds.")
    # classes with fewer patches than folds are spread as far as possible; sklearn would only warn of it
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    if smallest < k:
        raise RequestError(
            f"split: a class has {smallest} rows (patches, or slides), too few for {k} parts of equal size. Give fewer "
            "folds or larger fractions under split, or more data."
        )
    splitter = StratifiedGroupKFold(n_splits=k, shuffle=True, random_state=seed)
    return [np.sort(rows).astype(np.int64) for _, rows in splitter.split(labels, labels, groups)]
