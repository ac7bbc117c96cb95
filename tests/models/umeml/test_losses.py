"""The losses of UMEML against values by hand and slow loops over the equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from wsikit.models.umeml.losses import cox_loss, discrete_nll, discrete_risk, log_survival, ordinal_log_probs


def logit(p: float) -> float:
    return math.log(p / (1 - p))


HAZARDS = (0.1, 0.2, 0.5, 0.4)
SURVIVAL = (0.9, 0.72, 0.36, 0.216)


@pytest.mark.parametrize(
    ("interval", "censored", "expected"),
    [
        (0, False, -math.log(0.1)),  # S before the first interval is 1
        (1, False, -math.log(0.9 * 0.2)),
        (2, False, -math.log(0.72 * 0.5)),
        (3, False, -math.log(0.36 * 0.4)),
        (0, True, -math.log(0.9)),
        (2, True, -math.log(0.36)),
        (3, True, -math.log(0.216)),  # censored in the last interval
    ],
)
def test_the_likelihood_of_discrete_hazards_equals_a_table_by_hand(
    interval: int, censored: bool, expected: float
) -> None:
    logits = torch.tensor([[logit(h) for h in HAZARDS]], dtype=torch.float64)
    found = discrete_nll(logits, torch.tensor([interval]), torch.tensor([censored]))
    assert found.item() == pytest.approx(expected)


def test_curve_and_risk_of_hazards_equal_the_table() -> None:
    logits = torch.tensor([[logit(h) for h in HAZARDS]], dtype=torch.float64)
    assert log_survival(logits).exp()[0].tolist() == pytest.approx(SURVIVAL)
    assert discrete_risk(logits).item() == pytest.approx(-sum(SURVIVAL))


def test_the_share_of_the_uncensored_weighs_them_alone() -> None:
    logits = torch.tensor([[logit(h) for h in HAZARDS]] * 2, dtype=torch.float64)
    interval, censored = torch.tensor([1, 1]), torch.tensor([False, True])
    event, cens = -math.log(0.9 * 0.2), -math.log(0.72)
    found = discrete_nll(logits, interval, censored, uncensored_share=0.25)
    assert found.item() == pytest.approx((0.75 * (event + cens) + 0.25 * event) / 2)


def test_certain_hazards_stay_finite_with_their_gradients() -> None:
    logits = torch.tensor([[60.0, -60.0], [-60.0, 60.0], [200.0, 200.0]], requires_grad=True)
    loss = discrete_nll(logits, torch.tensor([1, 1, 1]), torch.tensor([False, True, True]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def slow_efron(risk: Tensor, time: Tensor, event: Tensor) -> float:
    """Efron's partial likelihood (1977) by loops: minus its logarithm over the number of events."""
    total = 0.0
    for t in sorted({float(t) for t, d in zip(time, event) if d}):
        tied = [i for i in range(len(time)) if event[i] and float(time[i]) == t]
        at_risk = [i for i in range(len(time)) if float(time[i]) >= t]
        for number, i in enumerate(tied):
            among = sum(math.exp(float(risk[j])) for j in at_risk)
            among -= number / len(tied) * sum(math.exp(float(risk[j])) for j in tied)
            total += float(risk[i]) - math.log(among)
    return -total / int(event.sum())


def slow_breslow(risk: Tensor, time: Tensor, event: Tensor) -> float:
    total = 0.0
    for i in torch.nonzero(event).flatten().tolist():
        total += float(risk[i]) - math.log(
            sum(math.exp(float(risk[j])) for j in range(len(time)) if float(time[j]) >= float(time[i]))
        )
    return -total / int(event.sum())


@pytest.mark.parametrize("seed", range(4))
def test_cox_with_ties_equals_the_slow_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = torch.tensor(rng.integers(1, 7, 30))  # many ties, of events with events and with the censored
    event, risk = torch.tensor(rng.random(30) < 0.6), torch.tensor(rng.normal(size=30) * 2)
    assert cox_loss(risk, time, event).item() == pytest.approx(slow_efron(risk, time, event))
    assert cox_loss(risk, time, event, ties="breslow").item() == pytest.approx(slow_breslow(risk, time, event))


def test_efron_and_breslow_differ_only_with_ties() -> None:
    risk, event = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64), torch.tensor([True, True, True])
    apart, tied = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 3.0])
    torch.testing.assert_close(cox_loss(risk, apart, event), cox_loss(risk, apart, event, ties="breslow"))
    assert cox_loss(risk, tied, event).item() < cox_loss(risk, tied, event, ties="breslow").item()


def test_cox_of_large_risks_and_of_no_event_is_finite() -> None:
    time, event = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([True, True, False])
    risk = torch.tensor([400.0, -400.0, 0.0], requires_grad=True)
    cox_loss(risk, time, event).backward()
    assert risk.grad is not None
    assert bool(torch.isfinite(risk.grad).all())
    assert cox_loss(risk, time, torch.zeros(3, dtype=torch.bool)).item() == 0.0


def test_probabilities_of_grades_are_the_differences_of_cumulative_ones() -> None:
    score = torch.tensor([-3.0, 0.2, 40.0], dtype=torch.float64)
    cuts = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    above = torch.sigmoid(score[:, None] - cuts)
    bounds = torch.cat([torch.ones(3, 1), above, torch.zeros(3, 1)], dim=1)
    torch.testing.assert_close(ordinal_log_probs(score, cuts).exp(), bounds[:, :-1] - bounds[:, 1:])
    assert bool(torch.isfinite(ordinal_log_probs(score, cuts)).all())  # also of what is all but impossible
