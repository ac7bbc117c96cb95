"""Cox's model on labels of slides: its loss against the formula and scikit-survival, and what is learned with it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.mil.conftest import Cohort, settings
from wsikit.errors import RequestError
from wsikit.models.mil_network import MilNetwork
from wsikit.models.registry import load_patch_model
from wsikit.training.mil import fit
from wsikit.training.mil.cohort import Bag
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.run import run_mil_training

COX = {"pooling": "mean", "hidden": 8, "attention": 4, "dropout": 0.0, "survival": "cox"}


def cox_settings(manifest: Path, **changes: Any) -> MilTrainConfig:
    return settings(manifest, **{"task": "survival", "classes": [], "mil": COX} | changes)


def bag(features: np.ndarray, time: float, event: bool, name: str = "s") -> Bag:
    x = np.asarray(features, np.float32)
    return Bag(name, name, x, np.zeros((len(x), 2), np.int64), value=time, event=event)


def linear_network(beta: np.ndarray) -> MilNetwork:
    """A network whose slide logit is exactly beta · the mean of the features: relu(x) and relu(-x) with both signs."""
    d = len(beta)
    made = MilNetwork(d, hidden=2 * d, attention=2, outputs=1, pooling="mean", task="survival", dropout=0.0)
    with torch.no_grad():
        made.embed.weight.copy_(torch.cat([torch.eye(d), -torch.eye(d)]))
        made.embed.bias.zero_()
        made.head.weight.copy_(torch.as_tensor(np.concatenate([beta, -beta]), dtype=torch.float32)[None])
        made.head.bias.zero_()
    return made


def cohort_with_ties(n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(n, 3))
    times = np.ceil(rng.exponential(np.exp(-x @ [1.0, -0.5, 0.0])) * 3)  # whole months: many are equal
    return x, times, rng.random(n) < 0.7


def test_the_loss_is_the_formula_of_efron():
    # events at 2 (risks a, b) while c is still observed; c is censored later
    risks = {"a": 0.3, "b": -0.2, "c": 1.1}
    bags = [bag([[risks["a"]]], 2, True), bag([[risks["b"]]], 2, True), bag([[risks["c"]]], 5, False)]
    network = linear_network(np.ones(1))
    a, b, c = (np.exp(value) for value in risks.values())
    expected = -(np.log(a / (a + b + c)) + np.log(b / (a + b + c - (a + b) / 2))) / 2
    parts = [torch.as_tensor(one.features) for one in bags]
    found = fit.step_loss(network, parts, bags, cox_settings(Path("x.csv")), fit.Targets())
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("ties", "is_optimum"), [("efron", True), ("breslow", False)])
def test_the_optimum_of_scikit_survival_with_efron_ties_is_that_of_the_loss(ties: str, is_optimum: bool):
    linear = pytest.importorskip("sksurv.linear_model")
    from wsikit.training.cohort.linear import survival_array

    x, times, events = cohort_with_ties()
    assert len(np.unique(times[events])) < events.sum() / 3
    beta = linear.CoxPHSurvivalAnalysis(alpha=0, ties=ties, tol=1e-12).fit(x, survival_array(times, events)).coef_
    bags = [bag(row[None], time, event) for row, time, event in zip(x, times, events, strict=True)]
    network = linear_network(beta)
    parts = [torch.as_tensor(one.features) for one in bags]
    fit.step_loss(network, parts, bags, cox_settings(Path("x.csv")), fit.Targets()).backward()
    grad = network.head.weight.grad
    assert grad is not None
    slope = (grad[0, :3] - grad[0, 3:]).abs().max().item()  # along beta, as one half of the weights is minus the other
    assert (slope < 1e-5) == is_optimum, slope


def test_validation_compares_all_slides_however_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch):
    x, times, events = cohort_with_ties(40)
    bags = [bag(row[None], time, event) for row, time, event in zip(x, times, events, strict=True)]
    parts, network = [torch.as_tensor(one.features) for one in bags], linear_network(np.array([1.0, -0.5, 0.2]))
    config = cox_settings(Path("x.csv"))
    whole = float(fit.step_loss(network, parts, bags, config, fit.Targets()).detach())
    monkeypatch.setattr(fit, "_HELD_AT_ONCE", 7)
    assert fit.mean_loss(network, parts, bags, config, fit.Targets()) == pytest.approx(whole, rel=1e-6)


def times_of(i: int) -> dict[str, Any]:
    return {"time": (1 if (i // 2) % 2 else 30) + i % 3, "event": int(i % 5 > 0)}


def trained(cohort: Cohort, out: Path, pooling: str = "abmil") -> float:
    """Share of pairs of an early and a late test slide in which the early one has the higher risk."""
    manifest = cohort(24, 2, {name: lambda i, name=name: times_of(i)[name] for name in ("time", "event")})
    config = cox_settings(manifest, mil=COX | {"pooling": pooling}, training={"epochs": 30, "lr": 0.01, "batch": 16})
    run_mil_training(config, manifest, out)
    rows = list(csv.DictReader((out / "slides.csv").open()))
    early, late = ([float(row["predicted"]) for row in rows if (float(row["value"]) < 10) == side] for side in (1, 0))
    return float(np.mean([one > other for one in early for other in late]))


@pytest.mark.parametrize("pooling", ["abmil", "mean", "max"])
def test_it_learns_which_patches_make_an_event_early(cohort: Cohort, tmp_path: Path, pooling: str):
    assert trained(cohort, tmp_path / "out", pooling) > 0.9
    model: Any = load_patch_model(tmp_path / "out" / "model")
    x = np.zeros((2, 4), np.float32)
    x[1, 0] = 4.0
    plain, marked = model.predict(features=x)["value"]
    assert marked > plain
    (column,) = [column for column in model.info.columns if column.name == "value"]
    assert (column.unit, column.kind) == ("log hazard ratio", "risk")
    assert "partial likelihood" in (tmp_path / "out" / "model" / "README.md").read_text()


def test_the_order_that_is_learned_is_that_of_the_times_which_the_loss_sees(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def backwards(risks: torch.Tensor, times: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        return fit_cox(risks, -times, events)

    fit_cox = fit.cox_loss
    monkeypatch.setattr(fit, "cox_loss", backwards)
    assert trained(cohort, tmp_path / "out") < 0.1


def test_a_part_without_comparable_slides_is_refused():
    rng = np.random.default_rng(0)
    some = [bag(rng.normal(size=(3, 4)), float(i), i == 1) for i in range(4)]
    alone = [bag(rng.normal(size=(3, 4)), 5.0, True), bag(rng.normal(size=(3, 4)), 5.0, False)]
    with pytest.raises(RequestError, match="fold 1, validation slides: no event while another slide"):
        fit.fit_member(some, alone, cox_settings(Path("x.csv")), fit.Targets())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": "regression"}, "survival: cox is for task survival"),
        ({"training": {"batch": 1}}, "give a batch of 2 or more"),
    ],
)
def test_settings_that_cox_cannot_use(changes: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        cox_settings(Path("x.csv"), **changes)
