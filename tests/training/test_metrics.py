"""Figures against hand counts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from wsikit.training.metrics import balanced_accuracy, interval_by_group, score

# truth UD UD UD PD PD D other; one UD taken for PD, one PD for D
TRUTH = np.array([0, 0, 0, 1, 1, 2, 3])
PREDICTED = np.array([0, 0, 1, 1, 2, 2, 3])


def test_figures_of_a_small_case_counted_by_hand():
    scores = score(TRUTH, PREDICTED, n_classes=4, n_ordinal=3)
    assert scores.n == 7
    assert scores.accuracy == pytest.approx(5 / 7)
    assert scores.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2 + 1 + 1) / 4)
    assert scores.macro_f1 == pytest.approx((4 / 5 + 1 / 2 + 2 / 3 + 1) / 4)


def test_rows_of_the_confusion_matrix_are_the_truth():
    assert score(TRUTH, PREDICTED, n_classes=4, n_ordinal=3).confusion == (
        (2, 1, 0, 0),
        (0, 1, 1, 0),
        (0, 0, 1, 0),
        (0, 0, 0, 1),
    )


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


def test_a_class_that_does_not_occur_weighs_nothing():
    truth, predicted = np.array([0, 0, 1]), np.array([0, 2, 1])
    assert balanced_accuracy(truth, predicted) == pytest.approx((1 / 2 + 1) / 2)


def test_balanced_accuracy_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    assert balanced_accuracy(truth, predicted) == pytest.approx(balanced_accuracy_score(truth, predicted), rel=1e-12)


def test_the_interval_draws_slides_and_not_patches():
    """Two slides, one all right and one all wrong: drawn by slide, anything from 0 to 1 may come."""
    truth = np.zeros(200, dtype=np.int64)
    predicted = np.repeat([0, 1], 100)

    def accuracy(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(a == b))

    by_slide = interval_by_group(truth, predicted, np.repeat(["a", "b"], 100), accuracy, draws=200)
    by_patch = interval_by_group(truth, predicted, np.arange(200).astype(str), accuracy, draws=200)
    assert by_slide == (0.0, 1.0)
    assert by_patch[0] > 0.4
    assert by_patch[1] < 0.6
