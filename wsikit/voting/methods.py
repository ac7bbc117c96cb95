"""The aggregation methods of the vote. NumPy only.

Every method is a function of sums over patches, so that a block bootstrap needs only the sums of each block, however
many patches it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.ordinal import TINIEST, log_odds_above, ordered_classes
from wsikit.voting.parameters import VoteRule

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LOG_CLIP = 1e-6
"""Minimum probability in a product of experts: otherwise one patch with p = 0 excludes a class for the whole slide."""

BINS = 256
"""Bins of the histograms that replace single patches where a bootstrap resamples ranked patches."""


class Tally(Protocol):
    """One method applied to M patches of weight > 0."""

    def point(self) -> Floats:
        """(C,) score of the whole slide."""

    def block_sums(self, block: Ints, n_blocks: int) -> Floats:
        """(n_blocks, K) sums over the patches of each block; `block` (M,) is each patch's block."""

    def score(self, sums: Floats) -> Floats:
        """(…, C) scores of (…, K) sums of such rows."""


@dataclass(frozen=True, eq=False)
class SumTally:
    """A method that is a function of weighted sums."""

    values: Floats
    """(M, K)."""
    weights: Floats
    """(M,)."""
    finish: Callable[[Floats], Floats]
    """(…, K + 1) Σ w·value, and Σ w last, to (…, C)."""

    def point(self) -> Floats:
        return self.finish(np.append(self.weights @ self.values, self.weights.sum()))

    def block_sums(self, block: Ints, n_blocks: int) -> Floats:
        columns = [np.bincount(block, self.weights * column, n_blocks) for column in self.values.T]
        return np.stack([*columns, np.bincount(block, self.weights, n_blocks)], axis=1)

    def score(self, sums: Floats) -> Floats:
        return self.finish(sums)


@dataclass(frozen=True, eq=False)
class RankTally:
    """A method that ranks the patches of each class: the k highest, or a quantile."""

    probs: Floats
    """(M, C)."""
    weights: Floats
    """(M,)."""
    k: int | None
    """Mean of the k highest; None: the quantile `q`."""
    q: float

    def point(self) -> Floats:
        rank = self._top if self.k is not None else self._quantile
        return normalised(np.array([rank(column) for column in self.probs.T]))

    def _top(self, column: Floats) -> float:
        k = min(self.k or 1, len(column))
        least = np.partition(column, len(column) - k)[len(column) - k]
        above, level = column > least, column == least
        # patches equal to the k-th highest share the remaining places, so that the order of patches does not matter
        rest = (k - above.sum()) * self.weights[level].mean()
        return float((self.weights[above] @ column[above] + rest * least) / (self.weights[above].sum() + rest))

    def _quantile(self, column: Floats) -> float:
        order = np.argsort(column, kind="stable")
        cumulative = np.cumsum(self.weights[order])
        index = np.searchsorted(cumulative, self.q * cumulative[-1] * (1 - 1e-12))
        return float(column[order[min(index, len(order) - 1)]])

    def block_sums(self, block: Ints, n_blocks: int) -> Floats:
        parts = []
        for column in self.probs.T:
            place = block * BINS + self._bins(column)
            parts.append(np.bincount(place, self.weights, n_blocks * BINS).reshape(n_blocks, BINS))
            parts.append(np.bincount(place, minlength=n_blocks * BINS).reshape(n_blocks, BINS).astype(np.float64))
        return np.concatenate(parts, axis=1)

    def score(self, sums: Floats) -> Floats:
        n_classes = self.probs.shape[1]
        found = []
        for index in range(n_classes):
            weight, count = (sums[..., (2 * index + part) * BINS :][..., :BINS] for part in (0, 1))
            values = self._bin_values(self.probs[:, index])
            found.append(self._of_bins(weight, count, values))
        return normalised(np.stack(found, axis=-1))

    def _of_bins(self, weight: Floats, count: Floats, values: Floats) -> Floats:
        if self.k is None:
            cumulative = np.cumsum(weight, axis=-1)
            place = (cumulative >= self.q * cumulative[..., -1:] * (1 - 1e-12)).argmax(axis=-1)
            return np.asarray(values[place])
        from_top = np.cumsum(count[..., ::-1], axis=-1)[..., ::-1]
        with np.errstate(invalid="ignore", divide="ignore"):
            taken = np.clip((self.k - (from_top - count)) / count, 0, 1)
        used = np.nan_to_num(taken) * weight
        return np.asarray((used @ values) / used.sum(axis=-1))

    @staticmethod
    def _bins(column: Floats) -> Ints:
        return np.minimum((column * BINS).astype(np.int64), BINS - 1)

    def _bin_values(self, column: Floats) -> Floats:
        """(BINS,) mean of the values in each bin; the bin's centre where it is empty."""
        place = self._bins(column)
        count = np.bincount(place, minlength=BINS)
        middle = (np.arange(BINS) + 0.5) / BINS
        return np.where(count > 0, np.bincount(place, column, BINS) / np.maximum(count, 1), middle)


