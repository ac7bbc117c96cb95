"""A model of two classes without weights: the bluer a patch, the more probable is "cellular"."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from wsikit import ModelInfo


class Blueness:
    """Entry point of `wsikit.models`: a class with `describe` and `load`."""

    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    @classmethod
    def describe(cls, folder: Path | None) -> ModelInfo:
        """What the model is, without loading it. A model with weights reads them from `folder`."""
        return ModelInfo(
            name="blueness",
            version="1",
            architecture="blueness",
            fingerprint=hashlib.sha256(b"blueness 1").hexdigest(),  # of the weights, if there were some
            patch_px=224,
            mpp=0.5,
            stain="H&E",
            classes=("cellular", "matrix"),
            class_names=("tissue rich in nuclei", "tissue poor in nuclei"),
            colors=("#0072b2", "#f0e442"),
        )

    @classmethod
    def load(cls, folder: Path | None, *, device: str) -> Blueness:
        return cls(cls.describe(folder))

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Probabilities, float32 (B, 2), of uint8 (B, H, W, 3)."""
        colour = images.mean(axis=(1, 2), dtype=np.float64)
        cellular = 1 / (1 + np.exp(-(colour[:, 2] - colour[:, 0]) / 10))
        return {"probability": np.stack([cellular, 1 - cellular], axis=1).astype(np.float32)}
