"""How much a slide's statement hangs on this or that part of it: a bootstrap over squares of tissue.

Neighbouring patches say nearly the same, so that drawing single patches would promise far too much. Pure NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid

MIN_BLOCKS = 5
"""Fewer squares than this tell nothing of how squares differ."""
MAX_BLOCKS = 4096
"""Larger squares are taken instead of more: it costs no certainty that there was, and bounds time and memory."""

_AT_ONCE = 1 << 22  # draws of one square that are held at a time


def blocks_of(
    grid: PatchGrid, coords: npt.NDArray[np.int64], block_um: float
) -> tuple[npt.NDArray[np.int64], int, float]:
    """Which square each patch lies in, by its middle.

    Parameters
    ----------
    coords
        int64 (N, 2) top-left corners, level-0 px.
    block_um
        Side of the squares, µm, counted from level-0 (0, 0); doubled until there are `MAX_BLOCKS` at most.

    Returns
    -------
    int64 (N,) numbers from 0 on, how many there are, and the side that was taken.
    """
    mpp = np.asarray(grid.slide_mpp)
    middle_um = (coords + np.asarray(grid.side) / 2) * mpp
    while True:
        col, row = np.floor(middle_um / block_um).astype(np.int64).T
        if len(coords) == 0:
            return col, 0, block_um
        col, row = col - col.min(), row - row.min()
        place = row * (int(col.max()) + 1) + col
        taken = np.bincount(place) > 0 if int(place.max()) < 4 * len(place) + 1024 else None
        if taken is None:
            distinct, number = np.unique(place, return_inverse=True)
            n_blocks = len(distinct)
        else:
            number, n_blocks = (np.cumsum(taken) - 1)[place], int(taken.sum())
        if n_blocks <= MAX_BLOCKS:
            return number, n_blocks, block_um
        block_um *= 2


def resample(sums: npt.NDArray[np.float64], *, resamples: int, seed: int = 0) -> npt.NDArray[np.float64]:
    """Sums over as many blocks as there are, drawn with replacement, `resamples` times.

    Parameters
    ----------
    sums
        (B, K) sums over each block's patches.

    Returns
    -------
    float64 (resamples, K), the same for the same seed.
    """
    rng = np.random.default_rng(seed)
    n_blocks = len(sums)
    found = np.empty((resamples, sums.shape[1]))
    step = max(1, _AT_ONCE // max(1, n_blocks))
    for first in range(0, resamples, step):
        n_draws = min(step, resamples - first)
        drawn = rng.integers(n_blocks, size=(n_draws, n_blocks)) + np.arange(n_draws)[:, None] * n_blocks
        counts = np.bincount(drawn.ravel(), minlength=n_draws * n_blocks).reshape(n_draws, n_blocks)
        found[first : first + n_draws] = counts.astype(np.float64) @ sums
    return found
