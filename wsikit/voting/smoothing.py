"""Probabilities evened out over the neighbours on the patch grid. NumPy only.

A patch without a prediction stays without, and says nothing to its neighbours: what is missing is missing, not white.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid

Floats = npt.NDArray[np.float64]

SWEEPS = 20
SETTLED = 1e-3
"""A sweep that moves no probability by more than this is the last."""

_LEAST = 1e-6  # a patch that excludes a class could else never be persuaded
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
    """Even out the probabilities of a slide's patches.

    Parameters
    ----------
    probs
        (N, C); a row with a NaN is a patch without prediction.
    grid, coords
        Where the patches lie, int64 (N, 2) level-0 px; neighbours are those of the eight places around that hold a
        patch with a prediction.
    method
        "none". "median": per class the median of a patch and its neighbours, normalised. "mrf": a Potts field in mean
        field, q ∝ p · exp(coupling · Σ q of the neighbours), swept in four interleaved grids until it settles: ICM
        with probabilities in place of labels.
    coupling
        mrf: log odds that one sure neighbour adds for its class.

    Returns
    -------
    float64 (N, C), rows of sum 1; rows of NaN where there is no prediction.
    """
    matrix = np.array(probs, dtype=np.float64)
    missing = np.isnan(matrix).any(axis=1)
    matrix[missing] = np.nan
    if method == "none" or missing.all():
        return matrix
    if method not in ("median", "mrf"):
        raise RequestError(f"smoothing {method!r} is not known: use none, median or mrf")
    if not grid.anchored:
        raise RequestError("patches that do not lie on a regular grid have no neighbours to be smoothed with")
    cols, rows = grid.index_of(coords)
    cols, rows = cols - cols.min() + 1, rows - rows.min() + 1  # a border of nothing around all
    field = np.full((matrix.shape[1], int(rows.max()) + 2, int(cols.max()) + 2), np.nan)
    field[:, rows, cols] = matrix.T
    found = _median(field) if method == "median" else _potts(field, coupling)
    smoothed = np.ascontiguousarray(found[:, rows, cols].T)
    smoothed[missing] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        even = smoothed / smoothed.sum(axis=1, keepdims=True)
    # medians of all classes may vanish together, where neighbours are sure of different ones: the patch keeps its own
    lost = ~missing & ~np.isfinite(even).all(axis=1)
    even[lost] = matrix[lost]
    return even


def _median(field: Floats) -> Floats:
    """Median per class (C, h, w) over a place and its neighbours, NaN apart."""
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
    """Mean field of a Potts model with eight neighbours; each of four interleaved grids is updated by the others."""
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
        if moved <= SETTLED:
            break
    return q
