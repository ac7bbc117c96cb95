"""The field around a patch: the mean of each measured number over its surroundings. NumPy and SciPy only.

A patch of 0.1–0.2 mm is less than a pathologist looks at: tumour, stroma and infiltrates extend over millimetres. The
numbers of the patches around say what a single patch cannot. Axes: N patches, F facts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CELL = 0.25
"""Side of the cells into which patches are sorted, in standard deviations of the weight."""

REACH = 4.0
"""Patches beyond this many standard deviations have no weight."""

PRIOR = 0.3
"""Weight of the slide's mean, in neighbours at the same place: a patch without neighbours has the mean of its slide."""


def field_means(
    values: npt.NDArray[np.floating], centres_um: npt.NDArray[np.floating], sd_um: float
) -> npt.NDArray[np.float32]:
    """Mean of the facts over the patches around each patch of a slide, without the patch itself.

    Neighbours have the weight exp(−d²/2sd²) of their distance d, to the precision of cells of a quarter of `sd_um`; the
    slide's mean has the weight 0.3 (`PRIOR`), so that patches without neighbours have that.

    Parameters
    ----------
    values
        (N, F), NaN where not measured; such values have no weight.
    centres_um
        (N, 2), µm: any point of the patches, the same in each.
    sd_um
        Standard deviation of the weight, µm.

    Returns
    -------
    float32 (N, F)
        NaN for a fact that no patch of the slide has.

    Examples
    --------
    >>> values = np.array([[0.0], [1.0], [1.0]])
    >>> centres = np.array([[0.0, 0.0], [10.0, 0.0], [90_000.0, 0.0]])
    >>> field_means(values, centres, 1000.0)[:, 0].round(2)
    array([0.92, 0.15, 0.67], dtype=float32)
    """
    x = np.asarray(values, dtype=np.float64)
    known = np.isfinite(x)
    cells = np.asarray(centres_um, dtype=np.float64) / (CELL * sd_um)
    place = np.floor(cells - cells.min(axis=0, initial=0, where=np.isfinite(cells))).astype(np.int64)
    own = 1.0  # the weight of a patch in its own cell
    found = np.full(x.shape, np.nan, dtype=np.float32)
    for fact in range(x.shape[1]):
        there = known[:, fact]
        if not there.any():
            continue
        held = np.where(there, x[:, fact], 0.0)
        mean = held.sum() / there.sum()
        total, weight = _smoothed(held, place), _smoothed(there.astype(np.float64), place)
        total, weight = total - own * held, np.maximum(weight - own * there, 0.0)
        found[:, fact] = (total + PRIOR * mean) / (weight + PRIOR)
    return found


def _smoothed(held: npt.NDArray[np.float64], place: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sum of `held` (N,) over all patches, weighted by the distance of their cells, at the cell of each patch, (N,).

    Cells that hold patches are few where tissue is: only blocks of the plane with patches are convolved.
    """
    from scipy.ndimage import convolve1d

    reach = round(REACH / CELL)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * CELL) ** 2)
    width, height = place.max(axis=0) + 1
    plane = np.zeros((height, width))
    np.add.at(plane, (place[:, 1], place[:, 0]), held)
    for axis in (0, 1):
        plane = convolve1d(plane, weights, axis=axis, mode="constant")
    smooth: npt.NDArray[np.float64] = plane[place[:, 1], place[:, 0]]
    return smooth
