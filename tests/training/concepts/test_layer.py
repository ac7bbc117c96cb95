"""The sparse linear layer: scikit-learn's fit, its optimality conditions, and the choice of the penalty."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegression

from wsikit.training.concepts.config import LinearLayer
from wsikit.training.concepts.linear import fit_layer, l1_regression


@pytest.fixture
def planted() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 8))
    logits = np.stack([3 * x[:, 0], 3 * x[:, 1], 3 * x[:, 2]], axis=1) + rng.gumbel(size=(300, 3))
    return x, logits.argmax(axis=1).astype(np.int64)


@pytest.mark.parametrize("l1", [0.05, 0.01, 0.001])
def test_the_l1_path_is_that_of_scikit_learn(planted: tuple[np.ndarray, np.ndarray], l1: float) -> None:
    x, y = planted
    new = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)
    kind = {"l1_ratio": 1.0} if new else {"penalty": "l1"}
    theirs = LogisticRegression(C=1 / (l1 * len(x)), solver="saga", max_iter=100_000, tol=1e-8, **kind).fit(x, y)
    weight, bias, converged = l1_regression(x, y, 3, l1)
    assert converged
    np.testing.assert_allclose(weight.T, theirs.coef_, atol=2e-3)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=2e-3)


def test_the_weights_meet_the_optimality_conditions_of_the_stated_objective(
    planted: tuple[np.ndarray, np.ndarray],
) -> None:
    """Mean loss + l1 · |weights|: the gradient is -l1 · sign where a weight is not 0, and at most l1 elsewhere."""
    x, y, l1 = *planted, 0.01
    weight, bias, _ = l1_regression(x, y, 3, l1)
    logits = x @ weight + bias
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = x.T @ (probs - np.eye(3)[y]) / len(x)
    assert 0 < np.count_nonzero(weight == 0) < weight.size
    np.testing.assert_allclose(gradient[weight != 0], -l1 * np.sign(weight[weight != 0]), atol=2e-5)
    assert np.abs(gradient[weight == 0]).max() <= l1 + 2e-5


def test_a_stronger_penalty_uses_fewer_weights(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    used = [np.count_nonzero(l1_regression(x, y, 3, l1)[0]) for l1 in (0.1, 0.01, 0.0001)]
    assert used[0] < used[1] < used[2]


def test_two_classes_have_two_columns_of_weights() -> None:
    x = np.random.default_rng(0).uniform(size=(80, 3))
    weight, bias, _ = l1_regression(x, (x[:, 1] > 0.5).astype(np.int64), 2, 0.001)
    assert weight.shape == (3, 2)
    assert ((x @ weight + bias).argmax(axis=1) == (x[:, 1] > 0.5)).mean() > 0.95


def test_the_penalty_is_chosen_on_held_out_patients(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    groups = np.repeat([f"p{index}" for index in range(30)], 10)
    fitted = fit_layer(x, x, y, groups, n_classes=3, settings=LinearLayer(fit_on="scores"))
    losses = {one["l1"]: one["loss"] for one in fitted.selection["curve"]}
    assert losses[fitted.selection["l1"]] == min(losses.values())
    assert "5-fold" in fitted.selection["chosen_by"]


def test_a_layer_that_is_fitted_on_the_truth_ignores_the_scores(planted: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = planted
    groups = np.repeat([f"p{index}" for index in range(30)], 10)
    settings = LinearLayer(fit_on="truth", l1=0.01)
    one, two = (fit_layer(scores, x, y, groups, n_classes=3, settings=settings) for scores in (x, np.zeros_like(x)))
    np.testing.assert_array_equal(one.weight, two.weight)
