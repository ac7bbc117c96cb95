"""Metrics of predictions: accuracy, balanced accuracy, macro-F1, kappa on ordered classes, intervals by patient.

Labels are indices into the classes; ordered classes come first, in their order (UD < PD < D).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.bootstrap import MEASURES, Sample, confusion_measures, draw_groups, quantiles

Labels = npt.NDArray[np.int64]

DRAWS = 1000
"""Bootstrap draws of every interval."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one set of predictions."""

    n: int
    accuracy: float
    balanced_accuracy: float
    """Mean recall over the classes that occur in the truth."""
    macro_f1: float
    """Mean over the classes that occur in the truth."""
    kappa: float | None
    """Cohen's, unweighted, where truth and prediction are both ordinal; None with fewer than two classes there."""
    kappa_quadratic: float | None
    """The same, weighted by the squared distance on the order."""
    confusion: tuple[tuple[int, ...], ...]
    """Counts; rows are the truth, columns the prediction."""


@dataclass(frozen=True)
class Row:
    """Metrics of one condition (such as "image alone") on one set of patches."""

    name: str
    scores: Scores
    accuracy_interval: tuple[float, float]
    """95 % interval, bootstrap over groups."""
    balanced_accuracy_interval: tuple[float, float]
    gate: float | None = None
    """Mean over the patches; None without a gate."""


def measure(
    name: str,
    truth: Labels,
    predicted: Labels,
    groups: npt.NDArray[np.generic],
    *,
    n_classes: int,
    n_ordinal: int,
    gate: npt.NDArray[np.float32] | None = None,
) -> Row:
    """Metrics of predicted classes with their intervals; see `score`. `gate` is (N,)."""
    certain = np.eye(n_classes)[predicted]  # as probabilities
    intervals = _intervals(Sample(truth, certain, groups, n_ordinal=n_ordinal))
    return Row(
        name=name,
        scores=score(truth, predicted, n_classes=n_classes, n_ordinal=n_ordinal),
        accuracy_interval=intervals["accuracy"],
        balanced_accuracy_interval=intervals["balanced_accuracy"],
        gate=None if gate is None else float(gate.mean()),
    )


def score(truth: Labels, predicted: Labels, *, n_classes: int, n_ordinal: int) -> Scores:
    """Metrics of predictions.

    Parameters
    ----------
    truth, predicted : int64 (N,)
    n_classes : int
    n_ordinal : int
        The first so many classes are ordered; kappa is taken over these alone.
    """
    confusion = _confusion(truth, predicted, n_classes)
    values = {name: float(value[0]) for name, value in confusion_measures(confusion[None], n_ordinal=n_ordinal).items()}
    kappa, kappa_quadratic = (None if np.isnan(k) else k for k in (values["kappa"], values["kappa_quadratic"]))
    return Scores(
        n=len(truth),
        accuracy=values["accuracy"],
        balanced_accuracy=values["balanced_accuracy"],
        macro_f1=values["macro_f1"],
        kappa=kappa,
        kappa_quadratic=kappa_quadratic,
        confusion=tuple(map(tuple, confusion.astype(np.int64).tolist())),
    )


def balanced_accuracy(truth: Labels, predicted: Labels) -> float:
    """Mean recall over the classes that occur in `truth`.

    >>> balanced_accuracy(np.array([0, 0, 1]), np.array([0, 2, 1]))
    0.75
    """
    n_classes = 1 + int(max(truth.max(), predicted.max()))
    return float(confusion_measures(_confusion(truth, predicted, n_classes)[None])["balanced_accuracy"][0])


def value_of(truth: Labels, probs: npt.NDArray[np.floating], measure: str, *, n_ordinal: int = 0) -> float:
    """One metric of `MEASURES`; NaN where it is not defined."""
    _check_measure(measure)
    sample = Sample(truth, probs, np.zeros(len(truth), dtype=np.int64), n_ordinal=n_ordinal)
    return float(sample.figures(np.ones((1, 1))).values[measure][0])


def paired_difference(
    truth: Labels,
    probs_a: npt.NDArray[np.floating],
    probs_b: npt.NDArray[np.floating],
    groups: npt.NDArray[np.generic],
    measure: str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    n_ordinal: int = 0,
) -> tuple[float, float, float]:
    """Paired difference a − b of a metric on the same patches, with its 95 % bootstrap interval.

    Both are measured on the same draws of patients, so the difficulty of a patient cancels.

    Parameters
    ----------
    truth : int64 (N,)
    probs_a, probs_b : float (N, C)
    groups : (N,)
        Patient of each patch.
    measure : str
        One of `wsikit.training.bootstrap.MEASURES`: "auc", "balanced_accuracy", …

    Returns
    -------
    difference, low, high : float
        NaN where the measure is not defined.
    """
    _check_measure(measure)
    one, two = (Sample(truth, probs, groups, n_ordinal=n_ordinal) for probs in (probs_a, probs_b))
    weights = np.concatenate([np.ones((1, one.n_groups)), draw_groups(one.n_groups, draws=draws, seed=seed)])
    difference = one.figures(weights).values[measure] - two.figures(weights).values[measure]
    low, high = quantiles(difference[1:]) or (np.nan, np.nan)
    return float(difference[0]), float(low), float(high)


def _check_measure(measure: str) -> None:
    if measure not in MEASURES:
        raise RequestError(f"measure {measure!r}: expected one of {', '.join(MEASURES)}.")


def _intervals(sample: Sample) -> dict[str, tuple[float, float]]:
    drawn = sample.figures(draw_groups(sample.n_groups, draws=DRAWS, seed=0))
    return {name: quantiles(values) or (np.nan, np.nan) for name, values in drawn.values.items()}


def _confusion(truth: Labels, predicted: Labels, n_classes: int) -> npt.NDArray[np.float64]:
    """(C, C) counts; rows are the truth."""
    counts = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes).astype(np.float64)
