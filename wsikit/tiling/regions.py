"""Selection of the tiles of a level when only tissue is stored. Tiles are indexed by column and row of the level."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from wsikit.geometry import coverage
from wsikit.tiling.plan import SMALLEST_LEVEL_PX, LevelPlan
from wsikit.tissue.mask import TissueMask

MARGIN_UM = 128.0
"""Stored around tissue, so that patches at its border have all their pixels."""


def background_tiles(level: LevelPlan, tissue: TissueMask) -> frozenset[tuple[int, int]]:
    """Tiles (column, row) of a level without tissue, its margin, or unreadable parts.

    Empty for small levels, which are stored completely: maps and thumbnails show them.
    """
    form = level.format
    if max(form.width, form.height) <= SMALLEST_LEVEL_PX:
        return frozenset()
    cols, rows = form.n_tiles
    col, row = np.meshgrid(np.arange(cols), np.arange(rows))
    side = (form.tile_px[0] * level.downsample[0], form.tile_px[1] * level.downsample[1])
    coords = np.stack([col.ravel() * side[0], row.ravel() * side[1]], axis=1)
    share = coverage(_with_margin(tissue), tissue.downsample, np.rint(coords).astype(np.int64), side)
    return frozenset(zip(col.ravel()[share == 0].tolist(), row.ravel()[share == 0].tolist(), strict=True))


def _with_margin(tissue: TissueMask) -> npt.NDArray[np.bool_]:
    from scipy.ndimage import maximum_filter

    reach_x, reach_y = (2 * math.ceil(MARGIN_UM / mpp) + 1 for mpp in tissue.mpp)
    kept: npt.NDArray[np.bool_] = maximum_filter(tissue.mask | tissue.unreadable, size=(reach_y, reach_x))
    return kept
