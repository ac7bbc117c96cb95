"""A model of patches in a few lines, as a plug-in's author would write it: two classes by mean brightness."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from wsikit import ModelInfo


class Brightness:
    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    @classmethod
    def describe(cls, folder: Path | None) -> ModelInfo:
        return ModelInfo(
            name="brightness",
            version="1",
            architecture="brightness",
            fingerprint=hashlib.sha256(b"brightness 1").hexdigest(),
            patch_px=64,
            mpp=1.0,
            stain="H&E",
            classes=("dark", "bright"),
            class_names=("dark tissue", "bright tissue"),
            colors=("#0072b2", "#f0e442"),
        )

    @classmethod
    def load(cls, folder: Path | None, *, device: str) -> Brightness:
        return cls(cls.describe(folder))

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        bright = images.mean(axis=(1, 2, 3)) / 255
        return {"probability": np.stack([1 - bright, bright], axis=1).astype(np.float32)}
