"""A captioner of another package: states the mean brightness of a patch, in words and as a fact."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches


class Toy:
    name, parallel, fact_names = "toy", True, ("brightness",)

    def __init__(self, word: str) -> None:
        self.word = word

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name, "version": 1, "word": self.word}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        check_patches(images, mpp)
        return [self._one(float(image.mean()) / 255) for image in images]

    def _one(self, brightness: float) -> Caption:
        return Caption(f"{self.word} of brightness {brightness:.2f}.", {"brightness": brightness}, self.name)


def make(argument: str | None, *, device: str, prompt: str | None = None) -> Toy:
    return Toy(prompt or argument or "Tissue")
