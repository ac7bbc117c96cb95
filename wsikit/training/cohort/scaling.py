"""What is fitted on the training part and applied to all others: z-scores, choice of columns, principal components,
time bins. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.protocol import UNKNOWN, Part

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Choice = Literal["variance", "univariate"]

CLIP = 8.0
"""Standard deviations at which z-scores end: one outlier of a small table must not decide a fit."""

BINS = 4
"""Time bins of discrete survival, as in MCAT and SurvPath."""


@dataclass(frozen=True)
class ColumnScaler:
    """Medians, means and standard deviations of the columns that are kept."""

    kept: npt.NDArray[np.int64]
    """Indices of the columns that are used, (K,), ascending."""
    median: Doubles
    """(K,); replaces what was not measured."""
    mean: Doubles
    std: Doubles
    """(K,), above 0."""

    def transform(self, values: npt.NDArray[np.floating]) -> Floats:
        """z-scores of the kept columns, (N, D) to float32 (N, K), without NaN.

        Raises
        ------
        RequestError
            If there are fewer columns than at the fit.
        """
        if values.ndim != 2 or values.shape[1] <= self.kept.max(initial=-1):
            raise RequestError(f"columns: {values.shape} given; fitted on {int(self.kept.max()) + 1} or more columns.")
        chosen = np.asarray(values, dtype=np.float64)[:, self.kept]
        filled = np.where(np.isfinite(chosen), chosen, self.median)
        return np.clip((filled - self.mean) / self.std, -CLIP, CLIP).astype(np.float32)


def fit_columns(
    values: npt.NDArray[np.floating], *, most: int | None = None, by: Choice = "variance", part: Part | None = None
) -> ColumnScaler:
    """Fit z-scores on the training part; columns that are constant or never measured there are left out.

    Parameters
    ----------
    values : float (N, D)
        Of the training part; NaN: not measured. Missing values are filled with the median.
    most
        Number of columns to keep where there are more; default: all.
    by
        "variance": those of the largest variance. "univariate": those most related to the outcome of `part`, by the
        score test of a Cox model with one column, or the F test between the classes where there is no follow-up.
    part
        The training part, for "univariate".

    Raises
    ------
    RequestError
        If no column varies.

    >>> scaler = fit_columns(np.array([[0.0, 5.0, 1.0], [2.0, 5.0, np.nan], [4.0, 5.0, 3.0]]))
    >>> scaler.kept, scaler.transform(np.array([[2.0, 5.0, np.nan]]))
    (array([0, 2]), array([[0., 0.]], dtype=float32))
    """
    table = np.asarray(values, dtype=np.float64)
    measured = np.isfinite(table)
    kept = np.flatnonzero(measured.any(axis=0))
    median = np.nanmedian(np.where(measured, table, np.nan)[:, kept], axis=0)
    filled = np.where(measured[:, kept], table[:, kept], median)
    mean, std = filled.mean(axis=0), filled.std(axis=0)
    varies = std > 1e-12 * np.maximum(1.0, np.abs(mean))
    if not varies.any():
        raise RequestError(f"columns: none of {table.shape[1]} varies among the {len(table)} patients of the training.")
    scaler = ColumnScaler(kept[varies], median[varies], mean[varies], std[varies])
    if most is None or most >= len(scaler.kept):
        return scaler
    if by == "variance":
        worth = scaler.std
    elif part is None:
        raise RequestError("univariate choice of columns: the outcome of the training part is needed (part=).")
    else:
        worth = univariate(scaler.transform(table), part)
    chosen = np.sort(np.argsort(-worth, kind="stable")[:most])
    return ColumnScaler(scaler.kept[chosen], scaler.median[chosen], scaler.mean[chosen], scaler.std[chosen])


def univariate(z: npt.NDArray[np.floating], part: Part) -> Doubles:
    """How strongly each column is related to the outcome, (K,): the higher the stronger.

    Squared score statistic U²/V of a Cox model with this column alone (at 0; equal times as Breslow), or the F
    statistic of one-way analysis of variance between the classes.
    """
    table = np.asarray(z, dtype=np.float64)
    if part.time is not None and part.event is not None:
        known = np.isfinite(part.time)
        time, event, table = part.time[known], part.event[known], table[known]
        order = np.argsort(-time, kind="stable")
        sums, squares = np.cumsum(table[order], axis=0), np.cumsum(table[order] ** 2, axis=0)
        last = np.searchsorted(-time[order], -time[order], side="right") - 1  # the last row still at risk at this time
        at_risk = (last + 1)[:, None]
        mean = sums[last] / at_risk
        variance = squares[last] / at_risk - mean**2
        died = event[order][:, None]
        score, information = ((table[order] - mean) * died).sum(axis=0), (variance * died).sum(axis=0)
        return np.asarray(score**2 / np.maximum(information, 1e-12))
    if part.labels is None:
        raise RequestError("univariate choice of columns: the patients have neither follow-up nor labels.")
    from sklearn.feature_selection import f_classif

    known = part.labels != UNKNOWN
    return np.asarray(np.nan_to_num(f_classif(table[known], part.labels[known])[0]))


@dataclass(frozen=True)
class Components:
    """Principal components of z-scores."""

    scaler: ColumnScaler
    axes: Doubles
    """(K, P), each component's standard deviation is 1 on the training part."""

    def transform(self, values: npt.NDArray[np.floating]) -> Floats:
        """(N, D) to float32 (N, P)."""
        return (self.scaler.transform(values) @ self.axes).astype(np.float32)


