"""The floor that any image model must clear: a colour histogram and a logistic regression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

BINS = 16


def colour_histogram(images: npt.NDArray[np.uint8], *, bins: int = BINS) -> npt.NDArray[np.float32]:
    """Share of pixels per bin and channel.

    `images` is uint8 (N, H, W, 3); the result float32 (N, 3·bins), red first, each channel's bins summing to 1.
    """
    binned = images.astype(np.uint16) * bins // 256  # (N, H, W, 3), 0 … bins−1
    n, height, width, _ = images.shape
    features = np.empty((n, 3, bins), dtype=np.float32)
    for row in range(n):
        for channel in range(3):
            counts = np.bincount(binned[row, ..., channel].ravel(), minlength=bins)
            features[row, channel] = counts / (height * width)
    return features.reshape(n, 3 * bins)


def fit_histogram_floor(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Pipeline:
    """Logistic regression on standardised colour histograms, classes weighted to count alike.

    Its `predict` takes what `colour_histogram` gives.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced"))
    return model.fit(colour_histogram(images), labels)
