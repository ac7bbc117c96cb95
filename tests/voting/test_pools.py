"""Pools of the vote by attention."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.ordinal import log_odds_above, ordered_classes
from wsikit.voting import VoteParameters, VoteRule, vote
from wsikit.voting.parameters import parameters_for
from wsikit.voting.vote import Evidence

PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
WEIGHTS = np.array([0.5, 0.2, 0.3])


def pooled(pool: str, probs: np.ndarray = PROBS, weights: np.ndarray = WEIGHTS) -> np.ndarray:
    rule = VoteRule("attention", pool=pool, min_patches=1, resamples=0)
    return vote(probs, rule, evidence=Evidence(attention=weights)).probs


def test_logarithms_are_averaged():
    expected = np.exp(WEIGHTS @ np.log(PROBS))
    np.testing.assert_allclose(pooled("log"), expected / expected.sum())


def test_log_odds_of_higher_classes_are_averaged():
    above = np.stack([PROBS[:, 1:].sum(axis=1), PROBS[:, 2]], axis=1)
    z = WEIGHTS @ np.log(above / (1 - above))
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(pooled("ordinal"), [1 - p[0], p[0] - p[1], p[1]])


def test_for_two_classes_both_are_the_same():
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    np.testing.assert_allclose(pooled("log", probs, WEIGHTS[:2]), pooled("ordinal", probs, WEIGHTS[:2]))


def test_the_mean_stays_the_default():
    np.testing.assert_allclose(pooled("mean"), WEIGHTS @ PROBS)
    assert "pool" not in VoteParameters("attention").to_json()


def test_tiny_probabilities_are_not_rounded_up():
    probs = np.array([[1 - 1e-20, 1e-20], [1 - 1e-20, 1e-20]])
    assert pooled("log", probs, np.ones(2))[1] == pytest.approx(1e-20, rel=1e-6)


def test_ordered_classes_are_the_inverse_of_their_log_odds():
    np.testing.assert_allclose(ordered_classes(log_odds_above(PROBS)), PROBS, rtol=1e-12)


def test_an_unknown_pool_is_refused():
    with pytest.raises(RequestError, match="pool 'median' is not known"):
        VoteRule(pool="median")


def test_the_vote_of_a_model_is_used_where_its_method_is_asked_for():
    own = {"method": "attention", "pool": "log", "weights": [], "min_patches": 1.0}
    assert parameters_for(None, own).weights == ()
    assert parameters_for("attention", own).min_patches == 1
    assert parameters_for("mean", own) == VoteParameters("mean")
    assert parameters_for(None, None) == VoteParameters()