def fit_components(values: npt.NDArray[np.floating], n: int) -> Components:
    """The first `n` principal components (fewer if the table has fewer) of the z-scores of the training part.

    Signs are fixed (the largest loading of each is positive), so equal tables give equal components.
    """
    scaler = fit_columns(values)
    z = scaler.transform(values).astype(np.float64)
    z = z - z.mean(axis=0)
    _, singular, axes = np.linalg.svd(z, full_matrices=False)
    used = int(min(n, (singular > 1e-8 * singular[0]).sum()))
    axes, singular = axes[:used].T, singular[:used]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(used)])
    return Components(scaler, axes * signs / (singular / np.sqrt(len(z))))


def enough_for_bins(time: Doubles, event: npt.NDArray[np.bool_], n: int) -> bool:
    """Whether `time_cuts` finds the borders of `n` bins.

    >>> enough_for_bins(np.array([1.0, 2.0, 9.0]), np.array([True, True, False]), 4)
    False
    """
    return _cuts_if_different(time[np.isfinite(time) & event], n) is not None


def _cuts_if_different(uncensored: Doubles, n: int) -> Doubles | None:
    if len(uncensored) < n:
        return None
    cuts = np.quantile(uncensored, np.arange(1, n) / n)
    return np.asarray(cuts) if len(np.unique(cuts)) == n - 1 and cuts[0] > uncensored.min() else None


def time_cuts(time: Doubles, event: npt.NDArray[np.bool_], n: int = BINS) -> Doubles:
    """Inner borders of `n` time bins, (n − 1,): quantiles of the uncensored times of the training part, all different.

    Raises
    ------
    RequestError
        If the events have too few different times for so many bins.

    >>> time_cuts(np.array([1.0, 2.0, 3.0, 4.0, 9.0]), np.array([True, True, True, True, False]), 2)
    array([2.5])
    """
    known = np.isfinite(time) & event
    cuts = _cuts_if_different(time[known], n)
    if cuts is not None:
        return cuts
    raise RequestError(
        f"time bins: {int(known.sum())} events with {len(np.unique(time[known]))} different times in the training part "
        f"are too few for {n} bins; set fewer, or use the Cox loss."
    )


def time_bin(time: Doubles, cuts: Doubles) -> npt.NDArray[np.int64]:
    """Bin of each time: the number of borders at or below it.

    >>> time_bin(np.array([0.5, 2.5, 9.0]), np.array([2.5]))
    array([0, 1, 1])
    """
    return np.searchsorted(cuts, time, side="right").astype(np.int64)
