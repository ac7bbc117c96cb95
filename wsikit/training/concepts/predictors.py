"""Linear predictors of the options of each axis from features: the concepts of `scores: learned`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.models.concept_criteria import Criteria
from wsikit.models.concept_scores import softmax_by_axis
from wsikit.training.heads.config import LinearSettings
from wsikit.training.heads.fits import Labels
from wsikit.training.heads.linear import fit_linear

Floats = npt.NDArray[np.float64]

NEVER = -20.0
"""Logit, less than all others, of an option that no training patch has."""


def fit_predictors(
    features: npt.NDArray[np.float32],
    concepts: Labels,
    groups: npt.NDArray[np.str_],
    criteria: Criteria,
    *,
    folds: int = 5,
    seed: int = 0,
) -> tuple[dict[str, Any], Floats, dict[str, Any]]:
    """Fit on features (N, D), options (N, K; below 0: unknown) and patients (N,).

    Returns
    -------
    The arrays of the model (`wsikit.models.concept_head`, on the original features); scores (N, S) of the training
    patches, each by predictors that have not seen its patient; and the penalties that were chosen.
    """
    d, s = features.shape[1], criteria.n_options
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z = ((features - mean) / scale).astype(np.float32)
    weight, bias = np.zeros((d, s)), np.zeros(s)
    unseen = np.zeros((len(z), s))
    chosen: dict[str, Any] = {}
    fold_of = _folds(groups, folds, seed)
    for axis, (key, columns) in enumerate(zip(criteria.axes, criteria.columns, strict=True)):
        known = np.flatnonzero(concepts[:, axis] >= 0)
        labels, n = concepts[known, axis], columns.stop - columns.start
        weight[:, columns], bias[columns], l2 = _fit(z[known], labels, groups[known], n, None, seed)
        chosen[key] = l2
        for fold in range(folds):
            train, held = known[fold_of[known] != fold], fold_of == fold
            if not held.any():
                continue
            w, b, _ = _fit(z[train], concepts[train, axis], groups[train], n, l2, seed)
            unseen[held, columns] = z[held] @ w + b
    arrays = {"mean": mean, "scale": scale, "concept_weight": weight, "concept_bias": bias}
    return arrays, softmax_by_axis(unseen, criteria.columns), {"l2": chosen}


def _fit(
    z: npt.NDArray[np.float32], labels: Labels, groups: npt.NDArray[np.str_], n: int, l2: float | None, seed: int
) -> tuple[Floats, Floats, float | None]:
    """Weights (D, O), biases (O,) and penalty, chosen if it is None; options that no patch has are never predicted."""
    weight, bias = np.zeros((z.shape[1], n)), np.full(n, NEVER)
    present = np.unique(labels)
    if len(present) < 2:
        bias[present] = 0.0
        return weight, bias, l2
    places = np.searchsorted(present, labels)
    fitted = fit_linear(z, places, groups, n_classes=len(present), settings=LinearSettings(l2=l2), seed=seed)
    mean, scale, w, b = (fitted.arrays[name].astype(np.float64) for name in ("mean", "scale", "weight", "bias"))
    weight[:, present] = w / scale[:, None]
    bias[present] = b - (mean / scale) @ w
    return weight, bias, float(fitted.selection["l2"])


def _folds(groups: npt.NDArray[np.str_], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Fold of each patch (N,), by patient."""
    names, of_patch = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    found: npt.NDArray[np.int64] = (order % folds)[of_patch]
    return found
