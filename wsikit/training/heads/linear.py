"""Multinomial logistic regression on standardised features; its penalty is chosen by cross-validation over patients."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.heads.config import LinearSettings
from wsikit.training.heads.fits import Fitted, Floats, Labels, drawn, log_loss, standard, weights_of

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(2, -13, -1))
"""Weights of the penalty to choose from, strongest first."""

_WORSE = 3
"""Penalties after the best one that are tried before the search ends: weaker ones take longest and overfit."""
_ITERATIONS = 1000


def fit_linear(
    features: Floats,
    labels: Labels,
    groups: npt.NDArray[np.str_],
    *,
    n_classes: int,
    settings: LinearSettings,
    seed: int = 0,
) -> Fitted:
    """Fit on training features (N, D), labels (N,) 0 … C−1, each of which occurs, and patients (N,)."""
    mean, scale = standard(features)
    z = (features - mean) / scale
    notes: list[str] = []
    if settings.l2 is None:
        l2, selection = _choose(z, labels, groups, n_classes, settings, seed)
        if l2 in (PENALTIES[0], PENALTIES[-1]):
            notes.append(f"l2 {l2:g} is an end of the range that was tried ({PENALTIES[-1]:g} to {PENALTIES[0]:g}).")
    else:
        l2, selection = settings.l2, {"l2": settings.l2, "chosen_by": "the configuration"}
    model = _regression(l2, len(z))
    if not _fit(model, z, labels, weights_of(labels, n_classes, settings.class_weights)):
        notes.append(f"logistic regression did not converge in {_ITERATIONS} iterations.")
    weight, bias = matrix(model, n_classes)
    return Fitted({"mean": mean, "scale": scale, "weight": weight, "bias": bias}, selection, notes=tuple(notes))


def matrix(model: Any, n_classes: int) -> tuple[Floats, Floats]:
    """Weights (D, C) and biases (C,) of a fitted regression whose classes are 0 … C−1."""
    weight, bias = model.coef_.T, model.intercept_
    if n_classes == 2:  # one logit, of the second class
        weight, bias = np.hstack([np.zeros_like(weight), weight]), np.concatenate([[0.0], bias])
    return np.ascontiguousarray(weight, dtype=np.float32), bias.astype(np.float32)


def _choose(
    z: Floats, labels: Labels, groups: npt.NDArray[np.str_], n_classes: int, settings: LinearSettings, seed: int
) -> tuple[float, dict[str, Any]]:
    """The penalty with the lowest loss on held-out patients, and the record of the choice."""
    from sklearn.model_selection import StratifiedGroupKFold

    rows = drawn(labels, settings.most, np.random.default_rng(seed))
    z, labels, groups = z[rows], labels[rows], groups[rows]
    folds = min(settings.folds, len(np.unique(groups)), int(np.bincount(labels).min()))
    if folds < 2:
        return 1e-2, {"l2": 1e-2, "chosen_by": "default: too few patients or patches of a class for cross-validation"}
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = [
        (train, held)
        for train, held in splitter.split(z, labels, groups)
        if len(np.unique(labels[train])) == n_classes and len(held)
    ]
    if not parts:
        return 1e-2, {"l2": 1e-2, "chosen_by": "default: each class is of one patient, so no cross-validation"}
    models: list[Any] = [_regression(1.0, len(train)) for train, _ in parts]
    curve: list[tuple[float, float]] = []
    for l2 in PENALTIES:
        losses, sizes = [], []
        for model, (train, held) in zip(models, parts, strict=True):
            model.set_params(C=1 / (l2 * len(train)))
            _fit(model, z[train], labels[train], weights_of(labels[train], n_classes, settings.class_weights))
            weights = weights_of(labels[held], n_classes, settings.class_weights)
            losses.append(log_loss(model.predict_proba(z[held]), labels[held], weights))
            sizes.append(len(held))
        curve.append((l2, float(np.average(losses, weights=sizes))))
        best = min(range(len(curve)), key=lambda index: curve[index][1])
        if len(curve) - 1 - best >= _WORSE:
            break
    return curve[best][0], {
        "l2": curve[best][0],
        "chosen_by": f"loss in {len(parts)}-fold cross-validation over patients of the training part",
        "patches": len(rows),
        "curve": [{"l2": l2, "loss": round(loss, 5)} for l2, loss in curve],
    }


def _regression(l2: float, n: int) -> Any:
    """Starts from its last weights when it is fitted again."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1 / (l2 * n), max_iter=_ITERATIONS, warm_start=True)


def _fit(model: Any, z: Floats, labels: Labels, weights: npt.NDArray[np.float64]) -> bool:
    """Fit; whether it converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(z, labels, sample_weight=weights)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
