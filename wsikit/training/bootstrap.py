"""Bootstrap over patients, vectorised: all metrics for thousands of draws at once.

A draw of patients with replacement gives each patient a weight. All metrics here are functions of sums over patients,
or of the patches sorted by a probability, so 1,000 draws cost little more than one. Axes: D draws (weightings), G
groups, N patches, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS = 15
"""Number of confidence bins of the calibration error."""

DRAWS_AT_ONCE = 128
"""Draws processed at once: 128 × 100,000 patches are 100 MB."""

MEASURES = (
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auc",
    "kappa",
    "kappa_quadratic",
    "ece",
    "brier",
    "nll",
)
"""auc is the mean one-vs-rest AUC over the classes; with two classes this is the usual AUC."""


@dataclass(frozen=True)
class Figures:
    """Each metric for each draw; NaN where it is not defined (a class was not drawn)."""

    values: dict[str, Floats]
    """By name of `MEASURES`, (D,)."""
    auc_of_class: Floats
    """(D, C)"""


class Sample:
    """Predictions of N patches in G groups, summed per group so that metrics are fast to compute.

    Parameters
    ----------
    truth : int64 (N,)
    probs : float (N, C)
        Rows sum to 1.
    groups : (N,)
        Patient (or slide) of each patch.
    n_ordinal : int
        The first so many classes are ordered; kappa is over these alone. 0: no order and no kappa.
    """

    def __init__(
        self,
        truth: npt.NDArray[np.int64],
        probs: npt.NDArray[np.floating],
        groups: npt.NDArray[np.generic],
        *,
        n_ordinal: int,
    ) -> None:
        self._truth = truth
        self._probs = np.asarray(probs, dtype=np.float64)
        self._n_ordinal = n_ordinal
        names, self._group = np.unique(groups, return_inverse=True)
        self.n_groups = len(names)
        self.n_classes = c = self._probs.shape[1]
        predicted, rows = self._probs.argmax(axis=1), np.arange(len(truth))
        confidence, right = self._probs[rows, predicted], predicted == truth
        self._confusion = self._sum(truth * c + predicted, c * c).reshape(-1, c, c)  # (G, C, C)
        bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
        self._gap = self._sum(bins, BINS, confidence - right)  # (G, BINS)
        one_hot = np.eye(c)[truth]
        zero = np.zeros(len(truth), dtype=np.int64)
        self._brier = self._sum(zero, 1, ((self._probs - one_hot) ** 2).sum(axis=1))[:, 0]
        self._nll = self._sum(zero, 1, -np.log(np.maximum(self._probs[rows, truth], 1e-12)))[:, 0]

    def _sum(self, key: npt.NDArray[np.int64], n_keys: int, weights: Floats | None = None) -> Floats:
        """(G, n_keys): sums over the patches of each group by key."""
        cells = np.bincount(self._group * n_keys + key, weights=weights, minlength=self.n_groups * n_keys)
        return cells.reshape(self.n_groups, n_keys).astype(np.float64)

    def figures(self, weights: Floats) -> Figures:
        """All metrics under `weights`, (D, G), not negative."""
        parts = [
            self._some_figures(weights[first : first + DRAWS_AT_ONCE])
            for first in range(0, len(weights), DRAWS_AT_ONCE)
        ]
        values = {name: np.concatenate([part.values[name] for part in parts]) for name in MEASURES}
        return Figures(values, np.concatenate([part.auc_of_class for part in parts]))

    def _some_figures(self, weights: Floats) -> Figures:
        with np.errstate(divide="ignore", invalid="ignore"):
            confusion = np.tensordot(weights, self._confusion, axes=1)  # (D, C, C)
            n = confusion.sum(axis=(1, 2))
            of_class = self._aucs(weights)
            values = {
                **confusion_measures(confusion, n_ordinal=self._n_ordinal),
                "auc": of_class.mean(axis=1),
                "ece": np.abs(weights @ self._gap).sum(axis=1) / n,
                "brier": weights @ self._brier / n,
                "nll": weights @ self._nll / n,
            }
        return Figures(values, of_class)

    def _aucs(self, weights: Floats) -> Floats:
        """Area under the ROC curve of each class against the rest, (D, C); NaN where either side is empty.

        The fraction of pairs in which the patch of the class has the higher probability; ties count one half. One pass
        over the sorted probabilities.
        """
        found = np.empty((len(weights), self.n_classes))
        for index in range(self.n_classes):
            order = np.argsort(self._probs[:, index], kind="stable")
            scores = self._probs[order, index]
            starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
            of_patch = weights[:, self._group[order]]  # (D, N)
            ours = self._truth[order] == index
            above = np.add.reduceat(of_patch * ours, starts, axis=1)  # (D, distinct scores)
            below = np.add.reduceat(of_patch * ~ours, starts, axis=1)
            passed = np.cumsum(below, axis=1) - below
            pairs = above.sum(axis=1) * below.sum(axis=1)
            found[:, index] = (above * (passed + below / 2)).sum(axis=1) / pairs
        return found


def confusion_measures(confusion: Floats, *, n_ordinal: int = 0) -> dict[str, Floats]:
    """Accuracy, balanced accuracy, macro-F1 and kappa of D confusion matrices.

    Parameters
    ----------
    confusion : float (D, C, C)
        Counts or summed weights; rows are the truth, columns the prediction.
    n_ordinal : int
        The first so many classes are ordered; kappa is over these alone. 0: no order and no kappa.

    Returns
    -------
    dict of float (D,)
        `accuracy`; `balanced_accuracy` and `macro_f1`, means over the classes that occur in the truth; `kappa`, and
        `kappa_quadratic`, weighted by the squared distance on the order. NaN where not defined.

    >>> confusion_measures(np.array([[[3.0, 1.0], [0.0, 2.0]]]))["balanced_accuracy"]
    array([0.875])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        hits, truths, called = np.einsum("dcc->dc", confusion), confusion.sum(axis=2), confusion.sum(axis=1)
        occurs = truths > 0
        ordered, order = confusion[:, :n_ordinal, :n_ordinal], np.arange(n_ordinal)
        return {
            "accuracy": hits.sum(axis=1) / confusion.sum(axis=(1, 2)),
            "balanced_accuracy": _mean_over(hits / truths, occurs),
            "macro_f1": _mean_over(2 * hits / (truths + called), occurs),
            "kappa": _kappa(ordered, 1.0 - np.eye(n_ordinal)),
            "kappa_quadratic": _kappa(ordered, np.subtract.outer(order, order) ** 2.0),
        }


