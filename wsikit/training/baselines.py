"""Baselines that any model must beat: logistic regression on a colour histogram and on a bag of words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from wsikit.scrub import scrub

BINS = 16


def colour_histogram(images: npt.NDArray[np.uint8], *, bins: int = BINS) -> npt.NDArray[np.float32]:
    """Fraction of pixels per bin and channel.

    `images` is uint8 (N, H, W, 3); the result float32 (N, 3·bins), red first, each channel's bins summing to 1.
    """
    n, height, width, _ = images.shape
    features = np.empty((n, 3, bins), dtype=np.float32)
    for row in range(n):
        binned = images[row].astype(np.uint16) * bins // 256  # (H, W, 3), 0 … bins−1
        for channel in range(3):
            counts = np.bincount(binned[..., channel].ravel(), minlength=bins)
            features[row, channel] = counts / (height * width)
    return features.reshape(n, 3 * bins)


def fit_histogram_baseline(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Pipeline:
    """Logistic regression on standardised colour histograms, with balanced class weights.

    Its `predict` takes what `colour_histogram` gives.
    """
    return fit_on_histograms(colour_histogram(images), labels)


def fit_on_histograms(histograms: npt.NDArray[np.number], labels: npt.NDArray[np.int64]) -> Pipeline:
    """As `fit_histogram_baseline`, from histograms, or other numbers per patch (N, D), that are computed already."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced"))
    return model.fit(histograms, labels)


def fit_text_baseline(captions: Sequence[str], labels: npt.NDArray[np.int64], *, scrubbed: bool) -> Pipeline:
    """Logistic regression on words and pairs of words of captions, with balanced class weights.

    Its `predict` takes captions. With `scrubbed` it reads them as MMLNB does: without words that name a class.
    """
    words = TfidfVectorizer(
        preprocessor=_as_read if scrubbed else str.lower, token_pattern=r"\w+", ngram_range=(1, 2), min_df=1
    )
    model = make_pipeline(words, LogisticRegression(C=1.0, max_iter=2000, class_weight="balanced"))
    return model.fit(list(captions), labels)


def spread(fitted: Any, inputs: Any, n_classes: int) -> npt.NDArray[np.float64]:
    """Probabilities (N, C) of a fitted classifier, with zeros for classes that did not occur in training."""
    probs = np.zeros((len(inputs), n_classes))
    probs[:, fitted.classes_] = fitted.predict_proba(inputs)
    return probs


def floors_of(
    labels: npt.NDArray[np.int64],
    colours: tuple[npt.NDArray[np.floating] | None, npt.NDArray[np.floating] | None],
    n_test: int,
    n_classes: int,
) -> dict[str, npt.NDArray[np.floating]]:
    """Probabilities (N, C) of the floors for test patches, by name: the classes' shares in training, the colours alone.

    Parameters
    ----------
    labels
        Of the training patches.
    colours
        Colour histograms of the training and of the test patches; without them there is no floor by colours.
    """
    shares = np.bincount(labels, minlength=n_classes) / len(labels)
    found: dict[str, npt.NDArray[np.floating]] = {"floor: majority class": np.tile(shares, (n_test, 1))}
    seen, asked = colours
    if seen is not None and asked is not None:
        found["floor: colour histogram"] = spread(fit_on_histograms(seen, labels), asked, n_classes)
    return found


def _as_read(caption: str) -> str:
    return scrub(caption).lower()
