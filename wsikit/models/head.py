"""Heads: classifiers on features of an encoder, in NumPy. Prediction imports neither torch nor scikit-learn.

Weights are float32 arrays by name. D is the width of the features, C the number of classes.

| kind | arrays |
|---|---|
| linear | mean, scale (D,); weight (D, C), bias (C,) |
| mlp | mean, scale (D,); weight1 (D, H), bias1 (H,), weight2 (H, C), bias2 (C,) |
| knn | features (M, D), of unit length for cosine; labels (M,); prior (C,) |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.models.head_config import HeadConfig, info_of_head
from wsikit.models.ood import OodDetector
from wsikit.models.protocol import OOD_SCORE, PROBABILITY, ModelInfo

Floats = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]

AT_ONCE = 1024
"""Rows classified at a time: their distances to 20,000 training patches are 80 MB."""

_NAMES = {
    "linear": ("mean", "scale", "weight", "bias"),
    "mlp": ("mean", "scale", "weight1", "bias1", "weight2", "bias2"),
    "knn": ("features", "labels", "prior"),
}


class HeadModel:
    """A classifier of stored features: a `wsikit.models.protocol.PatchModel`.

    Parameters
    ----------
    config
    arrays
        The weights; see the module.
    ood
        Detector of out-of-distribution patches by their features, if there is one.
    fingerprint
        sha256 of the model's files; empty for a model that was never saved.

    Raises
    ------
    ModelError
        If the arrays are not those of this kind of head, or of other sizes.
    """

    def __init__(
        self, config: HeadConfig, arrays: Arrays, *, ood: OodDetector | None = None, fingerprint: str = ""
    ) -> None:
        self.config, self.ood = config, ood
        self.arrays = {name: np.asarray(values) for name, values in arrays.items()}
        _check(config, self.arrays)
        self._info = info_of_head(config, fingerprint, has_ood=ood is not None)

    @property
    def info(self) -> ModelInfo:
        """Description of the model."""
        return self._info

    def predict(self, features: npt.NDArray[np.floating]) -> dict[str, Floats]:
        """Classify patches by their features, float (B, D).

        Returns
        -------
        dict of float32 arrays
            `probability` (B, C), calibrated; with an OOD detector, `ood_score` (B,). Rows of features that are not
            finite (patches that could not be read) are NaN.

        Raises
        ------
        ModelError
            If the features are of another width.
        """
        x = self._checked(features)
        probs = np.full((len(x), len(self.config.classes)), np.nan, np.float32)
        score = np.full(len(x), np.nan, np.float32)
        finite = np.flatnonzero(np.isfinite(x).all(axis=1))
        for first in range(0, len(finite), AT_ONCE):
            rows = finite[first : first + AT_ONCE]
            probs[rows] = softmax(self._logits(x[rows]) / self.config.temperature)
            if self.ood is not None:
                score[rows] = self.ood.of(x[rows])
        return {PROBABILITY: probs} if self.ood is None else {PROBABILITY: probs, OOD_SCORE: score}

    def logits(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Logits (B, C) before calibration, of finite features (B, D)."""
        x = self._checked(features)
        parts = [self._logits(x[first : first + AT_ONCE]) for first in range(0, len(x), AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.config.classes)))

    def _checked(self, features: npt.NDArray[np.floating]) -> Floats:
        x = np.asarray(features, dtype=np.float32)
        width = self.config.encoder.width
        if x.ndim != 2 or x.shape[1] != width:
            raise ModelError(
                f"model {self.config.name}: takes features of {self.config.encoder.name}, (B, {width}), got {x.shape}."
            )
        return x

    def _logits(self, x: Floats) -> npt.NDArray[np.float64]:
        a = self.arrays
        if self.config.kind == "knn":
            assert self.config.neighbours is not None
            votes = neighbour_votes(x, a, k=self.config.neighbours, metric=self.config.metric or "cosine")
            return np.log(smoothed(votes, a["prior"]))
        z = (x - a["mean"]) / a["scale"]
        if self.config.kind == "mlp":
            z = np.maximum(z @ a["weight1"] + a["bias1"], 0)
            return np.asarray(z @ a["weight2"] + a["bias2"], dtype=np.float64)
        return np.asarray(z @ a["weight"] + a["bias"], dtype=np.float64)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Softmax over the rows of logits (N, C).

    >>> softmax(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def unit_length(x: npt.NDArray[np.floating]) -> Floats:
    """Rows divided by their length; rows of zeros stay zero. float32 (N, D)."""
    x = np.asarray(x, dtype=np.float32)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1), dtype=np.float32)


