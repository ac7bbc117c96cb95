"""Stain normalisation of patch sets, Reinhard's and Macenko's: each slide's tissue is made to look as in training.

A preparation of data, slide by slide; it is not part of a model, and `wsikit run` does not apply it. A model that was
trained on normalised patches has to be given such; for one that meets any slide, use stain augmentation instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.data import PatchSet

GLASS = 90.0
"""CIELAB lightness above which a pixel is glass: Reinhard neither measures nor changes it."""

LEAST_DENSITY = 0.15
"""Optical density (log10) below which, in the mean of the channels, Macenko does the same."""

LEAST_PIXELS = 100
"""Of tissue, to say what the colours of a slide are."""

_EXTREME = 1.0  # per cent of the pixels that may lie beyond either stain's direction, and beyond its full strength
_MOST_PIXELS = 1_000_000  # that say what a slide's stains are, evenly spread

Image = npt.NDArray[np.uint8]
Three = tuple[float, float, float]
Look = TypeVar("Look")


@dataclass(frozen=True)
class Reinhard:
    """Colours of tissue in CIELAB (Reinhard et al. 2001, IEEE Comput Graph Appl 21:34), L, a, b."""

    mean: Three
    std: Three

    @classmethod
    def fit(cls, images: Image) -> Reinhard:
        """The colours of `images`, uint8 (N, H, W, 3): of the training patches, never of the test patches.

        Raises
        ------
        RequestError
            If there is no tissue in them.
        """
        n, total, squares = 0, np.zeros(3), np.zeros(3)
        for image in images:  # one by one: as floats they are eight times as large
            lab = _lab(image)
            tissue = lab[lab[..., 0] <= GLASS]
            n, total, squares = n + len(tissue), total + tissue.sum(axis=0), squares + (tissue**2).sum(axis=0)
        _check_tissue(n, len(images))
        mean = total / n
        std = np.sqrt(np.maximum(squares / n - mean**2, 0.0))
        return cls(_three(mean), _three(std))

    def apply(self, data: PatchSet) -> PatchSet:
        """The patches with each slide's tissue (each group's, where slides are not named) brought to these colours.

        A slide's own colours are taken from its own patches alone, so nothing passes from one slide to another.
        """
        return _slide_by_slide(data, Reinhard.fit, self._brought)

    def record(self) -> dict[str, Any]:
        """What was done, JSON-ready."""
        return {"method": "Reinhard", "space": "CIELAB", "glass_above_L": GLASS} | asdict(self)

    def _brought(self, image: Image, own: Reinhard) -> Image:
        from skimage.color import lab2rgb

        lab = _lab(image)
        scale = np.array(self.std) / np.maximum(np.array(own.std), 1e-6)
        changed = (lab - np.array(own.mean)) * scale + np.array(self.mean)
        changed[..., 0] = changed[..., 0].clip(0, 100)
        rgb = np.rint(lab2rgb(changed).clip(0, 1) * 255).astype(np.uint8)
        return np.where(lab[..., :1] > GLASS, image, rgb)


@dataclass(frozen=True)
class Macenko:
    """Two stains and their full strengths (Macenko et al. 2009, ISBI, p. 1107). What is neither stain is lost."""

    stains: tuple[Three, Three]
    """Optical density in red, green, blue of haematoxylin, then of eosin; unit vectors."""
    strengths: tuple[float, float]
    """Of either stain, what one pixel in a hundred exceeds."""

    @classmethod
    def fit(cls, images: Image) -> Macenko:
        """The stains of `images`, uint8 (N, H, W, 3): of the training patches, never of the test patches.

        Raises
        ------
        RequestError
            If there is no tissue in them, or but one stain.
        """
        density = _tissue_density(images)
        _check_tissue(len(density), len(images))
        _, vectors = np.linalg.eigh(np.cov(density.T))
        plane = vectors[:, :0:-1] * np.sign(vectors[:, :0:-1].sum(axis=0))  # the two directions of most change
        angles = np.arctan2(*(density @ plane).T[::-1])
        ends = np.percentile(angles, (_EXTREME, 100 - _EXTREME))
        found = np.stack([plane @ (np.cos(angle), np.sin(angle)) for angle in ends])
        stains = found[np.argsort(-found[:, 0])]  # haematoxylin takes more red than eosin does
        if np.linalg.cond(stains) > _MOST_ALIKE:
            raise RequestError(f"stain: one colour alone in {len(images)} patches; Macenko's method parts two.")
        strengths = np.percentile(_amounts(density, stains), 100 - _EXTREME, axis=0)
        return cls((_three(stains[0]), _three(stains[1])), (float(strengths[0]), float(strengths[1])))

    def apply(self, data: PatchSet) -> PatchSet:
        """As `Reinhard.apply`, to these stains and strengths."""
        return _slide_by_slide(data, Macenko.fit, self._brought)

    def record(self) -> dict[str, Any]:
        """What was done, JSON-ready."""
        return {"method": "Macenko", "least_density": LEAST_DENSITY} | asdict(self)

    def _brought(self, image: Image, own: Macenko) -> Image:
        density = _density(image)
        amounts = _amounts(density, np.array(own.stains)) * (np.array(self.strengths) / np.array(own.strengths))
        rgb = np.rint(256 * 10 ** -(amounts @ np.array(self.stains)) - 1).clip(0, 255).astype(np.uint8)
        return np.where(density.mean(axis=-1, keepdims=True) < LEAST_DENSITY, image, rgb)


_MOST_ALIKE = 50.0  # of the stains' condition number: beyond, they are one direction but for noise


def _density(image: Image) -> npt.NDArray[np.float64]:
    """(…, 3) optical density, log10, 0 for white."""
    return -np.log10((image.astype(np.float64) + 1) / 256)


def _tissue_density(images: Image) -> npt.NDArray[np.float64]:
    """(n, 3) of the pixels that are not glass, `_MOST_PIXELS` of all at most."""
    pixels = images.reshape(-1, 3)
    density = _density(pixels[:: -(-len(pixels) // _MOST_PIXELS) or 1])
    return density[density.mean(axis=1) >= LEAST_DENSITY]


def _amounts(density: npt.NDArray[np.float64], stains: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(…, 2) how much of either stain, by least squares; no less than none."""
    return np.maximum(density @ np.linalg.pinv(stains), 0.0)


def _slide_by_slide(data: PatchSet, fit: Callable[[Image], Look], bring: Callable[[Image, Look], Image]) -> PatchSet:
    """The patches, each changed by what its own slide looks like."""
    names = data.groups if data.slides is None else data.slides
    images = np.empty_like(data.images)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        own = fit(data.images[rows])
        for row in rows:
            images[row] = bring(data.images[row], own)
    return replace(data, images=images)


def _check_tissue(n_pixels: int, n_patches: int) -> None:
    if n_pixels < LEAST_PIXELS:
        raise RequestError(f"stain: {n_pixels} pixels of tissue in {n_patches} patches; {LEAST_PIXELS} are needed.")


def _lab(image: Image) -> npt.NDArray[np.float64]:
    """(H, W, 3)"""
    from skimage.color import rgb2lab

    return np.asarray(rgb2lab(image), dtype=np.float64)


def _three(values: npt.NDArray[np.float64]) -> Three:
    return (float(values[0]), float(values[1]), float(values[2]))
