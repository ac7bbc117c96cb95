"""Nested cross-validation of a cohort by patient: folds stratified by outcome, and by hospital where it is known.

Each fold is the test part once. The validation part is drawn from the rest in the same way, so nothing of the test part
is used to choose anything. splits.json holds every part with its hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.store.atomic import write_json
from wsikit.training.cohort.cohort import Cohort
from wsikit.training.cohort.config import CohortSplit
from wsikit.training.cohort.protocol import Part
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Rows, Split, ids_digest

FORMAT = 1
TRIALS = 10
"""Random orders of hospitals that are tried."""

FEWEST_EVENTS = 2
"""Of each training part; with fewer no survival model can be fitted."""

LARGEST_SHARE = 1 / 3
"""Of the patients, that one hospital may have for `sites: auto` to keep hospitals apart. Its fold is as large, so that
much is missing in the training for it."""


def decided_split(cohort: Cohort, wanted: CohortSplit) -> tuple[CohortSplit, str]:
    """`wanted` with `sites: auto` replaced by what it is for this cohort, and why hospitals are not kept apart ("").

    auto is apart where there are two hospitals or more per fold, none has more than a third of the patients, and each
    part of each fold has the events and classes that it needs; else balanced. Without known hospitals: ignore.
    """
    if wanted.sites != "auto":
        return wanted, ""
    if cohort.sites is None:
        return wanted.model_copy(update={"sites": "ignore"}), ""
    apart = wanted.model_copy(update={"sites": "apart"})
    names, counts = np.unique(cohort.sites, return_counts=True)
    largest = int(counts.argmax())
    if counts[largest] > LARGEST_SHARE * len(cohort.sites):
        reason = f"hospital {str(names[largest])!r} has {counts[largest]} of {len(cohort.sites)} patients"
    else:
        try:
            for seed in wanted.seeds:
                make_folds(cohort, apart, seed)
            return apart, ""
        except RequestError as error:
            reason = str(error).removeprefix("split: ").partition(";")[0].partition(". ")[0]
    return wanted.model_copy(update={"sites": "balanced"}), reason


def make_folds(cohort: Cohort, wanted: CohortSplit, seed: int) -> list[Split]:
    """The parts of each fold: rows of the cohort, ascending.

    Folds are balanced by the event and the class (patients without one count as a class of their own). `sites: apart`
    keeps all patients of a hospital in one part (preserved-site cross-validation: Howard et al., Nat Commun 2021,
    10.1038/s41467-021-24698-1), so a model cannot gain by recognising a hospital's stain or batch.

    Raises
    ------
    RequestError
        Too few patients, events or hospitals for so many folds.
    """
    wanted, _ = decided_split(cohort, wanted)
    part, groups = cohort.part, _groups(cohort, wanted)
    strata = _strata(cohort, wanted)
    everything = np.arange(len(part))
    found: list[Split] = []
    for tested in _disjoint(strata, groups, wanted.folds, seed):
        rest = np.setdiff1d(everything, tested)
        chosen = _validation(strata[rest], groups[rest], wanted, seed)
        split = {TRAIN: np.delete(rest, chosen), VALIDATION: rest[chosen], TEST: tested}
        _check(part, split)
        found.append(split)
    return found


def final_split(cohort: Cohort, wanted: CohortSplit) -> Split:
    """All patients in a training and a validation part: for the model of new patients."""
    wanted, _ = decided_split(cohort, wanted)
    strata, groups = _strata(cohort, wanted), _groups(cohort, wanted)
    chosen = _validation(strata, groups, wanted, wanted.seeds[0])
    return {TRAIN: np.setdiff1d(np.arange(len(strata)), chosen), VALIDATION: chosen}


def write_cohort_splits(
    path: Path, cohort: Cohort, wanted: CohortSplit, splits: dict[int, list[Split]]
) -> dict[str, Any]:
    """Write the folds of every seed as JSON; return the record without the ids of patients.

    sha256 of a part is that of its sorted patient ids; of the data, see `Cohort.sha256`.
    """
    ids = np.array(cohort.part.ids, dtype=object)
    record = {
        "format": FORMAT,
        "data_sha256": cohort.sha256,
        "patients": len(ids),
        "sites": decided_split(cohort, wanted)[0].sites if cohort.sites is not None else "unknown",
        "seeds": {
            str(seed): [
                {name: _described(cohort, rows) | {"ids": sorted(ids[rows].tolist())} for name, rows in fold.items()}
                for fold in folds
            ]
            for seed, folds in splits.items()
        },
    }
    write_json(path, record)
    without = {
        seed: [{name: {k: v for k, v in part.items() if k != "ids"} for name, part in fold.items()} for fold in folds]
        for seed, folds in record["seeds"].items()  # type: ignore[attr-defined]
    }
    return record | {"seeds": without}


def _described(cohort: Cohort, rows: Rows) -> dict[str, Any]:
    part = cohort.part.take(rows)
    about: dict[str, Any] = {"n": len(part), "sha256": ids_digest(part.ids)}
    if part.event is not None:
        about["events"] = int(part.event.sum())
    if part.labels is not None:
        about["per_class"] = [int((part.labels == index).sum()) for index in range(len(part.classes))]
    if cohort.sites is not None:
        about["sites"] = len({cohort.sites[row] for row in rows})
    return about


def _groups(cohort: Cohort, wanted: CohortSplit) -> npt.NDArray[np.int64]:
    """What is never divided: a hospital, or a patient."""
    if wanted.sites == "apart" and cohort.sites is not None:
        groups: npt.NDArray[np.int64] = np.unique(cohort.sites, return_inverse=True)[1]
        if groups.max() + 1 < 2 * wanted.folds:
            raise RequestError(
                f"split: {groups.max() + 1} hospitals are too few for {wanted.folds} folds that keep each in one part. "
                "Use fewer folds, or set split.sites: balanced."
            )
        return groups
    return np.arange(len(cohort.part))


def _strata(cohort: Cohort, wanted: CohortSplit) -> npt.NDArray[np.int64]:
    """Number of the combination of event, class and (for `balanced`) hospital of each patient, (N,)."""
    part = cohort.part
    keys = [np.zeros(len(part), dtype=np.int64)]
    if part.event is not None and part.time is not None:
        keys.append(np.where(np.isfinite(part.time), part.event.astype(np.int64), 2))
    if part.labels is not None:
        keys.append(part.labels)
    if wanted.sites == "balanced" and cohort.sites is not None:
        _, site, counts = np.unique(cohort.sites, return_inverse=True, return_counts=True)
        keys.append(np.where(counts[site] < wanted.folds, -1, site))  # small hospitals count as one
    found: npt.NDArray[np.int64] = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return found


def _validation(strata: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], wanted: CohortSplit, seed: int) -> Rows:
    """Rows of a validation part: a share of `wanted.validation`, at least one whole group."""
    parts = min(round(1 / wanted.validation), len(np.unique(groups)))  # few hospitals: one of them, a larger share
    return _disjoint(strata, groups, max(2, parts), seed)[0]


def _disjoint(strata: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], k: int, seed: int) -> Sequence[Rows]:
    """`k` disjoint sets of rows of whole groups, strata spread as evenly as groups allow."""
    names, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < k:
        raise RequestError(f"split: {len(names)} groups are too few for {k} folds; use fewer folds.")
    fold = _of_patients(strata, k, seed) if sizes.max() == 1 else _of_groups(strata, group, sizes, k, seed)[group]
    return [np.flatnonzero(fold == index) for index in range(k)]


def _of_patients(strata: npt.NDArray[np.int64], k: int, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each patient, (N,): dealt in the order of the strata, at random within each.

    Strata are numbered by event, class and hospital in this order, so each of their levels is spread to within one
    patient per stratum, also strata with fewer than `k` patients, which scikit-learn's StratifiedKFold refuses.
    """
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(len(strata))
    order = mixed[np.argsort(strata[mixed], kind="stable")]
    fold = np.empty(len(strata), dtype=np.int64)
    fold[order] = rng.permutation(k)[np.arange(len(strata)) % k]
    return fold


