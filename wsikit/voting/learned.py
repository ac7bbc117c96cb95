"""What a vote learned from validation patients: how far its shares are from the truth, and which share calls a class.

The interval of a share by block bootstrap is the sampling part alone: it does not hold the error of the model. Here
that error is learned from patients whose truth is known (split conformal prediction: Vovk et al. 2005; with a scale per
slide: Lei et al. 2018): of the distances |truth − share| / scale of N patients the k-th smallest, k = ⌈level · (N +
1)⌉, times the scale of a new slide. If the new patient is exchangeable with these, its share is within with a
probability of at least `level`, whatever the distribution of the errors. NumPy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError

Floats = npt.NDArray[np.float64]

MIN_PATIENTS = 20
"""With fewer validation patients no interval is given: its coverage would vary by more than ±7 points (one standard
deviation, at 90 %)."""
_TAUS = np.concatenate([[1e-3], np.geomspace(5e-3, 0.5, 120)])


@dataclass(frozen=True)
class LearnedVote:
    """Thresholds and errors of one method with its settings, from S validation slides of C voting classes."""

    settings: str
    """Settings of the vote that it was learned for, as JSON (`VoteRule.score_settings`); it holds for these alone."""
    classes: tuple[str, ...]
    patients: int
    """Number of validation patients."""
    thresholds: tuple[float, ...] = ()
    """(C,) share of each class that calls it, sum 1: the class with the highest share/threshold leads. Empty: equal."""
    tau: tuple[float, ...] = ()
    """(C,) standard deviation of the model's error per slide."""
    distances: tuple[tuple[float, ...], ...] = ()
    """(S, C) absolute difference of truth and share, divided by scale."""
    mass: tuple[float, ...] = ()
    """(S,) 1 / number of slides of the patient: every patient counts once."""

    def factors(self, level: float) -> Floats | None:
        """(C,) what a slide's scale is multiplied by; None if there are too few patients for `level`."""
        if self.why_not(level):
            return None
        distances, mass = np.asarray(self.distances), np.asarray(self.mass)
        order = np.argsort(distances, axis=0, kind="stable")
        reached = np.cumsum(mass[order], axis=0) >= level * (self.patients + 1) - 1e-9
        ranked = np.take_along_axis(distances, order, axis=0)
        return np.asarray(ranked[reached.argmax(axis=0), np.arange(ranked.shape[1])])

    def why_not(self, level: float) -> str:
        """Why there is no interval of `level`; empty if there is one."""
        if not self.distances:
            return "no errors were learned for this method"
        needed = max(MIN_PATIENTS, least_patients(level))
        if self.patients < needed:
            return f"{self.patients} validation patients; an interval of {100 * level:g} % needs {needed}"
        return ""

    def interval(self, shares: Floats, n_effective: float, level: float) -> tuple[Floats, Floats] | None:
        """Lower and upper ends, (C,) each within [0, 1], for the `shares` (C,) of a slide; None as for `factors`."""
        factors = self.factors(level)
        if factors is None:
            return None
        reach = factors * scale_of(shares, n_effective, np.asarray(self.tau))
        return np.clip(shares - reach, 0, 1), np.clip(shares + reach, 0, 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return {
            "settings": json.loads(self.settings),
            "classes": list(self.classes),
            "patients": self.patients,
            "thresholds": list(self.thresholds),
            "tau": list(self.tau),
            "distances": [list(row) for row in self.distances],
            "mass": list(self.mass),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LearnedVote:
        """The inverse of `to_json`."""
        return cls(
            settings=canonical(record["settings"]),
            classes=tuple(record["classes"]),
            patients=int(record["patients"]),
            thresholds=tuple(record["thresholds"]),
            tau=tuple(record["tau"]),
            distances=tuple(tuple(row) for row in record["distances"]),
            mass=tuple(record["mass"]),
        )


def canonical(settings: Mapping[str, Any]) -> str:
    """Settings as JSON, equal for equal settings.

    >>> canonical({"b": 1.0, "a": None})
    '{"a": null, "b": 1.0}'
    """
    return json.dumps(settings, sort_keys=True)


def least_patients(level: float) -> int:
    """Patients from which on a finite interval of `level` exists.

    >>> [least_patients(level) for level in (0.8, 0.9, 0.95)]
    [4, 9, 19]
    """
    return math.ceil(level / (1 - level) - 1e-9)


def scale_of(shares: Floats, n_effective: float | Floats, tau: Floats) -> Floats:
    """(…, C) expected size of the error of `shares` (…, C) of slides with `n_effective` patches.

    The variance within the slide, s(1 − s)/n, and that of the model's error, tau², add.
    """
    clipped = np.clip(shares, 0, 1)
    within = clipped * (1 - clipped) / np.maximum(n_effective, 1)
    return np.asarray(np.sqrt(within + tau**2))


def learn_errors(
    truth: Floats, shares: Floats, n_effective: Floats, patients: Sequence[str]
) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...], tuple[float, ...], int]:
    """`tau`, `distances`, `mass` and the number of patients of `LearnedVote`, from S slides.

    Parameters
    ----------
    truth, shares
        (S, C) true shares, and those by a vote whose settings were not fitted on the same slide.
    n_effective
        (S,) effective sample sizes.
    patients
        S patients.

    Notes
    -----
    tau is the maximum-likelihood value under normal errors; every patient has the same mass. The interval does not
    depend on these errors being normal.
    """
    if not len(truth) == len(shares) == len(n_effective) == len(patients):
        raise RequestError("truth, shares, effective sample sizes and patients must be of one length")
    names, of_slide, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)
    mass = 1 / counts[of_slide]
    error = truth - shares
    tau = np.array([_likeliest(error[:, c], shares[:, c], n_effective, mass) for c in range(truth.shape[1])])
    distances = np.abs(error) / scale_of(shares, n_effective[:, None], tau)
    order = np.argsort(distances[:, 0], kind="stable")  # the order of the slides is not kept
    rows = tuple(tuple(round(value, 6) for value in row) for row in distances[order].tolist())
    return tuple(round(value, 6) for value in tau.tolist()), rows, tuple(mass[order].tolist()), len(names)


def _likeliest(error: Floats, shares: Floats, n_effective: Floats, mass: Floats) -> float:
    variance = scale_of(shares[None], n_effective[None], _TAUS[:, None]) ** 2  # (T, S)
    loss = (mass * (np.log(variance) + error**2 / variance)).sum(axis=1)
    return float(_TAUS[loss.argmin()])


def relative(shares: Floats, thresholds: Sequence[float]) -> Floats:
    """(…, C) `shares` relative to the thresholds, sum 1: the leading class is the one with the highest.

    >>> relative(np.array([0.7, 0.3]), (0.75, 0.25)).round(2).tolist()
    [0.44, 0.56]
    """
    if not len(thresholds):
        return shares
    ratio = shares / np.asarray(thresholds)
    total = ratio.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(ratio, total, out=np.array(shares, dtype=np.float64), where=total > 0))
