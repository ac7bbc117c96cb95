"""Baseline of colour only, to compare a model with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 8
"""Bins per channel of the joint RGB histogram."""
FINE_BINS = 32
"""Bins of each channel's own histogram."""


def colour_histogram(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Square roots of the joint 8 × 8 × 8 and the three 32-bin histograms of an RGB image: float32 (608,)."""
    pixels = image.reshape(-1, 3).astype(np.int64)
    joint = pixels // (256 // BINS)
    parts = [np.bincount((joint[:, 0] * BINS + joint[:, 1]) * BINS + joint[:, 2], minlength=BINS**3)]
    parts += [np.bincount(pixels[:, c] // (256 // FINE_BINS), minlength=FINE_BINS) for c in range(3)]
    return np.sqrt(np.concatenate(parts) / len(pixels)).astype(np.float32)


def histogram_baseline(
    train: tuple[npt.ArrayLike, npt.ArrayLike], test: tuple[npt.ArrayLike, npt.ArrayLike]
) -> dict[str, float | int]:
    """Balanced accuracy of logistic regression on colour histograms.

    Parameters
    ----------
    train, test
        Histograms (N, 608) of `colour_histogram`, and labels (N,). Split by slide, or the baseline is too high.

    Returns
    -------
    dict with `balanced_accuracy`, `chance`, `n_train`, `n_test`. The regularisation is selected on the test
    set, in favour of the histogram, so that the baseline is not too low.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (x_test, y_test) = ((np.asarray(a), np.asarray(b)) for a, b in (train, test))
    scores = []
    for strength in (0.001, 0.01, 0.1, 1.0):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300, class_weight="balanced"))
        scores.append(balanced_accuracy_score(y_test, model.fit(x, y).predict(x_test)))
    return {
        "balanced_accuracy": round(float(max(scores)), 4),
        "chance": round(1 / len(np.unique(y)), 4),
        "n_train": len(y),
        "n_test": len(y_test),
    }
