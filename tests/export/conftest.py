"""Class maps for the tests of this folder, each made of a label raster and its closed-form truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from wsikit.export.classmap import ClassMap
from wsikit.export.palette import class_colors
from wsikit.geometry import PatchGrid

CLASSES = ("UD", "PD", "D", "other")
NAMES = ("undifferentiated", "poorly differentiated", "differentiating", "other tissue")


def class_map_of(
    raster: np.ndarray,
    *,
    mpp: tuple[float, float] = (0.5, 0.5),
    patch_px: int = 224,
    target_mpp: float = 0.5,
    overlap_px: int = 0,
    slide_px: tuple[int, int] | None = None,
    slide_id: str = "case 1/slide A",
    notice: str = "",
    certainty: np.ndarray | None = None,
) -> ClassMap:
    """A map of `raster` (n_rows, n_cols): class per grid cell, -1 = no prediction, -2 = no patch.

    `certainty` (n_rows, n_cols) is the probability of each cell's own class, 0.7 for all if None.
    """
    rows, cols = np.nonzero(raster > -2)
    labels = raster[rows, cols].astype(np.int64)
    if slide_px is None:
        slide_px = tuple(
            int(np.ceil((n * (patch_px - overlap_px) + overlap_px) * target_mpp / m))
            for n, m in zip(raster.shape[::-1], mpp)
        )
    grid = PatchGrid(slide_px, mpp, patch_px, target_mpp, overlap_px)
    own = np.full(len(labels), 0.7) if certainty is None else certainty[rows, cols]
    probs = np.repeat((1 - own)[:, None] / 3, 4, axis=1)
    probs[labels >= 0, labels[labels >= 0]] = own[labels >= 0]
    probs[labels < 0] = np.nan
    return ClassMap(
        slide_id=slide_id,
        grid=grid,
        mpp_source="vendor property aperio.MPP",
        coords=grid.coords(cols, rows),
        labels=labels,
        probs=probs,
        classes=CLASSES,
        class_names=NAMES,
        colors=class_colors(CLASSES, ("other",)),
        background=("other",),
        notice=notice,
    )


@pytest.fixture(scope="session", name="class_map_of")
def class_map_maker() -> Callable[..., ClassMap]:
    """`class_map_of(raster, …)` as a fixture, as tests do not import each other."""
    return class_map_of


@pytest.fixture(scope="session")
def small_map() -> ClassMap:
    """Three rows, four columns: a hole in UD, one cell without prediction, one without a patch."""
    return class_map_of(np.array([[0, 0, 0, 1], [0, 3, 0, -1], [0, 0, 0, -2]]), notice="demonstration model")


@pytest.fixture(scope="session")
def thumbnail() -> np.ndarray:
    """Even pink, uint8 (60, 80, 3): what is not pink-grey on a map was painted."""
    return np.full((60, 80, 3), (230, 190, 215), dtype=np.uint8)
