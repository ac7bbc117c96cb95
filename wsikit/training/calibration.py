"""Calibration of probabilities by temperature scaling, fitted on the validation set only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.training.bootstrap import BINS
from wsikit.voting.temperature import at_temperature

__all__ = ["RANGE", "at_temperature", "fit_temperature", "reliability"]

RANGE = (0.05, 20.0)
"""Range of temperatures searched."""


def fit_temperature(truth: npt.NDArray[np.int64], probs: npt.NDArray[np.floating]) -> float:
    """Temperature that minimises the NLL of `probs`, float (N, C), for `truth`, int64 (N,); Guo et al. 2017.

    Above 1, the model was overconfident. Fit it on the validation set, never on the test set.
    """
    from scipy.optimize import minimize_scalar

    log_probs = np.log(np.maximum(probs, 1e-12))
    rows = np.arange(len(truth))

    def nll(log_temperature: float) -> float:
        scaled = log_probs / np.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(scaled).sum(axis=1)) - scaled[rows, truth]))

    found = minimize_scalar(nll, bounds=tuple(np.log(RANGE)), method="bounded")
    return float(np.exp(found.x))


def reliability(
    truth: npt.NDArray[np.int64], probs: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Mean confidence, accuracy and number of patches per confidence bin, (BINS,) each; NaN in empty bins."""
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == truth
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bins, weights=confidence, minlength=BINS) / counts
        share = np.bincount(bins, weights=right, minlength=BINS) / counts
    return mean, share, counts
