"""How good predictions are: accuracy, balanced accuracy, macro-F1, kappa on the ordinal order, intervals by group.

Labels are indices into the classes; those that have an order stand first, in it (UD < PD < D).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Figures of one set of predictions."""

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
    """One way of predicting, measured on one set of patches."""

    name: str
    scores: Scores
    accuracy_interval: tuple[float, float]
    """95 %, drawn by group."""
    balanced_accuracy_interval: tuple[float, float]
    gate: float | None = None
    """Mean over the patches; None where there is no gate."""


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
    """Figures of predictions with their intervals; see `score` and `interval_by_group`. `gate` is (N,)."""
    return Row(
        name=name,
        scores=score(truth, predicted, n_classes=n_classes, n_ordinal=n_ordinal),
        accuracy_interval=interval_by_group(truth, predicted, groups, accuracy),
        balanced_accuracy_interval=interval_by_group(truth, predicted, groups, balanced_accuracy),
        gate=None if gate is None else float(gate.mean()),
    )


def score(truth: Labels, predicted: Labels, *, n_classes: int, n_ordinal: int) -> Scores:
    """Figures of predictions.

    Parameters
    ----------
    truth, predicted : int64 (N,)
    n_classes : int
    n_ordinal : int
        The first so many classes are ordered; kappa is taken over them alone.
    """
    present = np.unique(truth)
    kappas = _kappas(truth, predicted, n_ordinal)
    return Scores(
        n=len(truth),
        accuracy=accuracy(truth, predicted),
        balanced_accuracy=balanced_accuracy(truth, predicted),
        macro_f1=float(f1_score(truth, predicted, labels=present, average="macro", zero_division=0)),
        kappa=kappas[0],
        kappa_quadratic=kappas[1],
        confusion=tuple(map(tuple, confusion_matrix(truth, predicted, labels=np.arange(n_classes)).tolist())),
    )


def accuracy(truth: Labels, predicted: Labels) -> float:
    """Share of items predicted right."""
    return float(np.mean(truth == predicted))


def balanced_accuracy(truth: Labels, predicted: Labels) -> float:
    """Mean recall over the classes that occur in `truth`. Counted here, as the bootstrap asks thousands of times."""
    n = np.bincount(truth)
    right = np.bincount(truth[truth == predicted], minlength=len(n))
    return float(np.mean(right[n > 0] / n[n > 0]))


def interval_by_group(
    truth: Labels,
    predicted: Labels,
    groups: npt.NDArray[np.generic],
    measure: Callable[[Labels, Labels], float],
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Bootstrap interval of `measure`, drawing whole groups (slides, patients) with replacement.

    Patches of a slide are alike; drawing them singly would make the interval too narrow.
    """
    rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for i in range(draws):
        drawn = np.concatenate([rows[j] for j in rng.integers(len(rows), size=len(rows))])
        values[i] = measure(truth[drawn], predicted[drawn])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _kappas(truth: Labels, predicted: Labels, n_ordinal: int) -> tuple[float | None, float | None]:
    rows = (truth < n_ordinal) & (predicted < n_ordinal)
    a, b = truth[rows], predicted[rows]
    if len(np.union1d(a, b)) < 2:
        return None, None
    order = np.arange(n_ordinal)
    return (
        float(cohen_kappa_score(a, b, labels=order)),
        float(cohen_kappa_score(a, b, labels=order, weights="quadratic")),
    )
