"""Bayes' rule between class frequencies: against closed forms, in a vote, and only where they are recorded."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.voting import SlidePatches, SlideResult, VoteParameters, vote_slide
from wsikit.voting.prior import ModelPrior, PriorShift, parse_prior, prior_shift

CODES = ("benign", "IDC")
BALANCED = ModelPrior((0.8, 0.2), balanced=True)


def posterior(x: np.ndarray, frequency: float) -> np.ndarray:
    """p(IDC | x) where x is normal with mean 0 for benign and 1 for IDC, unit variance."""
    odds = frequency / (1 - frequency) * np.exp(x - 0.5)
    return odds / (1 + odds)


def two(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)


def test_a_posterior_of_a_balanced_world_becomes_that_of_the_training_world():
    x = np.linspace(-3, 4, 50)
    shift = prior_shift("auto", CODES, BALANCED)
    assert shift is not None
    np.testing.assert_allclose(shift.apply(two(posterior(x, 0.5)))[:, 1], posterior(x, 0.2), rtol=1e-12)


def test_any_frequencies_can_be_stated_and_a_shift_is_undone_by_its_opposite():
    x = np.linspace(-3, 4, 50)
    shift = prior_shift("IDC=0.05, benign=0.95", CODES, BALANCED)
    assert shift is not None
    np.testing.assert_allclose(shift.apply(two(posterior(x, 0.5)))[:, 1], posterior(x, 0.05), rtol=1e-12)
    plain = ModelPrior((0.8, 0.2), balanced=False)
    back = prior_shift("balanced", CODES, plain)
    assert back is not None
    np.testing.assert_allclose(back.apply(two(posterior(x, 0.2)))[:, 1], posterior(x, 0.5), rtol=1e-12)


@pytest.mark.parametrize(
    ("asked", "model"),
    [
        ("auto", ModelPrior()),
        ("auto", ModelPrior((0.8, 0.2), balanced=False)),
        ("training", ModelPrior((0.8, 0.2), balanced=False)),
        ("balanced", BALANCED),
        ("benign=0.5,IDC=0.5", BALANCED),
    ],
)
def test_where_frequencies_are_those_assumed_nothing_is_changed(asked: str, model: ModelPrior):
    assert prior_shift(asked, CODES, model) is None


@pytest.mark.parametrize("asked", ["training", "balanced", "benign=0.9,IDC=0.1"])
def test_a_model_that_records_no_frequencies_is_not_corrected_by_a_guess(asked: str):
    with pytest.raises(RequestError, match="does not record the class frequencies"):
        prior_shift(asked, CODES, ModelPrior())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("even", "expected training, balanced or"),
        ("benign=0.9", "sum to 0.9"),
        ("benign=1.2,IDC=-0.2", "above 0"),
        ("benign=nan,IDC=0.5", "above 0"),
        ("benign=0.5,benign=0.5", "expected training"),
    ],
)
def test_a_prior_that_is_none_is_refused(text: str, said: str):
    with pytest.raises(RequestError, match=said):
        parse_prior(text)
    with pytest.raises(RequestError, match=said):
        VoteParameters(prior=text)


def test_a_stated_prior_names_every_class_of_the_model():
    with pytest.raises(RequestError, match="every class of the model: benign, IDC"):
        prior_shift("benign=0.5,DCIS=0.5", CODES, BALANCED)


def test_rows_without_prediction_stay_so_and_impossible_rows_are_kept():
    shift = PriorShift(CODES, (0.5, 0.5), (1.0, 0.0), "training")
    found = shift.apply(np.array([[np.nan, np.nan], [0.0, 1.0], [0.5, 0.5]]))
    assert np.isnan(found[0]).all()
    assert found[1:].tolist() == [[0.0, 1.0], [1.0, 0.0]]


def patches(prior: ModelPrior, n: int = 400, share: float = 0.3) -> SlidePatches:
    """A slide with a share of IDC, classified by the posterior of a balanced world."""
    rng = np.random.default_rng(0)
    grid = PatchGrid((20 * 100, (n // 20) * 100), (0.5, 0.5), 100, 0.5)
    truth = np.arange(n) < share * n
    probs = two(posterior(rng.normal(truth, 1), 0.5))
    return SlidePatches(probs, CODES, (), grid, grid.all_coords(), prior=prior)


def test_a_slide_is_voted_with_the_corrected_probabilities_and_the_result_says_so():
    world = ModelPrior((0.7, 0.3), balanced=True)
    plain, corrected = vote_slide(patches(ModelPrior())), vote_slide(patches(world))
    assert abs(plain.probs[1] - 0.3) > 0.05  # equal frequencies overestimate the rarer class
    assert corrected.probs[1] == pytest.approx(0.3, abs=0.02)
    assert plain.prior is None
    assert corrected.prior is not None
    assert "those of the training patches (benign 0.7, IDC 0.3)" in corrected.prior.words()
    back = SlideResult.from_json(json.loads(json.dumps(corrected.to_json())))
    assert back.prior == corrected.prior
    assert vote_slide(patches(world), VoteParameters(prior="balanced")).probs[1] == pytest.approx(plain.probs[1])


def test_the_prior_is_applied_before_background_is_split_off():
    rows = np.tile([0.3, 0.3, 0.4], (30, 1))
    grid = PatchGrid((3000, 100), (0.5, 0.5), 100, 0.5)
    world = ModelPrior((0.1, 0.1, 0.8), balanced=True)
    slide = SlidePatches(rows, ("a", "b", "other"), ("other",), grid, grid.all_coords(), prior=world)
    assert vote_slide(slide).n_background == 30  # 0.32 of 0.38 is background now
    assert vote_slide(slide, VoteParameters(prior="balanced")).n_background == 0


def test_parameters_without_a_prior_are_stored_as_before_there_was_one():
    assert "prior" not in VoteParameters().to_json()
    assert "learned" not in VoteParameters().to_json()
    given = VoteParameters(prior="balanced", interval_level=0.8)
    assert VoteParameters.from_json(json.loads(json.dumps(given.to_json()))) == given