def draw_groups(n_groups: int, *, draws: int, seed: int) -> Floats:
    """How often each group is drawn, (draws, G): each draw takes G groups with replacement.

    >>> draw_groups(3, draws=2, seed=0).sum(axis=1)
    array([3., 3.])
    """
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws).astype(np.float64)


def quantiles(values: Floats, *, level: float = 0.95) -> tuple[float, float] | None:
    """Ends of the central interval of coverage `level` over the finite values; None if there are none.

    >>> quantiles(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _mean_over(values: Floats, chosen: npt.NDArray[np.bool_]) -> Floats:
    """Mean of each row over its chosen entries. (D, C) to (D,)."""
    mean: Floats = np.where(chosen, values, 0.0).sum(axis=1) / chosen.sum(axis=1)
    return mean


def _kappa(confusion: Floats, penalty: Floats) -> Floats:
    """Cohen's, of (D, K, K) counts with the cost (K, K) of each confusion; NaN if chance agreement is perfect."""
    if confusion.shape[1] < 2:
        return np.full(len(confusion), np.nan)
    truths, called = confusion.sum(axis=2), confusion.sum(axis=1)
    by_chance = np.einsum("di,dj->dij", truths, called) / confusion.sum(axis=(1, 2))[:, None, None]
    agreement: Floats = 1 - (confusion * penalty).sum(axis=(1, 2)) / (by_chance * penalty).sum(axis=(1, 2))
    return agreement
