"""Losses of a bag against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.training.mil.evaluation import concordance
from wsikit.training.mil.fit import intervals
from wsikit.training.mil.losses import assigned_loss, hazard_loss, ordinal_loss


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def test_ordinal_loss_is_the_sum_over_thresholds():
    z, cuts = torch.tensor([0.4]), torch.tensor([-1.0, 0.5])
    # class 1 of 3: above the first threshold, not above the second
    expected = -np.log(sigmoid(0.4 + 1.0)) - np.log(1 - sigmoid(0.4 - 0.5))
    assert float(ordinal_loss(z, cuts, 1)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("event", [True, False])
def test_hazard_loss_is_the_likelihood_of_discrete_times(event: bool):
    z, levels = torch.tensor([0.7]), torch.tensor([-2.0, -1.0, 0.0])
    h = [sigmoid(level + 0.7) for level in levels.tolist()]
    likelihood = (1 - h[0]) * h[1] if event else (1 - h[0]) * (1 - h[1])
    assert float(hazard_loss(z, levels, 1, event)) == pytest.approx(-np.log(likelihood), rel=1e-6)


def test_a_higher_value_means_earlier_events():
    levels = torch.zeros(3)
    early = [float(hazard_loss(torch.tensor([z]), levels, 0, True)) for z in (-1.0, 1.0)]
    late = [float(hazard_loss(torch.tensor([z]), levels, 2, True)) for z in (-1.0, 1.0)]
    assert early[0] > early[1]
    assert late[0] < late[1]


def test_patches_of_a_negative_slide_are_all_negative():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    expected = (np.log(1 + np.e) + np.log(1 + np.exp(-2))) / 2
    assert float(assigned_loss(logits, 0, 0.5, 0.5)) == pytest.approx(expected, rel=1e-6)


def test_in_a_positive_slide_the_top_is_positive_the_bottom_negative_and_the_rest_unused():
    logits = torch.tensor([[0.0, 3.0], [0.0, 1.0], [0.0, -2.0]], requires_grad=True)
    loss = assigned_loss(logits, 1, 0.1, 0.1)
    expected = (np.log(1 + np.exp(-3)) + np.log(1 + np.exp(-2))) / 2
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[[0, 2]] != 0).all()


def test_intervals_hold_about_equally_many_events():
    times, events = np.array([1.0, 2, 3, 4, 100, 200]), np.array([True, True, True, True, False, False])
    assert intervals(times, events, 2) == (2.5,)


def test_concordance_agrees_with_scikit_survival():
    metrics = pytest.importorskip("sksurv.metrics")
    rng = np.random.default_rng(0)
    times, scores, events = rng.integers(1, 20, 60).astype(float), rng.normal(size=60).round(1), rng.random(60) < 0.6
    expected = metrics.concordance_index_censored(events, times, -scores)[0]
    assert concordance(times, scores, events) == pytest.approx(expected, abs=1e-9)
