"""Errors of the shares by slide and patient, and the coverage of their intervals: closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.data import PatchSet
from wsikit.training.evaluation_parts import check_vote
from wsikit.training.share_errors import LEAST, Scale, share_report
from wsikit.voting import VoteParameters, VoteRule
from wsikit.voting.fitted_parameters import FittedVote
from wsikit.voting.learned import LearnedVote, canonical

SCALE = Scale(patch_px=50, mpp=4.0, source_mpp=4.0)
CLASSES = ("benign", "IDC")


def slides(shares: list[float], *, each: int = 40, patients: list[str] | None = None, coords: bool = True) -> PatchSet:
    """One slide per share, with this share of class 1, its patches in rows of ten."""
    n = len(shares) * each
    labels = np.concatenate([(np.arange(each) < round(each * share)).astype(np.int64) for share in shares])
    names = np.repeat([f"s{i}" for i in range(len(shares))], each)
    groups = names if patients is None else np.repeat(patients, each)
    place = np.arange(n) % each
    where = np.stack([50 * (place % 10), 50 * (place // 10)], axis=1).astype(np.float64) if coords else None
    return PatchSet(np.zeros((n, 4, 4, 3), np.uint8), labels, groups, ("",) * n, slides=names, coords=where)


def certain(labels: np.ndarray, p: float = 1.0) -> np.ndarray:
    return np.where(np.eye(2)[labels] == 1, p, 1 - p)


def test_the_error_is_the_distance_of_the_voted_share_from_the_true_one():
    data = slides([0.2, 0.5, 0.9])
    found = share_report(data, certain(data.labels, 0.8), classes=CLASSES, background=(), scale=SCALE)
    methods = found["slide"]["methods"]
    # mean: 0.8 s + 0.2 (1 − s) − s = 0.2 − 0.4 s; hard: every patch is right
    assert methods["mean"]["share_error"]["value"] == pytest.approx(np.mean([0.12, 0.0, 0.16]))
    assert methods["hard"]["share_error"]["value"] == pytest.approx(0)
    assert methods["hard"]["balanced_accuracy"]["value"] == 1.0
    low, high = methods["mean"]["share_error"]["low"], methods["mean"]["share_error"]["high"]
    assert 0 <= low <= np.mean([0.12, 0.0, 0.16]) <= high <= 0.16 + 1e-9
    assert "gate" not in methods
    assert found["patient"]["reason"] == "one slide per patient: as at slide level"


def test_the_coverage_is_the_fraction_of_units_whose_interval_holds_the_truth():
    data = slides([0.3, 0.4, 0.6, 0.7])
    right = share_report(data, certain(data.labels), classes=CLASSES, background=(), scale=SCALE)
    assert right["slide"]["methods"]["hard"]["interval"] | {"low": 0, "high": 0} == {
        "level": 0.9,
        "units": 4,
        "value": 1.0,
        "low": 0,
        "high": 0,
    }
    probs = certain(data.labels)
    probs[:40] = (1, 0)  # the model sees no class 1 in the first slide: its interval is the point 0
    wrong = share_report(data, probs, classes=CLASSES, background=(), scale=SCALE)
    assert wrong["slide"]["methods"]["hard"]["interval"]["value"] == 0.75


def test_without_coordinates_or_their_scale_there_is_no_interval_and_the_reason_is_given():
    for data, scale, said in (
        (slides([0.3, 0.6], coords=False), SCALE, "the data give no coordinates"),
        (slides([0.3, 0.6]), Scale(50, 4.0, None), "scale of the coordinates is not known"),
    ):
        found = share_report(data, certain(data.labels), classes=CLASSES, background=(), scale=scale)
        interval = found["slide"]["methods"]["mean"]["interval"]
        assert interval["value"] is None
        assert said in interval["reason"]


def test_fitted_parameters_are_measured_with_their_threshold_and_interval():
    data = slides([0.2, 0.3, 0.7, 0.8], coords=False)
    probs = certain(data.labels, 0.6)  # mean: 0.4 + 0.2 s, so that no slide leads in class 1
    probs[:, 1] -= 0.1
    probs[:, 0] += 0.1
    rule = VoteRule("mean")
    shares = 0.3 + 0.2 * np.array([0.2, 0.3, 0.7, 0.8])
    learned = LearnedVote(
        canonical(rule.score_settings()),
        CLASSES,
        patients=20,
        thresholds=(0.6, 0.4),
        tau=(1e-3, 1e-3),
        distances=((1.0, 1.0),) * 20,
        mass=(1.0,) * 20,
    )
    found = share_report(
        data, probs, classes=CLASSES, background=(), scale=SCALE, fitted=replace(rule, learned=learned)
    )["slide"]["methods"]
    assert found["mean"]["balanced_accuracy"]["value"] == 0.5  # all slides are called class 0
    assert found["mean, fitted"]["balanced_accuracy"]["value"] == 1.0  # from 0.4 on: shares 0.34, 0.36, 0.44, 0.46
    assert found["mean, fitted"]["share_error"] == found["mean"]["share_error"]
    assert "share_interval" not in found["mean"]
    inside = []
    for share, truth in zip(shares, (0.2, 0.3, 0.7, 0.8), strict=True):
        ends = learned.interval(np.array([1 - share, share]), 40.0, 0.9)
        inside.append(ends[0][1] <= truth <= ends[1][1])
    assert found["mean, fitted"]["share_interval"]["value"] == pytest.approx(np.mean(inside))
    assert 0 < np.mean(inside) < 1


def test_small_slides_and_background_do_not_count():
    data = slides([0.5, 0.5, 0.5], each=LEAST - 1)
    found = share_report(data, certain(data.labels), classes=CLASSES, background=(), scale=SCALE)
    assert found["slide"] == {"reason": f"0 with {LEAST} patches or more, and 3 smaller ones"}
    data = slides([0.25, 0.75])
    probs = np.concatenate([certain(data.labels) * 0.9, np.full((len(data), 1), 0.1)], axis=1)
    probs[data.labels == 1] = (0.05, 0.0, 0.95)  # read as background
    found = share_report(
        data, probs, classes=("a", "b", "other"), background=("other",), scale=SCALE, gate=np.ones(len(data))
    )
    # every patch that votes is of the first class; the truth has shares 0.75 and 0.25 of it
    assert found["slide"]["methods"]["hard"]["share_error"]["value"] == pytest.approx((0.25 + 0.75) / 2)
    assert found["slide"]["methods"]["gate"]["share_error"]["value"] == pytest.approx(0.5)


def test_a_patient_of_several_slides_is_voted_over_all_of_them():
    data = slides([0.0, 1.0, 0.2, 0.2], patients=["p", "p", "q", "q"])
    probs = certain(data.labels)
    found = share_report(data, probs, classes=CLASSES, background=(), scale=SCALE)
    assert found["slide"]["units"] == 4
    assert found["patient"]["units"] == 2
    assert found["patient"]["methods"]["mean"]["share_error"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["patient"]["methods"]["mean"]["interval"]["value"] is None


def test_parameters_that_were_fitted_for_something_else_are_refused():
    fitted = FittedVote(VoteParameters("mean"), CLASSES, "abc", 30, (), "", 0, {}, "")
    check_vote(None, classes=CLASSES, fingerprint="abc", prior="auto")
    check_vote(fitted, classes=CLASSES, fingerprint="abc", prior="auto")
    with pytest.raises(RequestError, match="fitted for benign, IDC of the model abc"):
        check_vote(fitted, classes=CLASSES, fingerprint="def", prior="auto")
    with pytest.raises(RequestError, match="this one has IDC, benign"):
        check_vote(fitted, classes=CLASSES[::-1], fingerprint="abc", prior="auto")
    with pytest.raises(RequestError, match="fitted with --prior auto, here it is balanced"):
        check_vote(fitted, classes=CLASSES, fingerprint="abc", prior="balanced")
