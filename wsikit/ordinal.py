"""Probabilities of ordered classes and the log odds of "higher than class k", both ways. NumPy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TINIEST = float(np.finfo(np.float32).tiny)
"""Least probability whose logarithm is pooled: columns are stored as float32."""


def log_odds_above(probs: Floats) -> Floats:
    """(M, C - 1) log odds that the class is higher than class k of C ordered classes.

    >>> log_odds_above(np.array([[0.5, 0.25, 0.25]])).round(3).tolist()
    [[0.0, -1.099]]
    """
    up_to = np.cumsum(probs, axis=1)[:, :-1]
    above = np.cumsum(probs[:, ::-1], axis=1)[:, ::-1][:, 1:]  # summed from above: 1 - up_to would lose the small ones
    return np.asarray(np.log(np.maximum(above, TINIEST)) - np.log(np.maximum(up_to, TINIEST)))


def ordered_classes(log_odds: Floats) -> Floats:
    """(…, C) probabilities of ordered classes from (…, C - 1) log odds of "higher than class k".

    P(class k) = σ(z of k - 1) − σ(z of k), with z of −1 infinite; where z increases with k, which no model of ordered
    classes gives, the class has probability 0. Written as a product, so that small probabilities keep their digits.

    >>> ordered_classes(np.array([0.0, -1.0986122886681098])).round(3).tolist()
    [0.5, 0.25, 0.25]
    """
    z = np.asarray(log_odds, dtype=np.float64)
    edge = np.full((*z.shape[:-1], 1), np.inf)
    upper, lower = np.concatenate([edge, z], axis=-1), np.concatenate([z, -edge], axis=-1)
    # σ(u) − σ(l) = σ(u) σ(−l) (1 − exp(l − u))
    found = _sigmoid(upper) * _sigmoid(-lower) * -np.expm1(np.minimum(lower - upper, 0.0))
    return np.asarray(found)


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -z)))
