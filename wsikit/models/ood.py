"""Out-of-distribution score of patches, from features of the image branch. NumPy and safetensors; no torch.

The Mahalanobis distance to the training features (Lee et al. 2018, arXiv 1807.03888, with one Gaussian for all
classes), in units of the 99th percentile of the distances of held-out patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import ModelError
from wsikit.tensor_files import read_arrays

HELD_OUT_SHARE = 0.99
_SHRINKAGE = 0.01  # of the correlations towards 0: small encoders have many features that never vary together
_MIN_SPREAD = 1e-3  # relative to the largest; a feature that was constant in training must not dominate
_MIN_HELD_OUT = 100  # with fewer, the 99th percentile is not defined

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OodDetector:
    """Gaussian fitted to the training features of a model."""

    mean: Floats
    """(D,)"""
    whiten: Floats
    """(D, D): (features − mean) @ whiten has variance 1 in all directions over the training patches."""
    limit: float
    """Distance below which `HELD_OUT_SHARE` of the held-out patches lie, > 0."""

    @classmethod
    def fit(cls, training: npt.NDArray[np.floating], held_out: npt.NDArray[np.floating]) -> OodDetector:
        """Fit training features (N, D); the limit comes from held-out features (M, D) of other slides.

        Raises
        ------
        ModelError
            If there are fewer than 100 held-out patches, or fewer than two for training.
        """
        if len(held_out) < _MIN_HELD_OUT or len(training) < 2:
            raise ModelError(
                f"{len(training)} training and {len(held_out)} held-out patches: too few for an OOD detector; "
                f"at least 2 and {_MIN_HELD_OUT} are needed"
            )
        x = np.asarray(training, dtype=np.float64)
        mean, spread = x.mean(axis=0), x.std(axis=0)
        widest = max(float(spread.max()), float(np.finfo(np.float32).tiny))
        spread = np.maximum(spread, _MIN_SPREAD * widest)
        z = (x - mean) / spread
        correlation = (1 - _SHRINKAGE) * (z.T @ z) / len(z) + _SHRINKAGE * np.eye(len(mean))
        values, vectors = np.linalg.eigh(correlation)
        whiten = vectors / np.sqrt(values) / spread[:, None]
        cloud = cls(mean.astype(np.float32), whiten.astype(np.float32), 1.0)
        return cls(cloud.mean, cloud.whiten, float(np.quantile(cloud.of(held_out), HELD_OUT_SHARE)))

    @classmethod
    def fit_if_enough(
        cls, training: npt.NDArray[np.floating], held_out: npt.NDArray[np.floating]
    ) -> tuple[OodDetector | None, str]:
        """As `fit`; where there are too few patches, None and why, as one line: a model does without a detector.

        >>> OodDetector.fit_if_enough(np.zeros((5, 2)), np.zeros((3, 2)))[1].split(":")[:2]
        ['no out-of-distribution detector', ' 5 training and 3 held-out patches']
        """
        try:
            return cls.fit(training, held_out), ""
        except ModelError as error:
            return None, f"no out-of-distribution detector: {error}"

    def of(self, features: npt.NDArray[np.floating]) -> Floats:
        """Scores (N,) of features (N, D). Above 1: farther from the training features than 99 % of held-out patches."""
        distance = np.linalg.norm((np.asarray(features, dtype=np.float32) - self.mean) @ self.whiten, axis=1)
        return np.asarray(distance / self.limit, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        save_file({"mean": self.mean, "whiten": self.whiten, "limit": np.array([self.limit], np.float32)}, str(path))

    @classmethod
    def load(cls, path: Path, *, width: int) -> OodDetector:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If it is damaged, or of an encoder of another width than `width`.
        """
        saved = read_arrays(path)
        wanted = {"mean": (width,), "whiten": (width, width), "limit": (1,)}
        found = {name: values.shape for name, values in saved.items()}
        if found != wanted or not saved["limit"][0] > 0:
            raise ModelError(
                f"{path}: damaged, or of another encoder: it holds arrays of shapes {found}, expected {wanted} and a "
                "limit above 0; copy the model's folder again."
            )
        return cls(saved["mean"], saved["whiten"], float(saved["limit"][0]))
