"""Block bootstrap: how much a slide's result depends on which part of the tissue is on the slide. NumPy only.

Neighbouring patches are correlated, so resampling single patches would give intervals that are far too narrow: square
blocks of tissue are resampled.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid

MIN_BLOCKS = 5
"""With fewer blocks there is no interval: they say nothing about how blocks differ."""
MAX_BLOCKS = 4096
"""Beyond this the blocks are made larger; this bounds time and memory."""

_AT_ONCE = 1 << 22  # block draws held in memory at a time


def blocks_of(
    grid: PatchGrid, coords: npt.NDArray[np.int64], block_um: float
) -> tuple[npt.NDArray[np.int64], int, float]:
    """The block of each patch, by the patch's centre.

    Parameters
    ----------
    coords
        int64 (N, 2) top-left corners, level-0 px.
    block_um
        Side of the blocks, µm, counted from level-0 (0, 0); doubled until there are at most `MAX_BLOCKS`.

    Returns
    -------
    int64 (N,) block numbers from 0, the number of blocks, and the side that was used, µm.

    >>> grid = PatchGrid((400, 400), (0.5, 0.5), 100, 0.5)
    >>> blocks_of(grid, np.array([[0, 0], [100, 0], [300, 0]]), 100.0)
    (array([0, 0, 1]), 2, 100.0)
    """
    middles_um = [(coords[:, axis] + grid.side[axis] / 2) * grid.slide_mpp[axis] for axis in (0, 1)]
    while True:
        col, row = (np.floor(middle_um / block_um).astype(np.int64) for middle_um in middles_um)
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
    """Sums over B blocks drawn with replacement, `resamples` times.

    Parameters
    ----------
    sums
        (B, K) sums over each block's patches.

    Returns
    -------
    float64 (resamples, K), the same for the same seed.

    >>> resample(np.ones((5, 1)), resamples=2).tolist()
    [[5.0], [5.0]]
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
