"""The interval with the model's error: coverage on new patients, closed forms of its quantile, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.voting import SlideResult, VoteParameters, vote
from wsikit.voting.learned import (
    MIN_PATIENTS,
    LearnedVote,
    canonical,
    learn_errors,
    least_patients,
    relative,
    scale_of,
)

CODES = ("benign", "IDC")


def world(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True shares, estimates with an error per slide that is not normal, and numbers of patches."""
    truth = rng.beta(0.8, 2, n)
    sizes = rng.integers(5, 400, n).astype(float)
    off = rng.standard_t(4, n) * 0.06 + rng.normal(0, np.sqrt(truth * (1 - truth) / sizes))
    found = np.clip(truth + off, 0, 1)
    return np.stack([1 - truth, truth], 1), np.stack([1 - found, found], 1), sizes


def learned(truth, shares, sizes, names=None, thresholds=()) -> LearnedVote:
    names = [f"p{i}" for i in range(len(truth))] if names is None else names
    tau, distances, mass, patients = learn_errors(truth, shares, sizes, names)
    settings = canonical(VoteParameters().score_settings())
    return LearnedVote(settings, CODES, patients, thresholds, tau, distances, mass)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_the_interval_covers_new_patients_as_often_as_it_says(level: float):
    """Split conformal covers from level to level + 1 / (n + 1) on average; the mean of 80 fits on 60 patients each."""
    covered = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        fit = learned(*world(rng, 60))
        truth, shares, sizes = world(rng, 200)
        reach = fit.factors(level) * scale_of(shares, sizes[:, None], np.array(fit.tau))
        covered.append(np.mean(np.abs(truth - shares)[:, 1] <= reach[:, 1]))
    assert level - 0.01 < np.mean(covered) < level + 1 / 61 + 0.01


def test_the_sampling_part_alone_would_not_cover():
    truth, shares, sizes = world(np.random.default_rng(0), 2000)
    within = 1.645 * np.sqrt(shares * (1 - shares) / sizes[:, None])
    assert np.mean(np.abs(truth - shares)[:, 1] <= within[:, 1]) < 0.6


def test_small_slides_get_wider_intervals():
    fit = learned(*world(np.random.default_rng(1), 80))
    small, large = (fit.interval(np.array([0.5, 0.5]), n, 0.9) for n in (5, 500))
    assert np.ptp([small[0][1], small[1][1]]) > 1.5 * np.ptp([large[0][1], large[1][1]])


def test_the_quantile_is_that_of_n_plus_one_patients():
    """Distances 1 … 39: the 90 % factor is the 36th smallest, ⌈0.9 · 40⌉, and 95 % the 38th."""
    fit = LearnedVote("{}", CODES, 39, (), (0.1, 0.1), tuple((float(i), float(i)) for i in range(1, 40)), (1.0,) * 39)
    assert fit.factors(0.9).tolist() == [36.0, 36.0]
    assert fit.factors(0.95).tolist() == [38.0, 38.0]
    assert fit.factors(0.99) is None  # ⌈0.99 · 40⌉ is beyond the last
    assert fit.why_not(0.99) == "39 validation patients; an interval of 99 % needs 99"
    assert least_patients(0.99) == 99


def test_a_patient_with_many_slides_counts_once():
    """One patient with 200 slides that are all wrong, 39 with one slide each that are right."""
    truth = np.tile([0.5, 0.5], (239, 1))
    shares = truth + np.where(np.arange(239) < 200, 0.4, 0.01)[:, None] * [1, -1]
    names = ["many"] * 200 + [f"p{i}" for i in range(39)]
    fit = learned(truth, shares, np.full(239, 1e9), names)
    assert fit.patients == 40
    low, high = fit.interval(np.array([0.5, 0.5]), 1e9, 0.9)
    assert high[1] - low[1] < 0.1
    low, high = fit.interval(np.array([0.5, 0.5]), 1e9, 0.97)  # 40 of 40 patients
    assert high[1] - low[1] > 0.7


def test_with_too_few_patients_there_is_no_interval_and_the_reason_is_given():
    few = learned(*world(np.random.default_rng(2), MIN_PATIENTS - 1))
    result = vote(np.tile([0.7, 0.3], (30, 1)), VoteParameters(learned=few), classes=CODES)
    assert result.share_interval is None
    assert result.no_share_interval == "19 validation patients; an interval of 90 % needs 20"
    assert vote(np.tile([0.7, 0.3], (30, 1))).no_share_interval == "no errors were learned"


def test_the_vote_shows_the_interval_with_its_level_and_what_it_was_learned_from():
    fit = learned(*world(np.random.default_rng(3), 50))
    result = vote(np.tile([0.7, 0.3], (30, 1)), VoteParameters(learned=fit, interval_level=0.8), classes=CODES)
    found = result.share_interval
    assert found.low[1] < 0.3 < found.high[1]
    assert found.words() == "80 % interval with the model's error (50 validation patients)"
    assert f"IDC 0.30 [{found.low[1]:.2f}, {found.high[1]:.2f}]; {found.words()}" in result.summary()
    assert found.words() in result._repr_html_()
    back = SlideResult.from_json(json.loads(json.dumps(result.to_json())))
    assert back.share_interval.high.tolist() == found.high.tolist()
    assert back.share_interval.patients == 50


def test_what_was_learned_is_not_used_with_other_settings():
    fit = learned(*world(np.random.default_rng(4), 50), thresholds=(0.7, 0.3))
    rows = np.tile([0.65, 0.35], (30, 1))
    assert vote(rows, VoteParameters(learned=fit), classes=CODES).subtype == "IDC"
    for changed in ({"temperature": 0.5}, {"method": "hard"}, {"prior": "balanced"}, {"smooth": "median"}):
        result = vote(rows, VoteParameters(learned=fit, **changed), classes=CODES)
        assert result.share_interval is None
        assert result.no_share_interval == "what was learned holds for other settings of the vote"
        assert (result.leading, result.thresholds) == (0, ())
    # settings that another method uses, and those of abstention, change no score
    kept = vote(rows, VoteParameters(learned=fit, kappa=3.0, min_margin=0.2), classes=CODES)
    assert kept.share_interval is not None
    with pytest.raises(RequestError, match="learned for the classes"):
        vote(rows, VoteParameters(learned=fit), classes=("IDC", "benign"))


def test_a_class_is_called_from_its_threshold_on():
    fit = learned(*world(np.random.default_rng(5), 50), thresholds=(0.8, 0.2))
    for share in (0.1, 0.19, 0.21, 0.4):
        result = vote(np.tile([1 - share, share], (30, 1)), VoteParameters(learned=fit), classes=CODES)
        assert (result.leading == 1) == (share > 0.2)
        ratio = np.array([(1 - share) / 0.8, share / 0.2])
        assert result.margin == pytest.approx(abs(np.diff(ratio / ratio.sum())[0]))
        assert result.probs[1] == pytest.approx(share)  # the share itself stays
    assert relative(np.array([0.4, 0.6]), ()).tolist() == [0.4, 0.6]


def test_what_was_learned_survives_json():
    fit = learned(*world(np.random.default_rng(6), 30), thresholds=(0.6, 0.4))
    parameters = VoteParameters(learned=fit)
    back = VoteParameters.from_json(json.loads(json.dumps(parameters.to_json())))
    assert back == parameters
    assert back.applicable() is not None