def tally(rule: VoteRule, probs: Floats, weights: Floats) -> Tally:
    """The method of `rule` for `probs` (M, C), rows of sum 1, and `weights` (M,) > 0 whose largest is 1."""
    if rule.method == "hard":
        return SumTally(choices(probs), weights, means)
    if rule.method == "log":
        return SumTally(np.log(np.clip(probs, LOG_CLIP, 1)), weights, _geometric)
    if rule.method == "attention" and rule.pool == "log":
        return SumTally(np.log(np.clip(probs, TINIEST, 1)), weights, _geometric)
    if rule.method == "attention" and rule.pool == "ordinal":
        return SumTally(log_odds_above(probs), weights, _of_log_odds)
    if rule.method == "noisy_or":
        return SumTally(np.log1p(-np.clip(probs, 0, 1 - 1e-12)), weights, _noisy_or)
    if rule.method in ("topk", "quantile"):
        return RankTally(probs, weights, rule.k if rule.method == "topk" else None, rule.quantile)
    return SumTally(probs, weights, means)


def means(sums: Floats) -> Floats:
    """(…, K) weighted means of (…, K + 1) sums whose last entry is the sum of the weights."""
    return np.asarray(sums[..., :-1] / sums[..., -1:])


def _geometric(sums: Floats) -> Floats:
    logs = means(sums)
    return normalised(np.exp(logs - logs.max(axis=-1, keepdims=True)))


def _of_log_odds(sums: Floats) -> Floats:
    return normalised(ordered_classes(means(sums)))


def _noisy_or(sums: Floats) -> Floats:
    return normalised(-np.expm1(sums[..., :-1]))


def normalised(scores: Floats) -> Floats:
    """(…, C) divided by their sum; equal shares where all are 0."""
    total = scores.sum(axis=-1, keepdims=True)
    even = np.full_like(scores, 1 / scores.shape[-1])
    return np.asarray(np.divide(scores, total, out=even, where=total > 0), dtype=np.float64)


def choices(probs: Floats) -> Floats:
    """(M, C) each patch's hard vote: 1 for its most probable class, split evenly between equal classes.

    >>> choices(np.array([[0.7, 0.3], [0.5, 0.5]])).tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    by_class = np.ascontiguousarray(np.asarray(probs, dtype=np.float64).T)  # reduced faster along the first axis
    best = by_class == by_class.max(axis=0)
    return np.ascontiguousarray((best / best.sum(axis=0)).T)


def certainty(probs: Floats, kappa: float) -> Floats:
    """(M,) (1 − H/log C)^kappa with H the entropy over C classes: 1 for a certain patch, 0 for a uniform one.

    >>> certainty(np.array([[1.0, 0.0], [0.5, 0.5]]), kappa=1).tolist()
    [1.0, 0.0]
    """
    if probs.shape[1] == 1:
        return np.ones(len(probs))
    logs = np.log(np.where(probs > 0, probs, 1.0))
    entropy = -np.einsum("mc,mc->m", probs, logs)
    sure = np.clip(1 - entropy / math.log(probs.shape[1]), 0, None)
    # rounding gives 1e-16 for a uniform row; many such rows must not decide a slide
    sure[sure < 1e-9] = 0.0
    return np.asarray(sure**kappa)


def clinical_weights(
    tissue: npt.ArrayLike, *, alpha: float = 10.0, beta: float = 10.0, gamma: float = 0.1, double_softmax: bool = False
) -> Floats:
    """The weight of a patch by its tissue, as in CMSwinKAN's clinically guided soft vote.

    Parameters
    ----------
    tissue
        (M, 3) probabilities q of other tissue, neuropil and Schwannian stroma. Rows with a NaN: unknown.
    alpha, beta, gamma
        w = alpha·q[1] + beta·q[2], but gamma where q[0] is the largest (first of equals) or the row is unknown.
    double_softmax
        Apply a softmax to q first, as the published code does: with alpha = beta = 10 the weights of all patches with
        key tissue then lie between 6.16 and 7.88, practically a mask.

    Returns
    -------
    float64 (M,), 0 or more.

    Notes
    -----
    Zhu et al., arXiv 2504.13754, and WSI_vote.py of their code.

    >>> clinical_weights([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]).tolist()
    [10.0, 0.1]
    """
    q = np.asarray(tissue, dtype=np.float64)
    if q.ndim != 2 or q.shape[1] != 3:
        raise RequestError(
            f"key tissue of shape {q.shape}: expected (patches, 3), other tissue, neuropil and Schwannian stroma"
        )
    known = np.asarray(~np.isnan(q).any(axis=1))
    if ((q[known] < 0) | (q[known] > 1)).any():
        raise RequestError("key tissue must be probabilities between 0 and 1")
    q = np.where(known[:, None], q, (1.0, 0.0, 0.0))
    if double_softmax:
        q = np.exp(q) / np.exp(q).sum(axis=1, keepdims=True)
    return np.where(q.argmax(axis=1) == 0, gamma, alpha * q[:, 1] + beta * q[:, 2])
