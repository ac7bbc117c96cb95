"""Survival curves from the outputs of UMEML's heads. No torch here. Axes: N patients, T times in months."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.training.cohort.scaling import time_bin

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CurveShape:
    """How a curve of discrete hazards runs within its intervals: as the cumulative hazard of the training part does.

    Within an interval all patients have proportional hazards; the ends of the intervals are the network's own. With a
    constant hazard instead, the last interval, which may last for many years, would have its deaths too late.
    """

    times: Doubles
    """Months, (T,), increasing: those of the events of the training part."""
    interval: npt.NDArray[np.int64]
    """Of each time, (T,)."""
    share: Doubles
    """Part of the interval's cumulative hazard that is reached, (T,); 1 at its last event."""

    def survival(self, ends: Doubles) -> Doubles:
        """Curves at `times` (N, T) from those at the ends of the intervals (N, bins)."""
        logs = np.log(np.maximum(ends, 1e-12))
        before = np.concatenate([np.zeros((len(logs), 1)), logs[:, :-1]], axis=1)
        found: Doubles = np.exp(before[:, self.interval] + (logs - before)[:, self.interval] * self.share)
        return found


def fit_shape(time: Doubles, event: npt.NDArray[np.bool_], cuts: Doubles) -> CurveShape:
    """The shape of a training part: the increments of Nelson and Aalen's estimate, within each interval.

    `cuts` (bins − 1,) are the inner borders; rows without a known time are left out.

    >>> shape = fit_shape(np.array([1.0, 2.0, 9.0]), np.array([True, True, True]), np.array([5.0]))
    >>> shape.interval.tolist(), shape.share.tolist()
    ([0, 0, 1], [0.4, 1.0, 1.0])
    """
    known = np.isfinite(time)
    time, event = time[known], event[known]
    times = np.unique(time[event])
    steps = np.array([(event & (time == t)).sum() / (time >= t).sum() for t in times])
    interval = time_bin(times, cuts)
    share = np.empty(len(times))
    for k in np.unique(interval):
        rows = interval == k
        reached = np.cumsum(steps[rows])
        share[rows] = reached / reached[-1]
    return CurveShape(times, interval, share)


@dataclass(frozen=True)
class Baseline:
    """Cumulative baseline hazard of a Cox model (Breslow's estimate) on its training part."""

    times: Doubles
    """Months of the events, (T,), increasing."""
    hazard: Doubles
    """(T,), for a log-risk of 0."""

    def survival(self, log_risk: Doubles) -> Doubles:
        """Curves (N, T)."""
        return np.exp(-np.exp(np.clip(log_risk, -50, 50))[:, None] * self.hazard)


def fit_baseline(log_risk: Doubles, time: Doubles, event: npt.NDArray[np.bool_]) -> Baseline:
    """Breslow's estimate: at each time of events, their number over the summed risk of those at risk.

    >>> fit_baseline(np.zeros(2), np.array([1.0, 2.0]), np.array([True, True])).hazard
    array([0.5, 1.5])
    """
    times = np.unique(time[event])
    risk = np.exp(np.clip(log_risk, -50, 50))
    steps = [float((event & (time == t)).sum() / risk[time >= t].sum()) for t in times]
    return Baseline(times, np.cumsum(steps))
