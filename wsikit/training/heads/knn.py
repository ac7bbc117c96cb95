"""The k nearest training patches; k is chosen on the validation part."""

from __future__ import annotations

import numpy as np

from wsikit.models.head import AT_ONCE, nearest, smoothed, unit_length, votes_of
from wsikit.training.heads.config import KnnSettings
from wsikit.training.heads.fits import Fitted, Floats, Labels, drawn, log_loss


def fit_knn(
    features: Floats,
    labels: Labels,
    validation: tuple[Floats, Labels],
    *,
    n_classes: int,
    settings: KnnSettings,
    seed: int = 0,
) -> Fitted:
    """Keep training features (N, D) and labels (N,); choose k by `validation`, those of other patients."""
    rows = drawn(labels, settings.most, np.random.default_rng(seed))
    known = unit_length(features[rows]) if settings.metric == "cosine" else features[rows]
    kept = labels[rows]
    prior = (np.bincount(labels, minlength=n_classes) / len(labels)).astype(np.float32)
    possible = [k for k in settings.k if k <= len(rows)] or [len(rows)]
    held, truth = validation
    parts = [
        nearest(held[first : first + AT_ONCE], known, possible[-1], settings.metric)
        for first in range(0, len(held), AT_ONCE)
    ]
    near = kept[np.concatenate(parts)]  # (M, k), nearest first
    curve = [(k, log_loss(smoothed(votes_of(near[:, :k], n_classes), prior), truth)) for k in possible]
    best = min(curve, key=lambda entry: entry[1])[0]
    notes = []
    if len(rows) < len(labels):
        notes.append(f"the model keeps {len(rows)} of {len(labels)} training patches (most: {settings.most}).")
    if len(curve) > 1 and best == possible[-1]:
        notes.append(f"k = {best} is the largest that was tried; larger ones may be better.")
    selection = {
        "k": best,
        "chosen_by": "loss on the validation part",
        "patches": len(rows),
        "curve": [{"k": k, "loss": round(loss, 5)} for k, loss in curve],
    }
    arrays = {"features": np.ascontiguousarray(known), "labels": kept.astype(np.int32), "prior": prior}
    return Fitted(arrays, selection, best, tuple(notes))
