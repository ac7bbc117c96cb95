"""What a patch's voice is multiplied with: how much of it is tissue, how well it can be seen, how often it is counted.

Each weight is float64 (N,) in [0, 1]. What is not known of a patch takes nothing from its voice, but a tissue share.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid
from wsikit.partition import shared_areas

Floats = npt.NDArray[np.float64]

SHARP, LOST = 0.25, 1.0
"""Blur as `wsikit.tissue.quality` measures it: to 1 µm nothing is taken away, from 4 µm on no nucleus is left."""


def tissue_weight(share: npt.ArrayLike) -> Floats:
    """The share of each patch (N,) that is tissue."""
    return np.clip(np.nan_to_num(np.asarray(share, dtype=np.float64)), 0, 1)


def roi_weight(share: npt.ArrayLike) -> Floats:
    """The share of each patch (N,) inside the regions that were drawn; none where it is not known."""
    return np.clip(np.nan_to_num(np.asarray(share, dtype=np.float64)), 0, 1)


def readable_weight(readable: npt.ArrayLike) -> Floats:
    """1 where all of a patch (N,) could be read, else 0."""
    return np.asarray(np.asarray(readable, dtype=np.float64) >= 1, dtype=np.float64)


def quality_weight(blur: npt.ArrayLike | None = None, pen: npt.ArrayLike | None = None) -> Floats:
    """What blur and marker ink leave of each patch (N,): ramp(blur) · (1 − pen).

    The ramp is 1 up to a blur of `SHARP` and falls to 0 at `LOST`.
    """
    weight: Floats | None = None
    if blur is not None:
        blurred = np.nan_to_num(np.asarray(blur, dtype=np.float64))
        weight = np.clip((LOST - blurred) / (LOST - SHARP), 0, 1)
    if pen is not None:
        clean = 1 - np.clip(np.nan_to_num(np.asarray(pen, dtype=np.float64)), 0, 1)
        weight = clean if weight is None else weight * clean
    if weight is None:
        raise ValueError("neither blur nor pen is given")
    return weight


def overlap_weight(grid: PatchGrid, coords: npt.NDArray[np.int64], counted: npt.NDArray[np.bool_]) -> Floats:
    """Share of each patch (N,) that it alone stands for: a place under n patches counts 1/n to each.

    Times the area of a patch, they add up to the area that the `counted` patches (N,) cover together; those that are
    not counted have weight 0 and take nothing from their neighbours. What lies off the slide is no area.
    """
    weight = np.zeros(len(coords))
    side_px = grid.side
    weight[counted] = shared_areas(grid, coords[counted]) / (side_px[0] * side_px[1])
    return weight


def key_tissue(
    neuropil_share: npt.ArrayLike,
    stroma_share: npt.ArrayLike,
    *,
    neuropil_grades: tuple[float, float, float],
    stroma_grades: tuple[float, float, float],
) -> Floats:
    """Probabilities (N, 3) of other tissue, neuropil and Schwannian stroma, from what was measured in each patch.

    Parameters
    ----------
    neuropil_share, stroma_share
        (N,) shares of the patch; NaN: not measured. Where only one is known the other is taken as absent.
    neuropil_grades, stroma_grades
        Shares below which the tissue is called absent, scant and moderate. It is not there at all up to the first,
        as likely as not at the second, and certain from the third on.

    Returns
    -------
    float64 (N, 3), rows of sum 1; NaN where neither is known.
    """
    neuropil, stroma = (
        np.interp(np.asarray(share, dtype=np.float64), grades, (0.0, 0.5, 1.0))
        for share, grades in ((neuropil_share, neuropil_grades), (stroma_share, stroma_grades))
    )
    unknown = np.isnan(neuropil) & np.isnan(stroma)
    neuropil, stroma = np.nan_to_num(neuropil), np.nan_to_num(stroma)
    other = (1 - neuropil) * (1 - stroma)
    both = neuropil + stroma
    with np.errstate(invalid="ignore", divide="ignore"):
        split = np.where(both > 0, neuropil / both, 0.0)
    q = np.stack([other, (1 - other) * split, (1 - other) * (1 - split)], axis=1)
    q[unknown] = np.nan
    return q
