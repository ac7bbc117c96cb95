"""The linear layer of a concept head, sparse by an L1 penalty: scikit-learn's multinomial logistic regression (SAGA).

Objective: mean loss + l1 · |weights|₁; in scikit-learn's terms C = 1 / (l1 · N).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.concepts.config import LinearLayer
from wsikit.training.heads.fits import Labels, log_loss, weights_of

Floats = npt.NDArray[np.float64]

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-1, -9, -1))
"""Penalties to choose from, strongest first."""

_ITERATIONS, _TOLERANCE = 30_000, 1e-6
_ROUGHLY = 1e-4
"""Tolerance of the fits of the cross-validation."""


@dataclass(frozen=True)
class LinearFit:
    """The layer."""

    weight: Floats
    """(S, C)"""
    bias: Floats
    """(C,)"""
    selection: dict[str, Any]
    notes: tuple[str, ...] = ()


def fit_layer(
    scores: Floats,
    truth: Floats,
    labels: Labels,
    groups: npt.NDArray[np.str_],
    *,
    n_classes: int,
    settings: LinearLayer,
    seed: int = 0,
) -> LinearFit:
    """Fit on predicted scores (N, S) and on those of the true concepts (N, S), as `settings.fit_on` states.

    Parameters
    ----------
    labels, groups
        Class and patient of each patch, (N,).
    """
    if settings.l1 is None:
        l1, selection = _choose(scores, truth, labels, groups, n_classes, settings, seed)
    else:
        l1, selection = settings.l1, {"l1": settings.l1, "chosen_by": "the configuration"}
    x, y = _rows(scores, truth, labels, settings)
    weight, bias, converged = l1_regression(x, y, n_classes, l1, settings.class_weights, seed=seed)
    used = int(np.count_nonzero(np.abs(weight).sum(axis=1) > 0))
    selection |= {"options_used": used, "options": scores.shape[1], "weights": int(np.count_nonzero(weight))}
    notes = () if converged else (f"the linear layer did not converge in {_ITERATIONS} iterations.",)
    return LinearFit(weight, bias, selection, notes)


def l1_regression(
    x: Floats, labels: Labels, n_classes: int, l1: float, class_weights: str = "none", *,
    tolerance: float = _TOLERANCE, seed: int = 0,
) -> tuple[Floats, Floats, bool]:  # fmt: skip
    """Weights (S, C), biases (C,), and whether the fit converged, from scores (N, S) and classes (N,)."""
    from sklearn.exceptions import ConvergenceWarning

    model = _regression(l1, len(x), tolerance, seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, labels, sample_weight=weights_of(labels, n_classes, class_weights))
    weight, bias = model.coef_.T, model.intercept_
    if n_classes == 2:  # one logit, of the second class
        weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    return weight, bias, not any(issubclass(one.category, ConvergenceWarning) for one in caught)


def _regression(l1: float, n: int, tolerance: float, seed: int) -> Any:
    import sklearn
    from sklearn.linear_model import LogisticRegression

    # from 1.8 on, l1_ratio alone says which penalty it is
    new = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)
    kind: dict[str, Any] = {"l1_ratio": 1.0} if new else {"penalty": "l1"}
    return LogisticRegression(
        C=1 / (l1 * n), solver="saga", max_iter=_ITERATIONS, tol=tolerance, random_state=seed, **kind
    )


def _rows(scores: Floats, truth: Floats, labels: Labels, settings: LinearLayer) -> tuple[Floats, Labels]:
    """What the layer is fitted on."""
    if settings.fit_on == "scores":
        return scores, labels
    if settings.fit_on == "truth":
        return truth, labels
    return np.concatenate([scores, truth]), np.concatenate([labels, labels])


def _choose(
    scores: Floats,
    truth: Floats,
    labels: Labels,
    groups: npt.NDArray[np.str_],
    n_classes: int,
    settings: LinearLayer,
    seed: int,
) -> tuple[float, dict[str, Any]]:
    """The penalty with the lowest loss on held-out patients."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds = min(settings.folds, len(np.unique(groups)), int(np.bincount(labels).min()))
    parts = []
    if folds >= 2:
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
        parts = [
            (train, held)
            for train, held in splitter.split(scores, labels, groups)
            if len(np.unique(labels[train])) == n_classes and len(held)
        ]
    if len(parts) < 2:
        return 1e-2, {"l1": 1e-2, "chosen_by": "default: too few patients of a class for cross-validation"}
    curve = []
    seen = settings if settings.fit_on == "scores" else settings.model_copy(update={"fit_on": "both"})
    for l1 in PENALTIES:
        losses = []
        for train, held in parts:
            x, y = _rows(scores[train], truth[train], labels[train], settings)
            weight, bias, _ = l1_regression(x, y, n_classes, l1, settings.class_weights, tolerance=_ROUGHLY, seed=seed)
            # a layer that is fitted on the truth is used on scores as well
            asked, wanted = _rows(scores[held], truth[held], labels[held], seen)
            losses.append(log_loss(_softmax(asked @ weight + bias), wanted))
        curve.append((l1, float(np.mean(losses)), float(np.std(losses, ddof=1) / len(losses) ** 0.5)))
    best = min(curve, key=lambda entry: entry[1])
    return best[0], {
        "l1": best[0],
        "chosen_by": f"loss in {len(parts)}-fold cross-validation over patients of the training part",
        "curve": [{"l1": l1, "loss": round(loss, 5), "standard_error": round(se, 5)} for l1, loss, se in curve],
    }


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Floats = powers / powers.sum(axis=1, keepdims=True)
    return found
