"""Metrics of cross-validated learners with intervals by patient, and paired differences between learners.

A metric of survival is the mean over folds and seeds: risks of different folds are not on one scale. A metric of
classes is over the predictions of all folds together, then the mean over seeds. A bootstrap draw takes patients of the
whole cohort with replacement; the same draws serve all learners, so differences are paired. No model is fitted again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.cohort.cross_validation import FoldResult
from wsikit.training.cohort.protocol import UNKNOWN, Part, Prediction
from wsikit.training.cohort.survival_scores import FoldTruth, mean_over
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Split

Doubles = npt.NDArray[np.float64]

CLASS_MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "auc", "kappa", "kappa_quadratic", "brier", "nll")


@dataclass(frozen=True)
class Measured:
    """One metric of one learner."""

    value: float
    drawn: Doubles
    """(D,), one value per bootstrap draw."""
    by_fold: tuple[tuple[float | None, ...], ...] = ()
    """By seed and fold; empty where folds are measured together."""

    def record(self) -> dict[str, Any]:
        """For metrics.json: value, 95 % interval, and spread over folds."""
        low, high = quantiles(self.drawn) or (None, None)
        found: dict[str, Any] = {"value": _rounded(self.value), "low": _rounded(low), "high": _rounded(high)}
        flat = [value for seed in self.by_fold for value in seed if value is not None]
        if flat:
            found["sd_over_folds"] = _rounded(float(np.std(flat, ddof=1)) if len(flat) > 1 else None)
            found["by_fold"] = [[_rounded(value) for value in seed] for seed in self.by_fold]
        return found


Measures = dict[str, dict[str, Measured]]
"""By learner, then by metric."""


def fold_truths(
    part: Part, splits: Mapping[int, Sequence[Split]], *, horizons: Sequence[float], at_risk: int
) -> dict[tuple[int, int], FoldTruth]:
    """Follow-up of each fold, by seed and number of the fold."""
    assert part.time is not None
    assert part.event is not None
    known = np.isfinite(part.time)
    found = {}
    for seed, folds in splits.items():
        for number, split in enumerate(folds):
            fitted = np.concatenate([split[TRAIN], split[VALIDATION]])
            fitted, tested = fitted[known[fitted]], split[TEST][known[split[TEST]]]
            found[seed, number] = FoldTruth(
                part.time[fitted], part.event[fitted], part.time[tested], part.event[tested], tuple(horizons), at_risk
            )
    return found


def measure_survival(
    part: Part,
    results: Sequence[FoldResult],
    splits: Mapping[int, Sequence[Split]],
    truths: Mapping[tuple[int, int], FoldTruth],
    *,
    draws: int,
) -> Measures:
    """C-indices, integrated Brier score and time-dependent AUC of each learner."""
    assert part.time is not None
    known = np.isfinite(part.time)
    weights = draw_groups(len(part), draws=draws, seed=0)
    found: Measures = {}
    for learner in dict.fromkeys(result.learner for result in results):
        of_learner = [result for result in results if result.learner == learner]
        exact: dict[str, dict[int, list[float | None]]] = {}
        drawn: dict[str, list[Doubles]] = {}
        for result in of_learner:
            rows = splits[result.seed][result.fold][TEST]
            kept = known[rows]
            prediction = _rows_of(result, kept)
            truth = truths[result.seed, result.fold]
            for name, value in truth.scores(prediction).items():
                exact.setdefault(name, {}).setdefault(result.seed, []).append(value)
            for name, values in truth.drawn(prediction, weights[:, rows[kept]]).items():
                drawn.setdefault(name, []).append(values)
        found[learner] = {name: _over_folds(by_seed, drawn[name]) for name, by_seed in exact.items() if name in drawn}
    return found


def measure_classes(
    part: Part, results: Sequence[FoldResult], splits: Mapping[int, Sequence[Split]], *, draws: int
) -> Measures:
    """Accuracy, balanced accuracy, macro-F1, mean one-vs-rest AUC, kappas, Brier score and log-loss of each learner."""
    assert part.labels is not None
    known = part.labels != UNKNOWN
    patients = np.flatnonzero(known)
    weights = np.concatenate([np.ones((1, len(patients))), draw_groups(len(part), draws=draws, seed=0)[:, patients]])
    names = [name for name in CLASS_MEASURES if part.ordered or not name.startswith("kappa_")]
    found: Measures = {}
    for learner in dict.fromkeys(result.learner for result in results):
        by_seed: dict[str, list[Doubles]] = {name: [] for name in names}
        for seed in splits:
            probs = np.full((len(part), len(part.classes)), np.nan)
            for result in results:
                if (result.learner, result.seed) == (learner, seed):
                    assert result.prediction.probs is not None
                    probs[splits[seed][result.fold][TEST]] = result.prediction.probs
            # kappa is over ordered classes in `Sample`; here unweighted kappa is of use for all
            sample = Sample(part.labels[known], probs[known], patients, n_ordinal=len(part.classes))
            values = sample.figures(weights).values
            for name in names:
                by_seed[name].append(values[name])
        means = {name: np.mean(values, axis=0) for name, values in by_seed.items()}
        found[learner] = {name: Measured(float(values[0]), values[1:]) for name, values in means.items()}
    return found


def differences(measures: Measures, learner: str) -> dict[str, dict[str, dict[str, float | None]]]:
    """`learner` minus each other one: difference and 95 % interval of each metric, by the same draws."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for other, of_other in measures.items():
        if other == learner:
            continue
        found[other] = {}
        for name, mine in measures[learner].items():
            if name in of_other:
                low, high = quantiles(mine.drawn - of_other[name].drawn) or (None, None)
                found[other][name] = {
                    "difference": _rounded(mine.value - of_other[name].value),
                    "low": _rounded(low),
                    "high": _rounded(high),
                }
    return found


def records(measures: Measures) -> dict[str, dict[str, dict[str, Any]]]:
    """All measures as they are written in metrics.json."""
    return {
        learner: {name: measured.record() for name, measured in of_learner.items()}
        for learner, of_learner in measures.items()
    }


def _over_folds(by_seed: Mapping[int, Sequence[float | None]], drawn: Sequence[Doubles]) -> Measured:
    flat = [value for values in by_seed.values() for value in values if value is not None]
    return Measured(
        float(np.mean(flat)) if flat else np.nan, mean_over(drawn), tuple(tuple(values) for values in by_seed.values())
    )


def _rows_of(result: FoldResult, kept: npt.NDArray[np.bool_]) -> Prediction:
    found = result.prediction
    return replace(
        found,
        risk=None if found.risk is None else found.risk[kept],
        survival=None if found.survival is None else found.survival[kept],
        probs=None if found.probs is None else found.probs[kept],
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 5)
