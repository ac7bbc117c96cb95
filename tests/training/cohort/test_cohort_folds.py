"""Folds: patients and hospitals are never divided, outcomes are spread, seeds differ, splits have hashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.cohort.cohort import Cohort, load_cohort
from wsikit.training.cohort.config import CohortSplit, CohortTrainConfig
from wsikit.training.cohort.folds import decided_split, final_split, make_folds, write_cohort_splits
from wsikit.training.splits import TEST, TRAIN, VALIDATION, ids_digest


@pytest.fixture
def cohort(rows: list[dict[str, Any]], configured: Callable[..., CohortTrainConfig]) -> Cohort:
    return load_cohort(configured(rows, labels={"column": "kind"}))


@pytest.mark.parametrize("sites", ["apart", "balanced", "ignore"])
def test_each_patient_is_tested_once_and_is_in_one_part(cohort: Cohort, sites: str) -> None:
    folds = make_folds(cohort, CohortSplit(folds=3, sites=sites), seed=0)
    assert np.array_equal(np.sort(np.concatenate([fold[TEST] for fold in folds])), np.arange(120))
    for fold in folds:
        assert np.array_equal(np.sort(np.concatenate(list(fold.values()))), np.arange(120))
        assert [*fold] == [TRAIN, VALIDATION, TEST]


def test_hospitals_kept_apart_are_in_one_part_each(cohort: Cohort) -> None:
    assert cohort.sites is not None
    for fold in make_folds(cohort, CohortSplit(folds=3, sites="apart"), seed=0):
        for one, other in combinations(fold.values(), 2):
            assert not {cohort.sites[row] for row in one} & {cohort.sites[row] for row in other}


def test_hospitals_are_spread_when_balanced(cohort: Cohort) -> None:
    assert cohort.sites is not None
    for fold in make_folds(cohort, CohortSplit(folds=3, sites="balanced"), seed=0):
        assert len({cohort.sites[row] for row in fold[TEST]}) == 12


@pytest.mark.parametrize(("sites", "spread"), [("apart", 0.15), ("balanced", 0.04), ("ignore", 0.04)])
def test_events_and_classes_are_spread_over_the_folds(cohort: Cohort, sites: str, spread: float) -> None:
    part = cohort.part
    assert part.event is not None
    assert part.labels is not None
    for fold in make_folds(cohort, CohortSplit(folds=3, sites=sites), seed=0):
        assert part.event[fold[TEST]].mean() == pytest.approx(part.event.mean(), abs=spread)
        assert part.labels[fold[TEST]].mean() == pytest.approx(part.labels.mean(), abs=spread)


@pytest.mark.parametrize("sites", ["apart", "ignore"])
def test_seeds_make_other_folds_and_equal_seeds_equal_ones(cohort: Cohort, sites: str) -> None:
    one, again, other = (make_folds(cohort, CohortSplit(folds=3, sites=sites), seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a[TEST], b[TEST]) for a, b in zip(one, again))
    assert {tuple(fold[TEST]) for fold in one} != {tuple(fold[TEST]) for fold in other}


def test_tcga_barcodes_name_the_hospital(
    rows: list[dict[str, Any]], configured: Callable[..., CohortTrainConfig]
) -> None:
    changed = [row | {"patient": f"TCGA-{'AB'[i % 2]}{i % 5}-{i:04d}"} for i, row in enumerate(rows)]
    cohort = load_cohort(configured(changed, data={"site": None}))
    assert cohort.sites is not None
    assert (cohort.sites[0], len(set(cohort.sites))) == ("A0", 10)
    assert load_cohort(configured(rows, data={"site": None})).sites is None


def test_too_few_hospitals_are_refused_with_what_to_do(cohort: Cohort) -> None:
    few = replace(cohort, sites=tuple("ab"[i % 2] for i in range(120)))
    with pytest.raises(RequestError, match="2 hospitals are too few for 3 folds.*balanced"):
        make_folds(few, CohortSplit(folds=3, sites="apart"), seed=0)


@pytest.mark.parametrize(
    ("hospitals", "is_apart", "said"),
    [
        ([f"H{row % 6}" for row in range(120)], True, ""),
        ([f"H{row % 5}" for row in range(120)], False, "5 hospitals are too few for 3 folds"),
        ([f"H{max(0, row - 70)}" for row in range(120)], False, "hospital 'H0' has 71 of 120 patients"),
    ],
    ids=["two for each fold", "fewer", "one large"],
)
def test_hospitals_are_kept_apart_where_they_can_be(
    cohort: Cohort, tmp_path: Path, hospitals: list[str], is_apart: bool, said: str
) -> None:
    cohort, wanted = replace(cohort, sites=tuple(hospitals)), CohortSplit(folds=3, seeds=(0, 1))
    split, reason = decided_split(cohort, wanted)
    assert split.sites == ("apart" if is_apart else "balanced")
    assert said == "" if is_apart else said in reason
    folds = make_folds(cohort, wanted, 0)
    assert all(
        np.array_equal(one[TEST], other[TEST]) for one, other in zip(folds, make_folds(cohort, split, 0), strict=True)
    )
    record = write_cohort_splits(tmp_path / "splits.json", cohort, wanted, {0: folds})
    assert record["sites"] == split.sites


def test_hospitals_whose_folds_lack_events_are_spread(cohort: Cohort) -> None:
    """Two hospitals have all events, so that of three folds kept apart one has none."""
    event = np.array([site in ("H0", "H1") for site in cohort.sites or ()])
    one = replace(cohort, part=replace(cohort.part, event=event))
    split, reason = decided_split(one, CohortSplit(folds=3, seeds=(0,), validation=0.25))
    assert split.sites == "balanced"
    assert "of the cohort's 20 events" in reason
    assert sorted(int(event[fold[TEST]].sum()) for fold in make_folds(one, split, 0)) == [6, 7, 7]


def test_of_few_hospitals_kept_apart_one_is_the_validation_part(cohort: Cohort) -> None:
    sites = np.array([f"H{row % 4}" for row in range(120)])
    few = replace(cohort, sites=tuple(sites.tolist()))
    wanted = CohortSplit(folds=2, sites="apart")
    for fold in [*make_folds(few, wanted, seed=0), final_split(few, wanted)]:
        assert len(set(sites[fold[VALIDATION]])) == 1
        assert not set(sites[fold[VALIDATION]]) & set(sites[fold[TRAIN]])


def test_too_few_events_are_refused_with_their_number_in_the_cohort(cohort: Cohort) -> None:
    event = np.zeros(120, dtype=bool)
    event[:6] = True
    rare = replace(cohort, part=replace(cohort.part, event=event))
    with pytest.raises(RequestError, match="of the cohort's 6 events, 2 are needed; use fewer folds or a larger"):
        make_folds(rare, CohortSplit(folds=5, sites="ignore"), seed=0)


def test_the_split_is_written_with_the_hash_of_each_part(cohort: Cohort, tmp_path: Path) -> None:
    wanted = CohortSplit(folds=3, seeds=(4,))
    splits = {4: make_folds(cohort, wanted, 4)}
    record = write_cohort_splits(tmp_path / "splits.json", cohort, wanted, splits)
    written = json.loads((tmp_path / "splits.json").read_text())
    ids = [cohort.part.ids[row] for row in splits[4][1][TEST]]
    assert written["seeds"]["4"][1][TEST]["ids"] == sorted(ids)
    assert record["seeds"]["4"][1][TEST]["sha256"] == ids_digest(ids)
    assert "ids" not in record["seeds"]["4"][1][TEST]
    assert written["data_sha256"] == cohort.sha256


def test_the_final_model_is_trained_on_all_patients(cohort: Cohort) -> None:
    split = final_split(cohort, CohortSplit(folds=3))
    assert np.array_equal(np.sort(np.concatenate(list(split.values()))), np.arange(120))
