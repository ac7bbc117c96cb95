"""What a risk means for patients: Kaplan–Meier curves of two groups with numbers at risk, log-rank, calibration.

Groups are divided at the median risk of the training part of each fold, so the tested patients have no part in it. All
patients are tested once per seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.cohort.baselines import survival_at
from wsikit.training.cohort.cross_validation import FoldResult
from wsikit.training.cohort.linear import survival_array
from wsikit.training.cohort.protocol import Part
from wsikit.training.cohort.survival_scores import FoldTruth
from wsikit.training.splits import TEST, Split

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CALIBRATION_GROUPS = 5
"""Groups of patients by predicted survival, of equal size."""


@dataclass(frozen=True)
class Curve:
    """A Kaplan–Meier estimate."""

    times: Doubles
    """Months, (T,), from 0."""
    survival: Doubles
    low: Doubles
    high: Doubles
    """Survival and its pointwise 95 % interval (log-log), (T,)."""
    follow_up: Doubles
    """Of all patients of the group, (n,)."""

    @property
    def n(self) -> int:
        return len(self.follow_up)

    def at_risk(self, times: Doubles) -> list[int]:
        """Number of patients still under observation at each time: those whose follow-up is not shorter."""
        return [int((self.follow_up >= time).sum()) for time in times]

    def median(self) -> float | None:
        """Months at which survival falls to one half; None if it does not."""
        below = np.flatnonzero(self.survival <= 0.5)
        return float(self.times[below[0]]) if len(below) else None


def kaplan_meier(time: Doubles, event: Bools) -> Curve:
    """Kaplan–Meier estimate of one group, by scikit-survival.

    >>> curve = kaplan_meier(np.array([1.0, 2.0, 3.0]), np.array([True, False, True]))
    >>> curve.survival.round(3), curve.at_risk(np.array([0.0, 2.0, 2.5])), curve.median()
    (array([1.   , 0.667, 0.667, 0.   ]), [3, 2, 1], 3.0)
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    if event.any():
        times, survival, (low, high) = kaplan_meier_estimator(event, time, conf_type="log-log")
    else:  # the interval is not defined
        times = np.unique(time)
        survival, low, high = (np.ones(len(times)) for _ in range(3))
    with_start = [
        np.concatenate([[first], values]) for first, values in ((0, times), (1, survival), (1, low), (1, high))
    ]
    return Curve(with_start[0], with_start[1], with_start[2], with_start[3], np.asarray(time))


def log_rank(time: Doubles, event: Bools, high: Bools) -> float | None:
    """p of the log-rank test between two groups; None if one is empty or no event occurred."""
    from sksurv.compare import compare_survival

    if high.all() or not high.any() or not event.any():
        return None
    return float(compare_survival(survival_array(time, event), high)[1])


@dataclass(frozen=True)
class Groups:
    """Tested patients above and below the median risk of their training part."""

    rows: npt.NDArray[np.int64]
    """Of the cohort, (n,)."""
    high: Bools
    """(n,)"""


def groups_of(part: Part, results: Sequence[FoldResult], splits: Mapping[int, Sequence[Split]], seed: int) -> Groups:
    """The groups of one learner (whose results these are) and one seed."""
    assert part.time is not None
    rows, high = [], []
    for result in results:
        if result.seed == seed and result.prediction.risk is not None and result.cut is not None:
            rows.append(splits[seed][result.fold][TEST])
            high.append(result.prediction.risk > result.cut)
    all_rows, all_high = np.concatenate(rows), np.concatenate(high)
    known = np.isfinite(part.time[all_rows])
    return Groups(all_rows[known], all_high[known])


def group_record(part: Part, groups: Groups) -> dict[str, Any]:
    """Sizes, events, median survival and log-rank test of the two groups, for metrics.json."""
    assert part.time is not None
    assert part.event is not None
    time, event = part.time[groups.rows], part.event[groups.rows]
    found: dict[str, Any] = {"log_rank_p": log_rank(time, event, groups.high)}
    for name, chosen in (("low", ~groups.high), ("high", groups.high)):
        if chosen.any():
            curve = kaplan_meier(time[chosen], event[chosen])
            found[name] = {"n": curve.n, "events": int(event[chosen].sum()), "median_months": curve.median()}
    return found


def calibration(
    part: Part,
    results: Sequence[FoldResult],
    splits: Mapping[int, Sequence[Split]],
    truths: Mapping[tuple[int, int], FoldTruth],
    months: float,
) -> dict[str, Any] | None:
    """Predicted and observed survival at one time, in groups by prediction; None if a fold's follow-up ends before.

    Predictions are the mean over seeds, each made without the patient. Observed is Kaplan–Meier within the group.
    `observed_to_expected` is the ratio of the deaths until then: 1 is calibrated in the large, below 1 the model
    predicts too many.
    """
    assert part.time is not None
    assert part.event is not None
    if any(truth.end <= months for truth in truths.values()):
        return None
    total, count = np.zeros(len(part)), np.zeros(len(part))
    for result in results:
        if result.prediction.survival is None:
            return None
        rows = splits[result.seed][result.fold][TEST]
        total[rows] += survival_at(result.prediction, np.array([months]))[:, 0]
        count[rows] += 1
    known = np.isfinite(part.time) & (count > 0)
    predicted, time, event = total[known] / count[known], part.time[known], part.event[known]
    order = np.argsort(predicted, kind="stable")
    found = []
    for rows in np.array_split(order, CALIBRATION_GROUPS):
        observed, low, high = _observed(time[rows], event[rows], months)
        found.append(
            {"n": len(rows), "predicted": float(predicted[rows].mean()), "observed": observed, "low": low, "high": high}
        )
    expected = float((1 - predicted).mean())
    overall = 1 - _observed(time, event, months)[0]
    return {"groups": found, "observed_to_expected": overall / expected if expected > 0 else None}


def _observed(time: Doubles, event: Bools, months: float) -> tuple[float, float, float]:
    """Kaplan–Meier survival at one time with its interval."""
    curve = kaplan_meier(time, event)
    place = int(np.searchsorted(curve.times, months, side="right")) - 1
    return float(curve.survival[place]), float(curve.low[place]), float(curve.high[place])
