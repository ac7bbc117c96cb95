"""Metrics of survival on the test part of one fold: by scikit-survival, and for bootstrap draws of patients at once.

Follow-up ends where the training supports it: later times would get weights from a handful of patients, or none. See
docs/decisions/0024-survival-metrics.md for equal times, tied risks and limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.baselines import survival_at
from wsikit.training.cohort.linear import survival_array
from wsikit.training.cohort.protocol import Prediction

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

HARRELL, UNO, BRIER = "c_harrell", "c_ipcw", "integrated_brier"
TIED = 1e-8
"""Standardised risks closer than this are ties: scikit-survival's tolerance."""
GRID = 50
"""Times over which the Brier score is integrated."""


def auc_name(months: float) -> str:
    """Name of the time-dependent AUC at a horizon.

    >>> auc_name(36.0)
    'auc_36m'
    """
    return f"auc_{months:g}m"


def standardised(risk: Doubles) -> Doubles:
    """Risks with mean 0 and standard deviation 1, zeros if they are all equal.

    scikit-survival counts risks closer than 1e-8 as ties, so a perfect ranking in small units would score 0.5.

    >>> standardised(np.array([1e-9, 3e-9]))
    array([-1.,  1.])
    """
    spread = float(risk.std())
    # equal risks may differ by rounding alone
    if not spread > 1e-12 * float(np.abs(risk).max(initial=0.0)):
        return np.zeros(len(risk))
    return np.asarray((risk - risk.mean()) / spread, dtype=np.float64)


def support(time: Doubles, at_risk: int) -> float:
    """The last time of the training after which at least `at_risk` patients are still under observation.

    Up to it the probability of not being censored is above 0, whatever happened to the last patients.

    >>> support(np.array([1.0, 2.0, 3.0, 9.0]), 2)
    2.0
    """
    longest = np.sort(time)[-at_risk:]
    earlier = time[time < longest[0]]
    if len(longest) < at_risk or not len(earlier):
        raise RequestError(f"metrics: {len(time)} patients in training are too few for min_at_risk {at_risk}.")
    return float(earlier.max())


