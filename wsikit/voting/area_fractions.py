"""Area fractions of a slide with confidence intervals by block bootstrap, and connected regions of patches. NumPy only.

Neighbouring patches are correlated, so resampling single patches would underestimate the variance: square blocks of
tissue are resampled instead.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_BLOCKS = 8
"""With fewer blocks there is no interval: the resamples would be nearly the same."""
MAX_BLOCKS = 4096
"""The block side is doubled until there are at most this many blocks; this bounds the time."""
_DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class Share:
    """A fraction of a slide with its confidence interval.

    >>> str(Share(0.25, 0.2, 0.3, blocks=12))
    '25.0 % [20.0, 30.0]'
    """

    value: float
    """0 to 1."""
    low: float | None
    """Lower end of the 95 % interval; None where there are too few blocks."""
    high: float | None
    blocks: int
    """Blocks in which the denominator is above 0."""

    def interval_contains(self, limit: float) -> bool:
        """Whether `limit` lies within the interval."""
        return self.low is not None and self.high is not None and self.low <= limit <= self.high

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{100 * self.value:.1f} % (no interval: {self.blocks} blocks)"
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def share_of(
    part: Floats, whole: Floats, cells: npt.NDArray[np.int64], *, block: int, draws: int = 1000, seed: int = 0
) -> Share | None:
    """Σ part / Σ whole with its interval; blocks of `block` × `block` patches are drawn with replacement.

    Parameters
    ----------
    part, whole
        (N,), 0 or more; a row with a NaN in either is left out.
    cells
        (N, 2), column and row in the patch grid.

    Returns
    -------
    Share, or None where the whole is 0.

    >>> cells = np.array([[0, 0], [1, 0], [2, 0]])
    >>> share_of(np.array([1.0, 0, 0]), np.ones(3), cells, block=1).value
    0.3333333333333333
    """
    known = np.isfinite(part) & np.isfinite(whole) & (whole > 0)
    if not known.any():
        return None
    part, whole = part[known], whole[known]
    block_of = _blocks(cells[known], block)
    parts, wholes = np.bincount(block_of, part), np.bincount(block_of, whole)
    value, n = float(parts.sum() / wholes.sum()), len(wholes)
    if n < MIN_BLOCKS:
        return Share(value, None, None, n)
    rng = np.random.default_rng(seed)
    drawn = []
    for first in range(0, draws, _DRAWS_AT_ONCE):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(_DRAWS_AT_ONCE, draws - first)).astype(np.float64)
        drawn.append((times @ parts) / (times @ wholes))
    low, high = np.quantile(np.concatenate(drawn), (0.025, 0.975))
    return Share(value, float(low), float(high), n)


def _blocks(cells: npt.NDArray[np.int64], block: int) -> npt.NDArray[np.int64]:
    """(N,) number of each cell's block, from 0 without gaps; at most `MAX_BLOCKS` blocks."""
    square = cells // block
    square = square - square.min(axis=0)
    keys, number = np.unique(square[:, 1] * (square[:, 0].max() + 1) + square[:, 0], return_inverse=True)
    return number if len(keys) <= MAX_BLOCKS else _blocks(cells, 2 * block)


def block_patches(block_mm: float, pitch_mm: float) -> int:
    """Side of a block in patches, at least one."""
    return max(1, round(block_mm / pitch_mm))


def connected(cells: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number of the connected region of each chosen patch, (N,); -1 for the others. Edges or corners connect.

    Regions are numbered by their first patch in row-major order of the grid.

    >>> connected(np.array([[0, 0], [1, 1], [5, 0]]), np.ones(3, bool)).tolist()
    [0, 0, 1]
    """
    rows = np.flatnonzero(chosen)
    found = np.full(len(cells), -1, dtype=np.int64)
    if not len(rows):
        return found
    places = cells[rows] - cells[rows].min(axis=0)
    width = int(places[:, 0].max()) + 3  # an empty column on either side, so that rows stay separate
    keys = places[:, 1] * width + places[:, 0] + 1
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    pairs = [_neighbours(keys, step) for step in (1, width - 1, width, width + 1)]
    one, other = (np.concatenate(side) for side in zip(*pairs))
    root = np.arange(len(keys))
    while True:
        lower = np.minimum(root[one], root[other])
        before = root.copy()
        np.minimum.at(root, root[one], lower)
        np.minimum.at(root, root[other], lower)
        for _ in range(math.ceil(math.log2(len(root) + 1)) + 1):
            root = root[root]
        if (root == before).all():
            break
    found[rows[order]] = np.unique(root, return_inverse=True)[1].ravel()
    return found


def _neighbours(keys: npt.NDArray[np.int64], step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions in the sorted `keys` whose value plus `step` is also a key, and the positions of those keys."""
    at = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
    here = np.flatnonzero(keys[at] == keys + step)
    return here, at[here]
