"""The regular patch grid of another tool's coordinates, if there is one. No I/O; level-0 px."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid

_DIGITS = range(1, 7)
"""Significant digits of the µm/px candidates: 0.5 is tried before 0.500232."""


def grid_of(
    coords: npt.NDArray[np.int64],
    *,
    slide_px: tuple[int, int],
    slide_mpp: tuple[float, float],
    side_px: float,
    patch_px: int,
    overlap_px: int = 0,
) -> PatchGrid:
    """A grid of patches of `side_px` level-0 px that holds all of `coords` (N, 2) exactly.

    Other tools round a patch's side to whole pixels, and some round the step, too. If a regular grid with this side, or
    a side that rounds to it, has patches at exactly these coordinates, that grid is returned; otherwise a grid of this
    side that is not `anchored`: its coordinates follow no rule.
    """

    def grid(mpp: float, *, anchored: bool = True) -> PatchGrid:
        return PatchGrid(slide_px, slide_mpp, patch_px, mpp, overlap_px, anchored)

    mean = sum(slide_mpp) / 2
    stated = side_px * mean / patch_px
    if overlap_px < patch_px and len(coords):
        for mpp in _candidates(coords, stated, patch_px, overlap_px, mean):
            near = abs(mpp * patch_px / mean - side_px) <= 0.5 + 1e-6
            if near and grid(mpp).fault(coords) is None:
                return grid(mpp)
    return grid(stated, anchored=False)


def _candidates(
    coords: npt.NDArray[np.int64], stated: float, patch_px: int, overlap_px: int, slide_mpp: float
) -> Iterator[float]:
    """µm/px of the patches that could explain the coordinates, round numbers first."""
    yield from (float(f"{stated:.{digits}g}") for digits in _DIGITS)
    yield stated
    step = stated * (patch_px - overlap_px) / slide_mpp
    number = np.rint(coords / step)
    if number.any():
        fitted = float((coords * number).sum() / (number**2).sum()) * slide_mpp / (patch_px - overlap_px)
        yield from (float(f"{fitted:.{digits}g}") for digits in _DIGITS)