def _of_groups(
    strata: npt.NDArray[np.int64], group: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], k: int, seed: int
) -> npt.NDArray[np.int64]:
    """Fold of each group, (G,): the best balanced of `TRIALS` random orders, each group to the fold that holds least.

    scikit-learn's StratifiedGroupKFold takes groups in the order of their composition, so its folds hardly depend on
    the seed: with 35 hospitals of TCGA GBM-LGG, three seeds had two folds in common.
    """
    counts = np.zeros((len(sizes), strata.max() + 1))
    np.add.at(counts, (group, strata), 1)
    shares = counts / counts.sum(axis=0).clip(min=1)  # of each stratum, what a group holds
    rng = np.random.default_rng(seed)
    best, found = np.inf, np.zeros(len(sizes), dtype=np.int64)
    for _ in range(TRIALS):
        order = rng.permutation(len(sizes))
        order = order[np.argsort(-sizes[order] * rng.uniform(0.3, 1.0, len(order)), kind="stable")]  # large ones first
        held, fold = np.zeros((k, shares.shape[1])), np.zeros(len(sizes), dtype=np.int64)
        for one in order:
            fold[one] = np.argmin(held @ shares[one])  # the least sum of squares after it
            held[fold[one]] += shares[one]
        unbalanced = float(((held - 1 / k) ** 2).sum())
        if unbalanced < best:
            best, found = unbalanced, fold
    return found


def _check(part: Part, split: Split) -> None:
    events = 0 if part.event is None else int(part.event.sum())
    for name, rows in split.items():
        chosen = part.take(rows)
        if not len(rows):
            raise RequestError(f"split: a part {name} is empty; use fewer folds, or split.sites: balanced.")
        if chosen.event is not None and int(chosen.event.sum()) < FEWEST_EVENTS:
            raise RequestError(
                f"split: a part {name} of {len(rows)} patients has {int(chosen.event.sum())} of the cohort's {events} "
                f"events, {FEWEST_EVENTS} are needed; use fewer folds or a larger split.validation."
            )
        if chosen.labels is not None and name == TRAIN and part.labels is not None:
            lacking = set(part.labels.tolist()) - set(chosen.labels.tolist()) - {-1}
            if lacking:
                raise RequestError(
                    f"split: no training patient of class {part.classes[min(lacking)]!r}; use fewer folds, or "
                    "split.sites: balanced."
                )
