"""Maps of scores on the patch grid: masked smoothing, two scales, calibration, presence. NumPy; Dask for large grids.

Frame: one cell per stride of the grid; `sigma` is in cells.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid

Floats = npt.NDArray[np.float64]
Normalise = Literal["softmax", "none", "quantile", "minmax"]
NORMALISATIONS: tuple[str, ...] = get_args(Normalise)

SIGMA = 1.5
"""Standard deviation of the smoothing where one is asked for, cells."""
MAP_SIGMA = 0.0
"""Default of maps: none. Patches of 112 µm are large next to foci of necrosis and blood, and on synthetic slides of
known truth every smoothing made the maps worse."""
REACH = 4.0
"""The kernel ends at this many standard deviations."""
CHUNK_CELLS = 1024
"""Side of a chunk; grids up to this size are smoothed at once."""
MIXTURE_STEPS = 1001
"""Places between two means at which the threshold of a mixture may lie."""
TOP_SHARE, TOP_LEAST = 0.01, 4
"""The presence score is the mean over this share of the patches, at least over so many."""


def smooth_cells(
    values: npt.NDArray[np.floating],
    mask: npt.NDArray[np.bool_],
    sigma: float = SIGMA,
    *,
    chunk: int = CHUNK_CELLS,
) -> Floats:
    """Masked, normalised smoothing G(v · m) / G(m), with a Gaussian G of `sigma` cells.

    Cells outside of the mask have no weight, so a constant map stays constant up to the border of the tissue.

    Parameters
    ----------
    values, mask
        (h, w). Values outside of the mask are ignored; they may be NaN.
    sigma
        Cells; 0: no smoothing.
    chunk
        Side of the parts that larger maps are smoothed in, each with a halo of ceil(4 sigma) cells.

    Returns
    -------
    float64 (h, w), NaN outside of the mask.

    >>> smooth_cells(np.array([[1.0, np.nan, 1.0]]), np.array([[True, False, True]])).round(6).tolist()
    [[1.0, nan, 1.0]]
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise RequestError(f"sigma {sigma}: expected 0 or more cells")
    inside = np.asarray(mask, dtype=bool)
    filled = np.where(inside, np.asarray(values, dtype=np.float64), 0.0)
    if sigma == 0 or not inside.any():
        return np.where(inside, filled, np.nan)
    if max(inside.shape) <= chunk:
        return np.asarray(_smooth(np.stack([filled, inside.astype(np.float64)]), sigma)[0])
    import dask.array as da

    halo = halo_cells(sigma)
    side = max(chunk, halo)  # a halo reaches into the next chunk only
    stack = np.stack([filled, inside.astype(np.float64)])
    pair = da.from_array(stack, chunks=(2, side, side))  # type: ignore[no-untyped-call]
    depth = {0: 0, 1: halo, 2: halo}
    found = da.map_overlap(  # type: ignore[no-untyped-call]
        _smooth, pair, depth=depth, boundary=0.0, dtype=np.float64, sigma=sigma
    )
    return np.asarray(found[0].compute(scheduler="threads"))


def halo_cells(sigma: float) -> int:
    """Cells on either side that a smoothed cell depends on.

    >>> halo_cells(1.5)
    6
    """
    return math.ceil(REACH * sigma)


def smooth_patches(
    values: npt.NDArray[np.floating], grid: PatchGrid, coords: npt.NDArray[np.int64], sigma: float = SIGMA
) -> Floats:
    """`smooth_cells` of the patches of a table: (N,) values, NaN where there is none, which stay NaN.

    Raises
    ------
    RequestError
        The patches are not on a regular grid, and sigma is not 0.
    """
    found = np.array(values, dtype=np.float64)
    if sigma == 0 or not len(found):
        return found
    if not grid.anchored:
        raise RequestError(f"patches of {grid.name} lie in no columns and rows: give --sigma 0 (no smoothing)")
    rows, cols, shape = _cells(grid, coords)
    field, mask = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    field[rows, cols] = found
    mask[rows, cols] = np.isfinite(found)
    return np.asarray(smooth_cells(field, mask, sigma)[rows, cols])


