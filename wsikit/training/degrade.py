"""Patches of poor quality, made from good ones: out of focus, under marker ink, folded. Nothing else is changed.

Ink and the second layer of a fold absorb light, so their optical density is added to that of the tissue
(Beer-Lambert), as in a real slide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError

Kind = Literal["blur", "pen", "fold"]
KINDS: tuple[Kind, ...] = get_args(Kind)

Images = npt.NDArray[np.uint8]

BLUR_UM = (1.5, 4.0)
"""Standard deviation; from 1 µm on chromatin is lost, from 4 µm on nuclei (`wsikit.tissue.quality`)."""
_LEAST_BLUR_PX = 0.8  # on coarse pixels a blur of some µm would not be seen
_BAND = (0.35, 0.8)  # width of a stroke or fold, sides of the patch
_EDGE = 0.02  # softness of its edge, sides of the patch
_INKS = ((1.0, 0.55, 0.12), (0.95, 0.25, 0.75), (1.0, 0.95, 0.9))  # blue, green, black: density, RGB
_INK_DENSITY = (0.7, 1.6)


def degrade(images: Images, rng: np.random.Generator, *, kinds: Sequence[Kind] = KINDS, mpp: float) -> Images:
    """A copy of each patch with one fault, of a kind that is drawn for it.

    Parameters
    ----------
    images
        uint8 (B, H, W, 3), RGB.
    kinds
        Of `KINDS`.
    mpp
        µm per pixel.

    Raises
    ------
    RequestError
        If a kind is unknown or none is given.

    >>> tissue = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> blurred = degrade(tissue, np.random.default_rng(0), kinds=["blur"], mpp=0.5)
    >>> blurred.shape, bool(blurred.std() < tissue.std())
    ((2, 64, 64, 3), True)
    """
    if unknown := sorted(set(kinds) - set(KINDS)) or not kinds:
        raise RequestError(f"degrade: kinds {unknown or 'none'}; choose of {', '.join(KINDS)}.")
    out = np.empty_like(images)
    for row, kind in enumerate(rng.integers(len(kinds), size=len(images))):
        out[row] = _FAULTS[kinds[kind]](images[row], rng, mpp)
    return out


def _blurred(image: Images, rng: np.random.Generator, mpp: float) -> Images:
    sd = max(_LEAST_BLUR_PX, rng.uniform(*BLUR_UM) / mpp)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sd, borderType=cv2.BORDER_REFLECT), np.uint8)


def _penned(image: Images, rng: np.random.Generator, mpp: float) -> Images:
    ink = np.array(_INKS[rng.integers(len(_INKS))]) * rng.uniform(*_INK_DENSITY)
    return _absorbed(image, _band(image, rng)[..., None] * ink)


def _folded(image: Images, rng: np.random.Generator, mpp: float) -> Images:
    """The second layer is the patch turned round, as a fold lays other tissue on it."""
    layer = -np.log10((image[::-1, ::-1].astype(np.float64) + 1) / 256)
    return _absorbed(image, _band(image, rng)[..., None] * layer)


_FAULTS: dict[Kind, Callable[[Images, np.random.Generator, float], Images]] = {
    "blur": _blurred,
    "pen": _penned,
    "fold": _folded,
}


def _band(image: Images, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A straight band through the patch, 1 in it and 0 outside, (H, W)."""
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width]
    angle, side = rng.uniform(0, np.pi), min(height, width)
    off = rng.uniform(-0.25, 0.25, 2) * side
    across = np.abs((x - width / 2 - off[0]) * np.cos(angle) + (y - height / 2 - off[1]) * np.sin(angle))
    half = rng.uniform(*_BAND) * side / 2
    inside: npt.NDArray[np.float64] = np.clip((half - across) / (_EDGE * side) + 0.5, 0, 1)
    return inside


def _absorbed(image: Images, density: npt.NDArray[np.float64]) -> Images:
    """Light that passes a further layer of this optical density (H, W, 3)."""
    return np.rint(np.clip((image + 1.0) * 10.0**-density - 1, 0, 255)).astype(np.uint8)
