"""Means over folds and their bootstrap: draws are of patients of the whole cohort, the same for every learner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.training.cohort.conftest import part_of
from wsikit.training.bootstrap import draw_groups
from wsikit.training.cohort.cross_validation import FoldResult
from wsikit.training.cohort.evaluate import differences, fold_truths, measure_classes, measure_survival
from wsikit.training.cohort.protocol import UNKNOWN, Part, Prediction
from wsikit.training.cohort.survival_scores import HARRELL
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Split

PART = part_of()


def splits_of(part: Part) -> dict[int, list[Split]]:
    """Three folds, of every third patient."""
    rows = np.arange(len(part))
    folds = []
    for index in range(3):
        rest = rows[rows % 3 != index]
        folds.append({TRAIN: rest[::2], VALIDATION: rest[1::2], TEST: rows[rows % 3 == index]})
    return {0: folds}


def results_of(part: Part, splits: dict[int, list[Split]], name: str, noise: float) -> list[FoldResult]:
    """Risks by gene G0, on another scale in each fold; classes by gene G1."""
    rng = np.random.default_rng(0)
    found = []
    for number, fold in enumerate(splits[0]):
        tested = part.take(fold[TEST])
        risk = tested.columns["rna"][:, 0] + noise * rng.normal(size=len(tested))
        first = 1 / (1 + np.exp(-tested.columns["rna"][:, 1].astype(float) - noise * rng.normal(size=len(tested))))
        prediction = Prediction(10.0**number * risk + number, probs=np.stack([first, 1 - first], axis=1))
        found.append(FoldResult(name, 0, number, tested.ids, prediction, 0.0))
    return found


def c_of_pairs(part: Part, rows: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's index of the patients in `rows` (which may repeat), by a loop over all pairs."""
    assert part.time is not None
    assert part.event is not None
    right, pairs = 0.0, 0
    for a, i in enumerate(rows):
        for b, j in enumerate(rows):
            later = part.time[i] < part.time[j] or (part.time[i] == part.time[j] and not part.event[j])
            if part.event[i] and later:
                pairs += 1
                right += 1.0 if risk[a] > risk[b] else 0.5 if risk[a] == risk[b] else 0.0
    return right / pairs


def test_a_draw_is_the_mean_over_folds_of_the_patients_that_it_repeats() -> None:
    splits = splits_of(PART)
    results = results_of(PART, splits, "model", 0.5)
    truths = fold_truths(PART, splits, horizons=(), at_risk=10)
    measured = measure_survival(PART, results, splits, truths, draws=100)["model"][HARRELL]
    for draw in (0, 57):
        times_drawn = draw_groups(len(PART), draws=100, seed=0)[draw].astype(int)
        by_fold = []
        for result, fold in zip(results, splits[0]):
            repeated = np.repeat(np.arange(len(fold[TEST])), times_drawn[fold[TEST]])
            assert result.prediction.risk is not None
            by_fold.append(c_of_pairs(PART, fold[TEST][repeated], result.prediction.risk[repeated]))
        assert measured.drawn[draw] == pytest.approx(np.mean(by_fold), abs=1e-12)
    assert measured.value == pytest.approx(np.mean(measured.by_fold[0]))


def test_differences_are_paired() -> None:
    splits = splits_of(PART)
    results = [
        *results_of(PART, splits, "good", 0.3),
        *results_of(PART, splits, "same", 0.3),
        *results_of(PART, splits, "bad", 5.0),
    ]
    truths = fold_truths(PART, splits, horizons=(), at_risk=10)
    found = differences(measure_survival(PART, results, splits, truths, draws=200), "good")
    assert found["same"][HARRELL] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    low = found["bad"][HARRELL]["low"]
    assert low is not None
    assert low > 0


def test_patients_without_follow_up_or_label_are_left_out_of_that_task() -> None:
    part = replace(PART, time=PART.time.copy(), labels=PART.labels.copy())  # type: ignore[union-attr]
    assert part.time is not None
    assert part.labels is not None
    part.time[:30], part.labels[30:60] = np.nan, UNKNOWN
    splits = splits_of(part)
    results = results_of(part, splits, "model", 0.5)
    truths = fold_truths(part, splits, horizons=(), at_risk=10)
    assert sum(len(truth.time) for truth in truths.values()) == 90
    rows = np.arange(30, 120)
    expected = []
    for result, fold in zip(results, splits[0]):
        kept = np.isin(fold[TEST], rows)
        assert result.prediction.risk is not None
        expected.append(c_of_pairs(part, fold[TEST][kept], result.prediction.risk[kept]))
    measured = measure_survival(part, results, splits, truths, draws=100)["model"][HARRELL]
    assert measured.value == pytest.approx(np.mean(expected))
    accuracy = measure_classes(part, results, splits, draws=100)["model"]["accuracy"].value
    first = np.concatenate([result.prediction.probs[:, 0] for result in results])  # type: ignore[index]
    order = np.concatenate([fold[TEST] for fold in splits[0]])
    right = (first > 0.5) == (part.labels[order] == 0)
    assert accuracy == pytest.approx(right[part.labels[order] != UNKNOWN].mean())