def upsample(
    values: npt.NDArray[np.floating],
    grid: PatchGrid,
    coords: npt.NDArray[np.int64],
    places: npt.NDArray[np.floating],
) -> Floats:
    """A coarse grid's values at other places of the slide, bilinear between the centres of its patches.

    Parameters
    ----------
    values, grid, coords
        (N,) values of the coarse patches, and where they are. Patches without a value have no weight.
    places
        (M, 2) x, y, level-0 px: the centres of the fine patches.

    Returns
    -------
    float64 (M,); NaN where none of the four coarse patches around has a value.
    """
    if not len(values):
        return np.full(len(places), np.nan)
    rows, cols, shape = _cells(grid, coords)
    field = np.zeros((2, shape[0] + 2, shape[1] + 2))
    known = np.isfinite(values)
    field[0, rows[known] + 1, cols[known] + 1] = np.asarray(values, dtype=np.float64)[known]
    field[1, rows[known] + 1, cols[known] + 1] = 1.0
    corner = np.array([coord.min() for coord in grid.index_of(coords)])
    at = (np.asarray(places, dtype=np.float64) - np.asarray(grid.side) / 2) / np.asarray(grid.stride) - corner + 1
    x = np.clip(at[:, 0], 0, shape[1] + 1 - 1e-9)
    y = np.clip(at[:, 1], 0, shape[0] + 1 - 1e-9)
    col, row = x.astype(np.int64), y.astype(np.int64)
    total = np.zeros((2, len(x)))
    for down in (0, 1):
        for right in (0, 1):
            weight = np.where(down, y - row, 1 - (y - row)) * np.where(right, x - col, 1 - (x - col))
            total += weight * field[:, row + down, col + right]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total[1] > 1e-9, total[0] / total[1], np.nan)


def combine(fine: npt.NDArray[np.floating], coarse: npt.NDArray[np.floating], coarse_weight: float = 0.5) -> Floats:
    """Weighted mean of two scales; where the coarse one has no value, the fine one alone. NaN where `fine` is NaN."""
    if not 0 <= coarse_weight <= 1:
        raise RequestError(f"weight {coarse_weight} of the coarse grid: expected 0 to 1")
    both = (1 - coarse_weight) * np.asarray(fine, dtype=np.float64) + coarse_weight * np.asarray(coarse, np.float64)
    return np.where(np.isfinite(coarse), both, np.asarray(fine, dtype=np.float64))


def rescale(
    values: npt.NDArray[np.floating], normalise: str, reference: npt.NDArray[np.floating] | None = None
) -> Floats:
    """Calibrate the similarities of one concept.

    Parameters
    ----------
    normalise
        "none": as they are. "quantile": the share of a cohort's patches with a lower value, by `reference`. "minmax":
        from -1 at the slide's least to 1 at its greatest value, as the code of AFLoc has it: a slide without the
        concept then gets a maximum of 1 like any other, so it is for comparisons with that code only.
    reference
        Quantiles of the cohort, increasing, at equal steps from 0 to 1.

    >>> rescale(np.array([0.1, 0.2, 0.3]), "minmax").round(6).tolist()
    [-1.0, 0.0, 1.0]
    >>> rescale(np.array([0.1, 0.25, 9.0]), "quantile", np.array([0.1, 0.2, 0.3])).round(6).tolist()
    [0.0, 0.75, 1.0]
    """
    found = np.asarray(values, dtype=np.float64)
    if normalise == "none":
        return found
    if normalise == "minmax":
        known = found[np.isfinite(found)]
        low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        return 2 * (found - low) / (high - low) - 1 if high > low else np.where(np.isfinite(found), 0.0, np.nan)
    if normalise == "quantile":
        quantiles = np.asarray([] if reference is None else reference, dtype=np.float64)
        if len(quantiles) < 2 or not np.isfinite(quantiles).all() or (np.diff(quantiles) < 0).any():
            raise RequestError("quantile: needs a cohort's quantiles, two or more increasing numbers")
        share = np.interp(found, quantiles, np.linspace(0, 1, len(quantiles)))
        return np.where(np.isfinite(found), share, np.nan)
    raise RequestError(f"normalise {normalise!r}: choose one of {', '.join(NORMALISATIONS)}")