def nearest(x: Floats, known: Floats, k: int, metric: str) -> npt.NDArray[np.int64]:
    """Rows of the k nearest of `known` (M, D) for each row of `x` (B, D), int64 (B, k), nearest first.

    For "cosine", `known` has rows of unit length. Of equally near ones, the first.
    """
    if metric == "cosine":
        distance = -(unit_length(x) @ known.T)
    else:
        centre = known.mean(axis=0)  # smaller numbers, smaller rounding errors
        y, a = known - centre, x - centre
        distance = np.square(y).sum(axis=1) - 2 * (a @ y.T)  # plus a constant of each row
    k = min(k, distance.shape[1])
    limit = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    found = np.empty((len(x), k), np.int64)
    for row in range(len(x)):
        near = np.flatnonzero(distance[row] <= limit[row])
        found[row] = near[np.argsort(distance[row, near], kind="stable")[:k]]
    return found


def neighbour_votes(x: Floats, arrays: Arrays, *, k: int, metric: str) -> npt.NDArray[np.float64]:
    """Number of the k nearest training patches in each class, (B, C)."""
    labels = np.asarray(arrays["labels"], dtype=np.int64)
    rows = nearest(x, np.asarray(arrays["features"], dtype=np.float32), k, metric)
    return votes_of(labels[rows], len(arrays["prior"]))


def votes_of(labels: npt.NDArray[np.int64], n_classes: int) -> npt.NDArray[np.float64]:
    """Number of entries per class and row, (B, C), of labels (B, k).

    >>> votes_of(np.array([[0, 1, 1]]), 2)
    array([[1., 2.]])
    """
    return np.stack([(labels == index).sum(axis=1) for index in range(n_classes)], axis=1).astype(np.float64)


def smoothed(votes: npt.NDArray[np.float64], prior: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Probabilities (B, C) of votes (B, C): as if one more neighbour had the classes' shares in training, `prior` (C,).

    No class is impossible because none of a few neighbours has it.

    >>> smoothed(np.array([[3.0, 0.0]]), np.array([0.5, 0.5]))
    array([[0.875, 0.125]])
    """
    shares = votes + np.asarray(prior, dtype=np.float64)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _check(config: HeadConfig, arrays: Arrays) -> None:
    if set(arrays) != set(_NAMES[config.kind]):
        raise ModelError(
            f"model {config.name}: arrays {', '.join(sorted(arrays))}; a {config.kind} head has "
            f"{', '.join(_NAMES[config.kind])}. Copy the model's folder again."
        )
    d, c = config.encoder.width, len(config.classes)
    expected: dict[str, tuple[int, ...]]
    if config.kind == "knn":
        m = arrays["labels"].size
        expected = {"features": (m, d), "labels": (m,), "prior": (c,)}
    elif config.kind == "mlp":
        h = arrays["bias1"].size
        expected = {"weight1": (d, h), "bias1": (h,), "weight2": (h, c), "bias2": (c,), "mean": (d,), "scale": (d,)}
    else:
        expected = {"weight": (d, c), "bias": (c,), "mean": (d,), "scale": (d,)}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise ModelError(
                f"model {config.name}: {name} is {arrays[name].shape}, expected {shape} for {d} numbers per patch and "
                f"{c} classes. Copy the model's folder again."
            )
