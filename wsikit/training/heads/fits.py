"""What a fit of a head gives, and what all kinds use: standardisation, class weights, loss, patches drawn by class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.data import class_weights

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """The weights of a head (see `wsikit.models.head`), and how they were chosen."""

    arrays: dict[str, npt.NDArray[Any]]
    selection: dict[str, Any]
    """What was selected by what, for metrics.json."""
    neighbours: int | None = None
    notes: tuple[str, ...] = field(default=())
    """Sentences for the user."""


def standard(features: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each feature, (D,) each; 1 instead of 0 where a feature is constant."""
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    constant = scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)


def weights_of(labels: Labels, n_classes: int, kind: str) -> npt.NDArray[np.float64]:
    """Weight of each patch, (N,), mean 1; "balanced": each class that occurs has equal total weight."""
    if kind == "none":
        return np.ones(len(labels))
    return class_weights(labels, n_classes).astype(np.float64)[labels]


def log_loss(probs: npt.NDArray[np.floating], labels: Labels, weights: npt.NDArray[np.float64] | None = None) -> float:
    """Mean negative log-likelihood of `labels` (N,) under `probs` (N, C), weighted by `weights` (N,)."""
    losses = -np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-12))
    return float(np.average(losses, weights=weights))


def drawn(labels: Labels, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most about `most` rows, ascending, in the classes' shares, at least one of each class; all where there are
    not more."""
    if len(labels) <= most:
        return np.arange(len(labels))
    chosen = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        chosen.append(rng.choice(rows, max(1, round(most * len(rows) / len(labels))), replace=False))
    return np.sort(np.concatenate(chosen))