def presence(values: npt.NDArray[np.floating]) -> float:
    """How surely a concept is anywhere on a slide: the mean of the highest smoothed probabilities.

    The highest are 1 % of the patches with a value, at least 4 (all, where there are fewer). NaN without any.

    >>> presence(np.array([0.9, 0.7, 0.8, 0.6, 0.1]))
    0.75
    """
    known = np.sort(np.asarray(values, dtype=np.float64)[np.isfinite(values)])
    if not len(known):
        return float("nan")
    count = min(len(known), max(TOP_LEAST, math.ceil(TOP_SHARE * len(known))))
    return round(float(known[-count:].mean()), 12)


def _cells(
    grid: PatchGrid, coords: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[int, int]]:
    """Row and column of each patch in the box around all of them, and its shape."""
    cols, rows = grid.index_of(coords)
    cols, rows = cols - cols.min(), rows - rows.min()
    return rows, cols, (int(rows.max()) + 1, int(cols.max()) + 1)


def _smooth(pair: Floats, sigma: float) -> Floats:
    """(2, h, w) values times mask, and mask: the normalised values twice, so that shapes stay; NaN outside."""
    blurred = pair
    radius = halo_cells(sigma)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    for axis in (1, 2):
        padded = np.moveaxis(np.pad(blurred, [(radius, radius) if i == axis else (0, 0) for i in range(3)]), axis, 0)
        size = blurred.shape[axis]
        total = np.zeros((size, *padded.shape[1:]))
        for shift, weight in enumerate(kernel):
            total += weight * padded[shift : shift + size]
        blurred = np.moveaxis(total, 0, axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(pair[1] > 0, blurred[0] / blurred[1], np.nan)
    return np.stack([found, found])


def mixture_threshold(values: npt.NDArray[np.floating], *, seed: int = 0) -> float:
    """The threshold (a cell is positive from it on) between two normal distributions fitted to values: no truth is
    needed. From it on up to the mean of the higher one, a value belongs more probably to this one.

    Values, of any shape, should be unbounded, such as log odds: probabilities near 0 and 1 are no normal distributions.
    Shares of the two are fitted as well, unlike by Otsu's threshold, which divides a long tail of one group into two.
    NaN are left out; inf, so that no cell is positive, where all values are equal. It divides any values, also those of
    slides without the concept.

    >>> values = np.concatenate([np.linspace(-9, -7, 90), np.linspace(1, 3, 10)])
    >>> -7 < mixture_threshold(values) < 1
    True
    """
    from sklearn.mixture import GaussianMixture

    known = np.asarray(values, dtype=np.float64)[np.isfinite(values)]
    if len(np.unique(known)) < 2:
        return math.inf
    # the best of several starts: from one alone the fit often divides the larger group
    mixture = GaussianMixture(2, init_params="k-means++", n_init=10, max_iter=500, random_state=seed)
    fitted = mixture.fit(known[:, None])
    low, high = np.argsort(fitted.means_[:, 0])
    between = np.linspace(fitted.means_[low, 0], fitted.means_[high, 0], MIXTURE_STEPS)
    others = np.flatnonzero(fitted.predict_proba(between[:, None])[:, high] < 0.5)  # where the lower one rules
    return float(between[min(others[-1] + 1, MIXTURE_STEPS - 1)] if len(others) else between[0])
