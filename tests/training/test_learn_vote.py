"""What a vote learns from validation patients: thresholds, errors, and that test patients are not used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wsikit.models.config import ModelConfig, read_config
from wsikit.models.protocol import ModelInfo
from wsikit.training.fit_vote import VoteSlide
from wsikit.training.learn_vote import Shares, cross_fitted, fit_thresholds, learn, patient_folds
from wsikit.training.priors import prevalence, prior_metrics, with_prior
from wsikit.training.vote_validation import fit
from wsikit.voting import VoteParameters
from wsikit.voting.fitted_parameters import FittedVote

CODES = ("benign", "IDC")


def slides(n: int, *, seed: int = 0, patches: int = 40) -> list[VoteSlide]:
    """Slides whose model calls IDC too rarely: the estimated share is half of the true one."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(n):
        share = rng.beta(0.7, 1.2)
        p = np.clip(0.5 * share + rng.normal(0, 0.08) + rng.normal(0, 0.05, patches), 0.001, 0.999)
        probs, truth = np.stack([1 - p, p], 1), np.array([1 - share, share])
        found.append(VoteSlide(f"s{index}", f"p{index}", probs, np.ones(patches), truth))
    return found


def as_they_are(known, start):
    return start


def test_a_threshold_is_found_where_the_share_is_estimated_too_low():
    learned, measured = learn(slides(80), VoteParameters(), classes=CODES, fit=as_they_are)
    assert 0.2 < learned.learned.thresholds[1] < 0.3  # half of the true share of 0.5
    assert sum(learned.learned.thresholds) == pytest.approx(1, abs=1e-3)
    assert measured["balanced accuracy, fitted threshold"] > measured["balanced accuracy"] + 0.2


def test_errors_are_learned_and_cover_patients_that_were_not_fitted_on():
    parameters, measured = learn(slides(100), VoteParameters(), classes=CODES, fit=as_they_are)
    assert parameters.learned.patients == 100
    assert 0.84 < measured["coverage of the 90 % interval"] < 0.97
    inside = []
    for slide in slides(300, seed=1):
        low, high = parameters.learned.interval(slide.probs.mean(axis=0), 40, 0.9)
        inside.append(low[1] <= slide.truth[1] <= high[1])
    assert 0.86 < np.mean(inside) < 0.95


def test_few_patients_give_neither_threshold_nor_interval():
    parameters, measured = learn(slides(12), VoteParameters(), classes=CODES, fit=as_they_are)
    assert (parameters.learned.thresholds, parameters.learned.distances) == ((), ())
    assert not any("interval" in name for name in measured)
    fitted = FittedVote(parameters, CODES, "", 12, (), "", 0, {}, "")
    assert "threshold: not fitted, too few slides of a class" in fitted.lines()
    assert any(line.startswith("interval: none, no errors were learned") for line in fitted.lines())


def test_shares_are_by_parameters_fitted_without_the_patient():
    known_of: list[set[str]] = []

    def noted(known, start):
        known_of.append({slide.patient for slide in known})
        return start

    given = slides(30)
    found = cross_fitted(given, VoteParameters(), noted)
    assert found.patients == tuple(slide.patient for slide in given)
    np.testing.assert_allclose(found.shares, [slide.probs.mean(axis=0) for slide in given])
    assert len(known_of) == 5
    left_out = [{slide.patient for slide in given} - known for known in known_of]
    assert set.union(*left_out) == {slide.patient for slide in given}
    assert sum(map(len, left_out)) == 30


def test_slides_of_a_patient_are_in_one_fold():
    folds = patient_folds(["a", "b", "a", "c", "b", "a"])
    assert folds[0] == folds[2] == folds[5]
    assert folds[1] == folds[4]


def test_three_classes_get_thresholds_too():
    """D is estimated at half of its share; the rest goes to PD."""
    rng = np.random.default_rng(0)
    truth = rng.dirichlet([0.5, 0.5, 0.5], 120)
    shares = truth.copy()
    shares[:, 2] /= 2
    shares[:, 1] += shares[:, 2]
    found = Shares(truth, shares, np.full(120, 50.0), tuple(f"p{i}" for i in range(120)))
    thresholds = fit_thresholds(found)
    right = (shares / np.array(thresholds)).argmax(axis=1) == truth.argmax(axis=1)
    assert right.mean() > (shares.argmax(axis=1) == truth.argmax(axis=1)).mean() + 0.05
    assert thresholds[2] < thresholds[1]


def test_a_fit_of_an_older_version_is_read_and_has_no_interval():
    record = fit(slides(30), VoteParameters(), codes=CODES, model="f" * 64).to_json()
    for name in ("measured",):
        del record[name]
    for name in ("learned", "interval_level", "prior"):
        record["parameters"].pop(name, None)
    back = FittedVote.from_json(json.loads(json.dumps(record)))
    assert back.parameters.learned is None
    assert back.lines() == []


def test_calibration_is_better_after_the_correction_where_training_was_balanced():
    """Posterior probabilities of a world with equal frequencies, on patches of which a tenth is IDC."""
    rng = np.random.default_rng(0)
    labels = (rng.random(4000) < 0.1).astype(np.int64)
    odds = np.exp(rng.normal(labels, 1) * 1.0 - 0.5)
    p = odds / (1 + odds)
    info = ModelInfo(
        name="toy",
        version="1",
        architecture="toy",
        fingerprint="0",
        patch_px=50,
        mpp=4.0,
        stain="H&E",
        classes=CODES,
        class_names=CODES,
        colors=("#000000", "#ffffff"),
        prior=prevalence(labels, 2),
        balanced=True,
    )
    found = prior_metrics(info, labels, np.stack([1 - p, p], 1), np.arange(4000) // 40)
    assert found["before"]["class_ece"]["value"] == pytest.approx(p.mean() - 0.1, abs=0.02)  # too high everywhere
    assert found["after"]["class_ece"]["value"] < 0.02
    assert found["difference"]["class_ece"]["high"] < -0.1
    assert found["difference"]["nll"]["high"] < 0
    assert found["shift"]["to"]["IDC"] == pytest.approx(0.1, abs=0.02)
    stated = prior_metrics(info, labels, np.stack([1 - p, p], 1), np.arange(4000) // 40, asked="balanced")
    assert stated["shift"] is None
    assert "after" not in stated


def test_a_model_without_recorded_frequencies_is_written_as_before(tmp_path: Path):
    config = read_config("phantom-mmlnb")
    assert (config.prior, config.balanced) == (None, None)
    assert "prior" not in config.model_dump()
    assert '"balanced"' not in config.model_dump_json()
    labels = np.array([0, 0, 1, 2, 3, 3, 3, 3])
    recorded = with_prior(config, labels, balanced=True)
    back = ModelConfig.model_validate_json(recorded.model_dump_json())
    assert back.prior == (0.25, 0.125, 0.125, 0.5)
    assert back.balanced is True
