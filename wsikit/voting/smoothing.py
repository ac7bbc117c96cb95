"""Smooth patch probabilities over neighbours on the patch grid. NumPy only.

A patch without a prediction keeps none and does not influence its neighbours: missing is missing, not background.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid

Floats = npt.NDArray[np.float64]

SWEEPS = 20
TOLERANCE = 1e-3
"""Convergence: iteration stops after a sweep that changes no probability by more than this."""

_LEAST = 1e-6  # minimum probability; with 0 a patch could never change to that class
_STEPS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
_ROWS_AT_ONCE = 64


def smooth(
    probs: npt.ArrayLike,
    grid: PatchGrid,
    coords: npt.NDArray[np.int64],
    *,
    method: str,
    coupling: float = 0.5,
) -> Floats:
    """Smooth the probabilities of a slide's patches.

    Parameters
    ----------
    probs
        (N, C); a row with a NaN is a patch without prediction.
    grid, coords
        Coordinates of the patches, int64 (N, 2) level-0 px. The neighbours of a patch are those of the eight grid
        positions around it that hold a patch with a prediction.
    method
        "none". "median": per class the median over a patch and its neighbours, normalised. "mrf": mean-field inference
        in a Potts model, q ∝ p · exp(coupling · Σ q of the neighbours), updated in four interleaved grids until
        convergence: ICM with probabilities instead of labels (Besag 1986).
    coupling
        mrf: log odds that one certain neighbour adds to its class.

    Returns
    -------
    float64 (N, C), rows of sum 1; rows of NaN where there is no prediction.

    Raises
    ------
    RequestError
        Unknown method, or patches that are not on a regular grid.

    >>> grid = PatchGrid((672, 224), (0.5, 0.5), 224, 0.5)
    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    >>> smooth(probs, grid, grid.all_coords(), method="median")[1].round(3).tolist()
    [0.9, 0.1]
    """
    matrix = np.array(probs, dtype=np.float64)
    missing = np.isnan(matrix).any(axis=1)
    matrix[missing] = np.nan
    if method == "none" or missing.all():
        return matrix
    if method not in ("median", "mrf"):
        raise RequestError(f"smoothing {method!r} is not known: use none, median or mrf")
    if not grid.anchored:
        raise RequestError(
            "patches that are not on a regular grid have no neighbours to smooth with: use smooth='none'"
        )
    cols, rows = grid.index_of(coords)
    cols, rows = cols - cols.min() + 1, rows - rows.min() + 1  # an empty border around all
    field = np.full((matrix.shape[1], int(rows.max()) + 2, int(cols.max()) + 2), np.nan)
    field[:, rows, cols] = matrix.T
    found = _median(field) if method == "median" else _potts(field, coupling)
    smoothed = np.ascontiguousarray(found[:, rows, cols].T)
    smoothed[missing] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        even: Floats = np.asarray(smoothed / smoothed.sum(axis=1, keepdims=True))
    # all class medians may be 0 where neighbours are certain of different classes: the patch then keeps its own values
    lost = ~missing & ~np.isfinite(even).all(axis=1)
    even[lost] = matrix[lost]
    return even


def _median(field: Floats) -> Floats:
    """Median per class (C, h, w) over each position and its neighbours, ignoring NaN."""
    found = np.full_like(field, np.nan)
    height, width = field.shape[1:]
    for first in range(1, height - 1, _ROWS_AT_ONCE):
        stop = min(first + _ROWS_AT_ONCE, height - 1)
        around = np.stack(
            [field[:, first + down : stop + down, 1 + right : width - 1 + right] for down, right in _STEPS]
        )
        around.sort(axis=0)  # NaN last
        there = (~np.isnan(around[:, 0])).sum(axis=0)
        low, high = np.maximum(there - 1, 0) // 2, there // 2
        index = np.stack([low, high])[:, None]
        found[:, first:stop, 1 : width - 1] = np.take_along_axis(around, index, axis=0).mean(axis=0)
    return found


def _potts(field: Floats, coupling: float) -> Floats:
    """Mean field of a Potts model with eight neighbours; each of four interleaved grids is updated from the others."""
    there = ~np.isnan(field[0])
    own = np.where(there, np.log(np.clip(np.where(there, field, 1.0), _LEAST, None)), 0.0)
    q = np.where(there, field, 0.0)
    height, width = there.shape
    for _ in range(SWEEPS):
        moved = 0.0
        for top in (1, 2):
            for left in (1, 2):
                inner = (slice(None), slice(top, height - 1, 2), slice(left, width - 1, 2))
                around = np.zeros(q[inner].shape)
                for down, right in _STEPS:
                    if down or right:
                        around += q[:, top + down : height - 1 + down : 2, left + right : width - 1 + right : 2]
                logs = own[inner] + coupling * around
                new = np.exp(logs - logs.max(axis=0))
                new = np.where(there[inner[1:]], new / new.sum(axis=0), 0.0)
                moved = max(moved, float(np.abs(new - q[inner]).max(initial=0.0)))
                q[inner] = new
        if moved <= TOLERANCE:
            break
    return q
