"""Survival curves from the outputs of UMEML's heads. No torch here. Axes: N patients, T times in months."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
STEPS = 8
"""Points of a curve within an interval of time."""


def curve_times(cuts: Doubles, end: float) -> Doubles:
    """Times at which a curve of discrete hazards is given: `STEPS` per interval, (bins · STEPS,), increasing.

    `cuts` (bins − 1,): inner borders; the last interval ends at `end`, the longest follow-up of the training part.

    >>> curve_times(np.array([8.0]), 24.0)[[0, 7, 15]]
    array([ 1.,  8., 24.])
    """
    borders = np.concatenate([[0.0], cuts, [max(end, cuts[-1] * (1 + 1e-6))]])
    steps = np.arange(1, STEPS + 1) / STEPS
    return np.concatenate([low + (high - low) * steps for low, high in zip(borders[:-1], borders[1:], strict=True)])


def interpolated(survival: Doubles) -> Doubles:
    """A curve at the ends of the intervals (N, bins), at the times of `curve_times`: the hazard is constant within an
    interval (Kvamme and Borgan 2021), so the logarithm is linear.

    >>> interpolated(np.array([[0.25]]))[0, [3, 7]]
    array([0.5 , 0.25])
    """
    logs = np.log(np.maximum(survival, 1e-12))
    before = np.concatenate([np.zeros((len(logs), 1)), logs[:, :-1]], axis=1)
    steps = np.arange(1, STEPS + 1) / STEPS
    found: Doubles = np.exp((before[:, :, None] + (logs - before)[:, :, None] * steps).reshape(len(logs), -1))
    return found


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
