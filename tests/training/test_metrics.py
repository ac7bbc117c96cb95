"""Figures against hand counts and scikit-learn; intervals by patient; orientation and order of what is reported."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from wsikit.errors import RequestError
from wsikit.training.bootstrap import Sample, draw_groups
from wsikit.training.calibration import at_temperature, fit_temperature, reliability
from wsikit.training.data import PatchSet
from wsikit.training.metrics import balanced_accuracy, measure, paired_difference, score, value_of
from wsikit.training.report import report

# truth UD UD UD PD PD D other; one UD taken for PD, one PD for D
TRUTH = np.array([0, 0, 0, 1, 1, 2, 3])
PREDICTED = np.array([0, 0, 1, 1, 2, 2, 3])


def guesses(n: int = 900, c: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, probabilities with many ties, and patients."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, c, n)
    probs = (rng.dirichlet(np.ones(c), n) + 0.3 * np.eye(c)[truth]).round(1) + 0.01
    return truth, probs / probs.sum(axis=1, keepdims=True), rng.integers(0, 30, n)


def patches(truth: np.ndarray, patients: np.ndarray, slides: np.ndarray | None = None) -> PatchSet:
    n = len(truth)
    return PatchSet(np.zeros((n, 1, 1, 3), np.uint8), truth, patients.astype(str), ("",) * n, slides=slides)


def test_figures_of_a_small_case_counted_by_hand():
    scores = score(TRUTH, PREDICTED, n_classes=4, n_ordinal=3)
    assert scores.n == 7
    assert scores.accuracy == pytest.approx(5 / 7)
    assert scores.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1 + 1) / 4)
    assert scores.macro_f1 == pytest.approx((4 / 5 + 1 / 2 + 2 / 3 + 1) / 4)


def test_rows_of_the_confusion_matrix_are_the_truth():
    """The official evaluation swapped the two, and so showed recalls as precisions."""
    wanted = [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert score(TRUTH, PREDICTED, n_classes=4, n_ordinal=3).confusion == tuple(map(tuple, wanted))
    data = patches(TRUTH, np.arange(7))
    found = report(data, np.eye(4)[PREDICTED], classes=("UD", "PD", "D", "other"), n_ordinal=3)
    assert found["patch"]["confusion"] == {"rows": "truth", "classes": ["UD", "PD", "D", "other"], "counts": wanted}


def test_kappa_counts_steps_on_the_biological_order():
    truth = np.repeat([0, 1, 2], 10)
    near, far = truth.copy(), truth.copy()
    near[:5] = 1
    far[:5] = 2
    kappas = [score(truth, p, n_classes=3, n_ordinal=3) for p in (near, far)]
    assert kappas[0].kappa_quadratic > kappas[1].kappa_quadratic + 0.1
    # by hand: observed squared distance 5·1, expected from the margins (5,15,10) × (10,10,10) / 30
    expected = sum(m * 10 * d**2 / 30 for i, m in enumerate((5, 15, 10)) for d in (i, i - 1, i - 2))
    assert kappas[0].kappa_quadratic == pytest.approx(1 - 5 / expected)
    assert value_of(truth, np.eye(3)[near], "kappa_quadratic", n_ordinal=3) == pytest.approx(1 - 5 / expected)


def test_a_class_that_does_not_occur_has_no_weight():
    truth, predicted = np.array([0, 0, 1]), np.array([0, 2, 1])
    assert balanced_accuracy(truth, predicted) == pytest.approx((1 / 2 + 1) / 2)


def test_the_scores_of_a_prediction_are_those_of_scikit_learn_also_where_classes_are_missing():
    rng = np.random.default_rng(3)
    truth, predicted = rng.choice([0, 2, 3], 400), rng.integers(0, 4, 400)
    found = score(truth, predicted, n_classes=5, n_ordinal=3)
    ordinal = (truth < 3) & (predicted < 3)
    assert found.confusion == tuple(map(tuple, confusion_matrix(truth, predicted, labels=range(5)).tolist()))
    assert found.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert found.balanced_accuracy == pytest.approx(recall_score(truth, predicted, labels=[0, 2, 3], average="macro"))
    assert found.macro_f1 == pytest.approx(f1_score(truth, predicted, labels=[0, 2, 3], average="macro"))
    assert found.kappa == pytest.approx(cohen_kappa_score(truth[ordinal], predicted[ordinal]))
    quadratic = cohen_kappa_score(truth[ordinal], predicted[ordinal], weights="quadratic")
    assert found.kappa_quadratic == pytest.approx(quadratic)


def test_kappa_is_undefined_without_an_order_and_with_one_class():
    one = np.zeros(5, dtype=np.int64)
    assert score(one, one, n_classes=3, n_ordinal=3).kappa is None
    assert score(TRUTH, PREDICTED, n_classes=4, n_ordinal=0).kappa_quadratic is None


def test_all_figures_are_those_of_scikit_learn_also_on_a_draw_of_patients():
    truth, probs, patients = guesses()
    sample = Sample(truth, probs, patients, n_ordinal=3)
    weights = np.concatenate([np.ones((1, sample.n_groups)), draw_groups(sample.n_groups, draws=3, seed=1)])
    figures = sample.figures(weights)
    for draw, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(truth)), weight[patients].astype(int))
        t, p = truth[rows], probs[rows]
        said = p.argmax(axis=1)
        wanted = {
            "accuracy": np.mean(t == said),
            "balanced_accuracy": balanced_accuracy_score(t, said),
            "macro_f1": f1_score(t, said, average="macro"),
            "auc": roc_auc_score(t, p, multi_class="ovr"),
            "kappa": cohen_kappa_score(t, said),
            "kappa_quadratic": cohen_kappa_score(t, said, weights="quadratic"),
            "nll": log_loss(t, p),
            "brier": ((p - np.eye(3)[t]) ** 2).sum(axis=1).mean(),
        }
        for name, value in wanted.items():
            assert figures.values[name][draw] == pytest.approx(value, rel=1e-9), name
        mean, share, counts = reliability(t, p)
        gaps = np.nan_to_num(np.abs(mean - share)) * counts / counts.sum()
        assert figures.values["ece"][draw] == pytest.approx(gaps.sum())


def test_the_interval_draws_patients_and_not_patches():
    """Two patients, one all right and one all wrong: drawn by patient, anything from 0 to 1 may come."""
    truth = np.zeros(200, dtype=np.int64)
    predicted = np.repeat([0, 1], 100)
    by_patient = measure("x", truth, predicted, np.repeat(["a", "b"], 100), n_classes=2, n_ordinal=2)
    by_patch = measure("x", truth, predicted, np.arange(200).astype(str), n_classes=2, n_ordinal=2)
    assert by_patient.accuracy_interval == (0.0, 1.0)
    assert by_patch.accuracy_interval[0] > 0.4
    assert by_patch.accuracy_interval[1] < 0.6


def test_a_paired_difference_is_narrower_than_two_intervals_and_zero_with_itself():
    truth, probs, patients = guesses()
    rng = np.random.default_rng(2)
    better = probs + 0.15 * np.eye(3)[truth] * rng.random((len(truth), 1))
    better /= better.sum(axis=1, keepdims=True)
    difference, low, high = paired_difference(truth, better, probs, patients, "auc")
    assert difference == pytest.approx(value_of(truth, better, "auc") - value_of(truth, probs, "auc"))
    assert 0 < low < difference < high
    assert paired_difference(truth, probs, probs, patients, "balanced_accuracy") == (0.0, 0.0, 0.0)
    alone = report(patches(truth, patients), probs, classes=("a", "b", "c"), n_ordinal=0)["patch"]["auc"]
    assert high - low < alone["high"] - alone["low"]
    swapped = paired_difference(truth, probs, better, patients, "auc")
    assert swapped == pytest.approx((-difference, -high, -low))
    with pytest.raises(RequestError, match="expected one of accuracy"):
        paired_difference(truth, probs, probs, patients, "acc")


def test_an_undefined_metric_is_none_with_the_reason():
    """The official code ignored the error, so a missing class went unnoticed."""
    truth, probs, patients = guesses()
    rows = truth != 2
    found = report(patches(truth[rows], patients[rows]), probs[rows], classes=("a", "b", "c"), n_ordinal=0)["patch"]
    assert found["auc"] == {"value": None, "low": None, "high": None, "reason": "no c in the truth"}
    assert found["auc_of_class"]["c"]["value"] is None
    assert found["auc_of_class"]["a"]["value"] > 0.5
    assert found["kappa"]["reason"] == "the classes have no order"
    assert found["balanced_accuracy"]["value"] is not None


def test_slides_and_patients_are_the_means_of_their_patches():
    truth = np.array([0, 0, 1, 1, 1])
    probs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    slides = np.array(["s1", "s1", "s2", "s3", "s3"])
    data = patches(truth, np.array(["p1", "p1", "p2", "p3", "p3"]), slides)
    found = report(data, probs, classes=("a", "b"), n_ordinal=2)
    assert found["patch"]["accuracy"]["value"] == pytest.approx(2 / 5)
    assert found["slide"]["n"] == 3
    assert found["slide"]["confusion"]["counts"] == [[1, 0], [1, 1]]  # s1 0.65 a, s2 0.8 b, s3 0.65 a
    assert found["patient"]["accuracy"]["value"] == pytest.approx(2 / 3)


def test_a_slide_of_several_classes_has_no_single_truth():
    found = report(patches(TRUTH, np.zeros(7)), np.eye(4)[PREDICTED], classes=tuple("abcd"), n_ordinal=0)
    assert found["patient"] == {"reason": "1 of 1 patients have patches of several classes, so no single truth"}
    assert found["slide"] == {"reason": "the data do not name the slide of every patch"}


def test_the_temperature_that_distorted_the_probabilities_is_recovered():
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([1, 1, 1], 20_000)
    truth = (rng.random((20_000, 1)) > honest.cumsum(axis=1)).sum(axis=1)
    too_sure = at_temperature(honest, 0.5)
    assert fit_temperature(truth, too_sure) == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(at_temperature(too_sure, 2.0), honest, atol=1e-6)
    assert value_of(truth, too_sure, "ece") > 0.05
    assert value_of(truth, honest, "ece") < 0.02
