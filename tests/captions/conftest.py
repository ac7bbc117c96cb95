"""Drawn tissue with known measurements in µm, so that one scene can be rendered at any pixel size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

HAEMATOXYLIN = np.array([0.62, 0.70, 0.32])
EOSIN = np.array([0.12, 0.80, 0.38])
GLASS = 245.0
FIELD_UM = 112.0

Draw = Callable[..., npt.NDArray[np.uint8]]


def _stain(haematoxylin: npt.NDArray, eosin: npt.NDArray) -> npt.NDArray[np.uint8]:
    density = haematoxylin[..., None] * HAEMATOXYLIN + eosin[..., None] * EOSIN
    return np.rint(GLASS * 10.0**-density).astype(np.uint8)


def _draw(
    mpp: float,
    *,
    spacing_um: float = 18.0,
    diameter_um: float = 8.0,
    aspect: float = 0.8,
    background: float = 0.25,
    darkness: float = 1.0,
    field_um: float = FIELD_UM,
) -> npt.NDArray[np.uint8]:
    """Equal ellipses of the area of a circle of `diameter_um`, each turned another way, on even pink.

    Whole ellipses only: `int(field / spacing)` squared of them.
    """
    n_px = round(field_um / mpp)
    axis = (np.arange(n_px) + 0.5) * mpp
    x, y = np.meshgrid(axis, axis)
    cover = np.zeros((n_px, n_px))
    n = int(field_um / spacing_um)
    first = (field_um - (n - 1) * spacing_um) / 2
    long, short = diameter_um / 2 / np.sqrt(aspect), diameter_um / 2 * np.sqrt(aspect)
    for place in range(n * n):
        turn = 0.7 * place
        dx, dy = x - (first + place % n * spacing_um), y - (first + place // n * spacing_um)
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        depth = (1 - np.sqrt((u / long) ** 2 + (v / short) ** 2)) * np.sqrt(long * short)
        cover = np.maximum(cover, np.clip(depth / mpp + 0.5, 0, 1))
    return _stain(darkness * cover, background * (1 - cover))


@pytest.fixture(scope="session")
def draw_nuclei() -> Draw:
    """draw_nuclei(mpp, spacing_um=18, diameter_um=8, aspect=0.8, background=0.25, darkness=1, field_um=112)."""
    return _draw


@pytest.fixture(scope="session")
def stain() -> Callable[[npt.NDArray, npt.NDArray], npt.NDArray[np.uint8]]:
    """stain(haematoxylin, eosin): amounts (h, w) to uint8 (h, w, 3) by Beer-Lambert on glass of 245."""
    return _stain
