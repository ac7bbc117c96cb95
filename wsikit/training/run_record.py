"""The folder of a training run, whatever is trained: its split, the copy of its configuration, and what metrics state
about data and patients. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import yaml

from wsikit.errors import RequestError
from wsikit.models.config import METRICS_FILE
from wsikit.training.captioner.patients import patient_id
from wsikit.training.data import PatchSet
from wsikit.training.splits import PARTS, TRAIN, VALIDATION, Split, folds, read_splits, split, write_splits
from wsikit.training.task import SplitConfig, TaskConfig

CONFIG_COPY, SPLITS_FILE = "config.yaml", "splits.json"


class WithSplit(Protocol):
    """A configuration of training that states how patches are split: `TaskConfig`, or that of AFLoc."""

    @property
    def split(self) -> SplitConfig: ...

    @property
    def model_dump(self) -> Callable[..., dict[str, Any]]: ...


def check_out(out: Path, resume: bool) -> None:
    """RequestError if `out` holds a finished run, or an unfinished one and `resume` is False."""
    if (out / "model").exists():
        raise RequestError(f"{out}: holds a finished run (model/); give a new folder, nothing is overwritten.")
    if (out / SPLITS_FILE).exists() and not resume:
        raise RequestError(f"{out}: holds an unfinished run. Resume it (--resume), or give another folder.")


def check_no_results(out: Path) -> None:
    """RequestError if `out` holds the results of an evaluation."""
    if (out / METRICS_FILE).exists():
        raise RequestError(f"{out}: already holds {METRICS_FILE}; give a new folder, nothing is overwritten.")


def split_of(config: WithSplit, patches: PatchSet, out: Path) -> tuple[Split, dict[str, Any]]:
    """The parts, and the record of the split in `out`; an existing record is read and checked."""
    wanted, path = config.split, out / SPLITS_FILE
    if path.exists():
        found = read_splits(path, patches)
    elif wanted.file is not None:
        found = read_splits(wanted.file, patches)
    elif wanted.folds is not None:
        found = folds(patches.labels, patches.groups, wanted.folds, seed=wanted.seed)
    else:
        shares = {"validation": wanted.validation, "test": wanted.test}
        found = [split(patches.labels, patches.groups, **shares, seed=wanted.seed)]
    if wanted.fold >= len(found):
        raise RequestError(f"split: fold {wanted.fold} asked for, there are {len(found)}, counted from 0.")
    record = write_splits(path, patches, found, seed=wanted.seed)
    # only what was set: a column that is named must exist
    copy = yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    (out / CONFIG_COPY).write_text(copy, encoding="utf-8")
    return read_splits(path, patches)[wanted.fold], record


def split_line(unit: str, patches: PatchSet, parts: Split) -> str:
    """How many patches, and of how many units such as patients, each part has."""
    units = {name: len(np.unique(patches.groups[parts[name]])) for name in PARTS}
    counts = (f"{len(parts[name])} {name} ({n} {unit}{'' if n == 1 else 's'})" for name, n in units.items())
    return f"split by {unit}: " + ", ".join(counts)


def rows_of_part(path: Path, patches: PatchSet, fold: int, part: str) -> np.ndarray:
    """Rows of one part of a split file. RequestError if it has no such part."""
    found = read_splits(path, patches)
    if fold >= len(found) or part not in found[fold]:
        raise RequestError(
            f"{path}: no part {part!r} of fold {fold}; there are {len(found)} folds of {', '.join(PARTS)}."
        )
    return found[fold][part]


def seen_patients(folder: Path | None, groups: np.ndarray, *, group: str | None = None) -> int | None:
    """Number of patients that the model in `folder` was trained or selected on, as its metrics state.

    None if that is unknown: the model has no folder, its metrics name no patients, or they count other units than
    `group` ("patient", "slide" or "file"), so that names cannot be compared. `groups` (N,): the patient of each patch.
    """
    path = None if folder is None else folder / METRICS_FILE
    if path is None or not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    known = record.get("patients")
    if not isinstance(known, dict) or TRAIN not in known:
        return None
    unit = record.get("settings", {}).get("data", {}).get("group")
    if None not in (unit, group) and unit != group:
        return None
    seen = {*known[TRAIN], *known.get(VALIDATION, ())}
    return len(seen & {patient_id(name) for name in set(groups.tolist())})


def check_unseen(name: str, seen: int | None, *, allow_seen: bool, message: Callable[[str], None]) -> None:
    """Refuse an evaluation on patients of the training; say so where they are not known.

    Raises
    ------
    RequestError
        If `seen` is above 0, unless `allow_seen`.
    """
    if seen is None:
        message(
            f"model {name}: its folder does not name the patients of its training, so whether these were among them "
            "is unknown (recorded as null)."
        )
    elif seen and not allow_seen:
        raise RequestError(
            f"model {name} was trained or selected on {seen} of these patients, so metrics on them "
            "are biased. Give the split (--split splits.json --part test), or pass --allow-seen; it is recorded."
        )


def rows_to_evaluate(
    name: str,
    patches: PatchSet,
    *,
    folder: Path | None,
    split_file: Path | None,
    part: str,
    fold: int,
    group: str | None = None,
    allow_seen: bool,
    message: Callable[[str], None],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows of the patches that a model is evaluated on, and what its metrics state of them.

    Parameters
    ----------
    name, folder
        Of the model; its metrics name the patients of its training.
    split_file, part, fold
        A part of a split; None: all rows.

    Raises
    ------
    RequestError
        As for `rows_of_part` and `check_unseen`.
    """
    rows = np.arange(len(patches)) if split_file is None else rows_of_part(split_file, patches, fold, part)
    seen = seen_patients(folder, patches.groups[rows], group=group)
    check_unseen(name, seen, allow_seen=allow_seen, message=message)
    return rows, {"part": "all" if split_file is None else part, "patients_seen_in_training": seen}


def patients_of(patches: PatchSet, rows: np.ndarray) -> list[str]:
    """Hashes of the patients of a part: enough to recognise them later, without their names."""
    return sorted({patient_id(group) for group in patches.groups[rows].tolist()})


def without_ids(record: dict[str, Any], fold: int) -> dict[str, Any]:
    """The record of a split without the ids of its patches."""
    parts = {
        name: {key: value for key, value in part.items() if key != "ids"}
        for name, part in record["folds"][fold].items()
    }
    return {
        "seed": record["seed"],
        "fold": fold,
        "of": len(record["folds"]),
        "data_sha256": record["data_sha256"],
    } | parts


def without_places(config: TaskConfig) -> dict[str, Any]:
    """The configuration for the model's folder: file names instead of paths, as the model may be shared."""
    record = config.model_dump(mode="json")
    source = next(record["data"][name] for name in ("table", "names", "stores") if record["data"][name])
    for inner, keys in (
        (source, ("images", "csv", "manifest")),
        (record.get("captions", {}), ("csv", "captioner")),
        (record["split"], ("file",)),
        (record.get("image") or {}, ("weights", "features", "file")),
        (record.get("text", {}), ("pretrained",)),
        (record.get("concepts", {}), ("criteria", "captioner")),
        (record.get("concepts", {}).get("labels", {}), ("csv",)),
        (record.get("concepts", {}).get("attend", {}), ("anchors",)),
    ):
        for key in keys:
            value = inner.get(key)
            if isinstance(value, str) and Path(value).exists():
                inner[key] = Path(value).name
    return record
