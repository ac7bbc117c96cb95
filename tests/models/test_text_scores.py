"""Places and scores of texts, against slow loops and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wsikit.errors import ModelError, RequestError
from wsikit.models.text_scores import concept_places, log_odds, probabilities, similarities


def test_a_place_is_the_normalised_mean_of_the_normalised_prompts_in_any_order() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(7, 5)) * rng.uniform(0.1, 9, size=(7, 1))
    mean = np.mean([row / math.sqrt(sum(row * row)) for row in prompts], axis=0)
    expected = mean / math.sqrt(sum(mean * mean))
    for order in (slice(None), slice(None, None, -1), rng.permutation(7)):
        np.testing.assert_allclose(concept_places([prompts[order]])[0], expected, atol=1e-12)


def test_cosine_does_not_depend_on_the_length_of_a_patch_vector_and_dot_does() -> None:
    rng = np.random.default_rng(1)
    features, places = rng.normal(size=(4, 6)), concept_places([rng.normal(size=(2, 6)) for _ in range(3)])
    cosine = [[f @ p / math.sqrt(f @ f) for p in places] for f in features]
    np.testing.assert_allclose(similarities(features, places), cosine)
    np.testing.assert_allclose(similarities(10 * features, places), cosine)
    np.testing.assert_allclose(similarities(10 * features, places, similarity="dot"), 10 * features @ places.T)


def test_probabilities_are_the_softmax_also_of_large_logits_and_missing_rows_stay_missing() -> None:
    scores = np.array([[0.3, 0.1, -0.2], [np.nan, 0.1, 0.2], [1.0, -1.0, 0.0]])
    found = probabilities(scores, 5000.0 / 50)
    slow = [math.exp(100 * value) for value in scores[0]]
    np.testing.assert_allclose(found[0], np.array(slow) / sum(slow))
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(probabilities(scores, 5000.0)[2], [1, 0, 0])


@pytest.mark.parametrize(
    ("prompts", "said"), [(np.zeros((2, 3)), "no place"), (np.array([[1.0, 0], [-1.0, 0]]), "no place")]
)
def test_prompts_without_a_place_are_refused(prompts: np.ndarray, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        concept_places([prompts])


def test_features_of_another_space_are_refused() -> None:
    with pytest.raises(ModelError, match="do not share a space"):
        similarities(np.zeros((2, 3)), np.ones((1, 4)))
    with pytest.raises(RequestError, match="cosine"):
        similarities(np.zeros((2, 3)), np.ones((1, 3)), similarity="euclid")


def test_log_odds_are_those_of_the_probabilities_and_tell_saturated_ones_apart() -> None:
    scores = np.random.default_rng(0).normal(size=(5, 3))
    p = probabilities(scores, 2.0)
    np.testing.assert_allclose(log_odds(scores, 2.0), np.log(p / (1 - p)))
    sure = [[0.9, 0.1, -1.0], [0.8, 0.1, -1.0]]
    assert len(set(probabilities(sure, 100.0)[:, 0])) == 1
    np.testing.assert_allclose(log_odds(sure, 100.0)[:, 0], [80, 70])
