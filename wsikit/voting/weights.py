"""Weights of patches in the vote: tissue, region of interest, readability, image quality, overlap, key tissue.

Each weight is float64 (N,) in [0, 1]. An unknown value (NaN) counts as no blur and no ink, but as no tissue and as
outside of the region of interest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid
from wsikit.partition import shared_areas

Floats = npt.NDArray[np.float64]

SHARP, LOST = 0.25, 1.0
"""Blur as `wsikit.tissue.quality` measures it: up to 1 µm the weight is 1; from 4 µm no nucleus is visible."""


def tissue_weight(share: npt.ArrayLike) -> Floats:
    """The fraction of each patch (N,) that is tissue; 0 where unknown."""
    return np.clip(np.nan_to_num(np.asarray(share, dtype=np.float64)), 0, 1)


def roi_weight(share: npt.ArrayLike) -> Floats:
    """The fraction of each patch (N,) inside the drawn regions; 0 where unknown."""
    return np.clip(np.nan_to_num(np.asarray(share, dtype=np.float64)), 0, 1)


def readable_weight(readable: npt.ArrayLike) -> Floats:
    """1 where a patch (N,) could be read completely, else 0."""
    return np.asarray(np.asarray(readable, dtype=np.float64) >= 1, dtype=np.float64)


def quality_weight(blur: npt.ArrayLike | None = None, pen: npt.ArrayLike | None = None) -> Floats:
    """The usable fraction of each patch (N,) given blur and marker ink: ramp(blur) · (1 − pen).

    The ramp is 1 up to a blur of `SHARP` and falls linearly to 0 at `LOST`.

    >>> quality_weight([0.1, 0.625, 1.0], pen=[0.0, 0.0, 0.5]).tolist()
    [1.0, 0.5, 0.0]
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
    """Fraction of its own area that each patch (N,) counts for: where n patches overlap, each counts 1/n.

    Multiplied by the area of a patch, the weights sum to the area that the `counted` patches (N,) cover. Patches that
    are not counted have weight 0 and do not reduce their neighbours. Area outside of the slide is not counted.
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
        (N,) fractions of the patch; NaN: not measured. Where only one is known the other counts as absent.
    neuropil_grades, stroma_grades
        Fractions below which the tissue is called absent, scant and moderate: probability 0 up to the first, 0.5 at
        the second, 1 from the third on.

    Returns
    -------
    float64 (N, 3), rows of sum 1; NaN where neither is known.

    >>> key_tissue([0.3], [0.0], neuropil_grades=(0.1, 0.2, 0.3), stroma_grades=(0.1, 0.2, 0.3)).tolist()
    [[0.0, 1.0, 0.0]]
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