@dataclass(frozen=True)
class FoldTruth:
    """Follow-up of one fold: of the patients of the training (train and validation part), and of the tested ones."""

    train_time: Doubles
    train_event: Bools
    time: Doubles
    """(n,), months; all known."""
    event: Bools
    horizons: tuple[float, ...] = ()
    at_risk: int = 10

    @cached_property
    def end(self) -> float:
        """Months after which nothing is measured: what the training supports, or the longest follow-up tested."""
        return min(support(self.train_time, self.at_risk), float(self.time.max()))

    @cached_property
    def _ended(self) -> tuple[Doubles, Bools]:
        """Follow-up that is censored at `end`: nothing before it changes."""
        return np.minimum(self.time, self.end), self.event & (self.time <= self.end)

    @cached_property
    def grid(self) -> Doubles:
        """Times of the Brier score, (T,): from the first to before the end of the follow-up."""
        time, _ = self._ended
        last = time.min() + (self.end - time.min()) * (1 - 1e-6)
        return np.linspace(time.min(), last, GRID)

    def usable(self, horizon: float) -> bool:
        """Whether the AUC at this time is defined: within the follow-up, with events before and patients after."""
        time, event = self._ended
        return bool(time.min() <= horizon < self.end and (event & (time <= horizon)).any() and (time > horizon).any())

    # by scikit-survival

    def scores(self, prediction: Prediction) -> dict[str, float | None]:
        """All metrics of the tested patients; None where one is not defined, or the model gives no survival curves.

        Without an event none is defined, the Brier score included: curves that stay at 1 would have the best.
        """
        from sksurv.metrics import (
            concordance_index_censored,
            concordance_index_ipcw,
            cumulative_dynamic_auc,
            integrated_brier_score,
        )

        if prediction.risk is None:
            raise RequestError("survival metrics: the model gives no risk.")
        risk = standardised(prediction.risk)
        time, event = self._ended
        trained, tested = survival_array(self.train_time, self.train_event), survival_array(time, event)
        found: dict[str, float | None] = {HARRELL: None, UNO: None, BRIER: None}
        if self._pairs.any():
            found[HARRELL] = float(concordance_index_censored(self.event, self.time, risk, tied_tol=TIED)[0])
        if self._weighted_pairs.any():
            found[UNO] = float(concordance_index_ipcw(trained, tested, risk, tied_tol=TIED)[0])
        if prediction.survival is not None and self._ended[1].any():
            curves = survival_at(prediction, self.grid)
            found[BRIER] = float(integrated_brier_score(trained, tested, curves, self.grid))
        for months in self.horizons:
            found[auc_name(months)] = (
                float(cumulative_dynamic_auc(trained, tested, risk, [months], tied_tol=TIED)[0][0])
                if self.usable(months)
                else None
            )
        return found

    # for draws of patients

    def drawn(self, prediction: Prediction, weights: Doubles) -> dict[str, Doubles]:
        """The same metrics with each patient counted as often as `weights` (D, n) say; NaN where one is not defined.

        Censoring weights stay those of the training. With all weights 1 these are `scores`.
        """
        assert prediction.risk is not None
        risk = standardised(prediction.risk)
        apart = risk[:, None] - risk[None, :]
        right = np.where(np.abs(apart) <= TIED, 0.5, (apart > 0).astype(np.float64))
        found = {
            HARRELL: _share(weights, self._pairs, right),
            UNO: _share(weights, self._weighted_pairs, right),
        }
        if prediction.survival is not None and self._ended[1].any():
            losses = self._brier_of_patients(survival_at(prediction, self.grid))
            with np.errstate(invalid="ignore"):
                found[BRIER] = np.asarray(weights @ losses / weights.sum(axis=1))
        for months in self.horizons:
            if self.usable(months):
                found[auc_name(months)] = _share(weights, self._cases_and_controls(months), right)
        return found

    @cached_property
    def _pairs(self) -> Doubles:
        """(n, n): 1 where i had the event before j's follow-up ended; censored at the same time counts as later."""
        return _comparable(self.time, self.event)

    @cached_property
    def _weighted_pairs(self) -> Doubles:
        time, event = self._ended
        return _comparable(time, event) * (self._inverse_censoring**2)[:, None]

    @cached_property
    def _inverse_censoring(self) -> Doubles:
        """1 / probability of not being censored before one's event, (n,); 0 for patients without event."""
        from sksurv.nonparametric import CensoringDistributionEstimator

        if not self._ended[1].any():  # scikit-survival refuses a test part without events
            return np.zeros(len(self.time))
        censoring = CensoringDistributionEstimator().fit(survival_array(self.train_time, self.train_event))
        return np.asarray(censoring.predict_ipcw(survival_array(*self._ended)), dtype=np.float64)

    def _cases_and_controls(self, months: float) -> Doubles:
        time, event = self._ended
        cases = np.where(event & (time <= months), self._inverse_censoring, 0.0)
        return cases[:, None] * (time > months)[None, :]

    def _brier_of_patients(self, curves: Doubles) -> Doubles:
        """Each patient's share of the integrated Brier score, (n,); their mean is the score."""
        from sksurv.nonparametric import CensoringDistributionEstimator

        censoring = CensoringDistributionEstimator().fit(survival_array(self.train_time, self.train_event))
        at_grid = np.asarray(censoring.predict_proba(self.grid))
        time, event = self._ended
        died = (time[:, None] <= self.grid) & event[:, None]
        lives = time[:, None] > self.grid
        loss = curves**2 * died * self._inverse_censoring[:, None] + (1 - curves) ** 2 * lives / at_grid
        return np.asarray(np.trapezoid(loss, self.grid, axis=1) / (self.grid[-1] - self.grid[0]))


def _comparable(time: Doubles, event: Bools) -> Doubles:
    earlier = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & ~event[None, :])
    return np.asarray(event[:, None] & earlier, dtype=np.float64)


def _share(weights: Doubles, pairs: Doubles, right: Doubles) -> Doubles:
    """Share of the pairs in the right order, (D,), each pair counted as often as both of its patients are drawn."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(
            ((weights @ (pairs * right)) * weights).sum(axis=1) / ((weights @ pairs) * weights).sum(axis=1)
        )


def mean_over(values: Sequence[Doubles]) -> Doubles:
    """Mean over folds, (D,), of those in which the metric is defined."""
    stacked = np.stack(list(values))
    defined = np.isfinite(stacked)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, stacked, 0.0).sum(axis=0) / defined.sum(axis=0))
