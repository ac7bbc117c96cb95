"""Drawn overviews with known truth: stained tissue, glass, pen and borders, as uint8 (h, w, 3)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage as ndi

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

GLASS = (241.0, 240.0, 242.0)
EOSIN_HEMATOXYLIN = (0.22, 0.62, 0.36)  # optical density (natural logarithm) of a pink-purple field in R, G, B


class Canvas:
    """A slide's overview to paint on. Densities add up, as light through layers does."""

    def __init__(self, height: int, width: int, *, glass: tuple[float, float, float] = GLASS, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.glass = np.asarray(glass)
        self.od = np.zeros((height, width, 3))

    def stain(self, where: Mask, density: tuple[float, float, float] = EOSIN_HEMATOXYLIN, texture: float = 0.3) -> None:
        """Add stain with cell-like texture: `texture` is its standard deviation relative to the density."""
        grain = ndi.gaussian_filter(self.rng.normal(size=where.shape), 0.8)
        amount = np.maximum(0.1, 1 + texture * grain / grain.std())
        self.od += (where * amount)[..., None] * np.asarray(density)

    def pen(self, where: Mask, rgb: tuple[float, float, float], softness: float = 2.0) -> None:
        """Add a film of ink of this colour, with streaks, and edges that fade out over `softness` px."""
        film = ndi.gaussian_filter(where.astype(float), softness)
        streaks = ndi.gaussian_filter(self.rng.normal(size=where.shape), (12, 3))
        ink = -np.log((np.asarray(rgb) + 1) / (self.glass + 1))
        self.od += (film * (1 + 0.1 * streaks / streaks.std()))[..., None] * ink

    def image(self, noise: float = 1.0) -> Image:
        """What a camera sees, with noise of this many grey levels."""
        seen = (self.glass + 1) * np.exp(-self.od) - 1 + self.rng.normal(0, noise, self.od.shape)
        return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


@pytest.fixture
def canvas() -> type[Canvas]:
    return Canvas


@pytest.fixture
def box() -> Callable[..., Mask]:
    """box(height, width, top, left, bottom, right): a filled rectangle, bool (height, width)."""

    def draw(height: int, width: int, top: int, left: int, bottom: int, right: int) -> Mask:
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask

    return draw


@pytest.fixture
def overlap() -> Callable[[Mask, Mask], float]:
    """Intersection over union of two masks."""

    def iou(one: Mask, other: Mask) -> float:
        return float(np.count_nonzero(one & other) / max(1, np.count_nonzero(one | other)))

    return iou
