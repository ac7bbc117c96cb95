"""Stain normalisation of patch sets, Reinhard's: each slide's tissue gets the mean and spread of the training tissue.

A preparation of data, slide by slide; it is not part of a model, and `wsikit run` does not apply it. A model that was
trained on normalised patches has to be given such; for one that meets any slide, use stain augmentation instead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.data import PatchSet

GLASS = 90.0
"""CIELAB lightness above which a pixel is glass: it is neither measured nor changed."""

LEAST_PIXELS = 100
"""Of tissue, to say what the colours of a slide are."""


@dataclass(frozen=True)
class Reinhard:
    """Colours of tissue in CIELAB (Reinhard et al. 2001, IEEE Comput Graph Appl 21:34), L, a, b."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def fit(cls, images: npt.NDArray[np.uint8]) -> Reinhard:
        """The colours of `images`, uint8 (N, H, W, 3): of the training patches, never of the test patches.

        Raises
        ------
        RequestError
            If there is no tissue in them.
        """
        n, total, squares = 0, np.zeros(3), np.zeros(3)
        for image in images:  # one by one: as floats they are eight times as large
            tissue = _tissue(_lab(image))
            n, total, squares = n + len(tissue), total + tissue.sum(axis=0), squares + (tissue**2).sum(axis=0)
        if n < LEAST_PIXELS:
            raise RequestError(f"stain: {n} pixels of tissue in {len(images)} patches; {LEAST_PIXELS} are needed.")
        mean = total / n
        std = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
        return cls(_three(mean), _three(std))

    def apply(self, data: PatchSet) -> PatchSet:
        """The patches with each slide's tissue (each group's, where slides are not named) brought to these colours.

        A slide's own colours are taken from its own patches alone, so nothing passes from one slide to another.
        """
        names = data.groups if data.slides is None else data.slides
        images = np.empty_like(data.images)
        for name in np.unique(names):
            rows = np.flatnonzero(names == name)
            own = Reinhard.fit(data.images[rows])
            for row in rows:
                images[row] = self._brought(data.images[row], own)
        return replace(data, images=images)

    def record(self) -> dict[str, Any]:
        """What was done, JSON-ready."""
        return {"method": "Reinhard", "space": "CIELAB", "glass_above_L": GLASS} | asdict(self)

    def _brought(self, image: npt.NDArray[np.uint8], own: Reinhard) -> npt.NDArray[np.uint8]:
        from skimage.color import lab2rgb

        lab = _lab(image)
        scale = np.array(self.std) / np.maximum(np.array(own.std), 1e-6)
        changed = (lab - np.array(own.mean)) * scale + np.array(self.mean)
        changed[..., 0] = changed[..., 0].clip(0, 100)
        rgb = np.rint(lab2rgb(changed).clip(0, 1) * 255).astype(np.uint8)
        return np.where(lab[..., :1] > GLASS, image, rgb)


def _lab(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(H, W, 3)"""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(image), dtype=np.float64)


def _tissue(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(n, 3): the pixels that are not glass."""
    return lab[lab[..., 0] <= GLASS]


def _three(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))
