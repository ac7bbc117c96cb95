"""Shares of a slide with intervals by spatial blocks, and connected regions of patches. NumPy only.

Neighbouring patches are alike, so that patches drawn one by one would feign certainty: squares of tissue are drawn.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MIN_BLOCKS = 8
"""Fewer squares give no interval: so few draws would only repeat each other."""
MAX_BLOCKS = 4096
"""Squares are doubled until there are no more: it bounds time, and costs no certainty that was there."""
_DRAWS_AT_ONCE = 64


@dataclass(frozen=True)
class Share:
    """A share of a slide."""

    value: float
    """0 to 1."""
    low: float | None
    """Ends of the 95 % interval; None where there are too few blocks for one."""
    high: float | None
    blocks: int
    """Squares with anything of the denominator in them."""

    def reaches_over(self, limit: float) -> bool:
        """Whether the interval holds `limit` within."""
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
    """Σ part / Σ whole with its interval, squares of `block` × `block` patches drawn with replacement.

    Parameters
    ----------
    part, whole
        (N,), 0 or more; a row with a NaN in either is left out.
    cells
        (N, 2), column and row.

    Returns
    -------
    Share, or None where the whole is 0.
    """
    told = np.isfinite(part) & np.isfinite(whole) & (whole > 0)
    if not told.any():
        return None
    part, whole = part[told], whole[told]
    block_of = _squares(cells[told], block)
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


def _squares(cells: npt.NDArray[np.int64], block: int) -> npt.NDArray[np.int64]:
    """(N,) number of each cell's square, from 0 on without gaps; `MAX_BLOCKS` squares at most."""
    square = cells // block
    square = square - square.min(axis=0)
    keys, number = np.unique(square[:, 1] * (square[:, 0].max() + 1) + square[:, 0], return_inverse=True)
    return number if len(keys) <= MAX_BLOCKS else _squares(cells, 2 * block)


def block_patches(block_mm: float, pitch_mm: float) -> int:
    """Side of a block in patches, at least one."""
    return max(1, round(block_mm / pitch_mm))


def connected(cells: npt.NDArray[np.int64], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number of the connected region (edges or corners touching) of each chosen patch, (N,); -1 of the others.

    Regions are numbered by their first patch in row-major order of the grid.

    >>> connected(np.array([[0, 0], [1, 1], [5, 0]]), np.ones(3, bool)).tolist()
    [0, 0, 1]
    """
    rows = np.flatnonzero(chosen)
    found = np.full(len(cells), -1, dtype=np.int64)
    if not len(rows):
        return found
    places = cells[rows] - cells[rows].min(axis=0)
    width = int(places[:, 0].max()) + 3  # a free column at either side, so that no row runs on into the next
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
    """Positions of those keys, sorted, that have one `step` further, and of these."""
    at = np.minimum(np.searchsorted(keys, keys + step), len(keys) - 1)
    here = np.flatnonzero(keys[at] == keys + step)
    return here, at[here]
