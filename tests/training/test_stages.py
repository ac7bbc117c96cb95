"""Which parts learn when: both requires_grad and train/eval, at every boundary, in any order."""

from __future__ import annotations

import pytest
from torch import nn

from wsikit.errors import RequestError
from wsikit.training.stages import Stage, StagePlan


@pytest.fixture
def parts() -> dict[str, nn.Module]:
    return {name: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)) for name in ("image", "text", "fusion")}


def learning(parts: dict[str, nn.Module]) -> set[str]:
    states = {name: (part.training, all(p.requires_grad for p in part.parameters())) for name, part in parts.items()}
    assert all(training == grad for training, grad in states.values()), (
        "a frozen part must be in eval mode, and no other"
    )
    return {name for name, (training, _) in states.items() if training}


@pytest.mark.parametrize(
    ("epoch", "names"),
    [
        (0, {"image", "fusion"}),
        (49, {"image", "fusion"}),
        (50, {"image", "text", "fusion"}),
        (99, {"image", "text", "fusion"}),
        (100, {"fusion"}),
        (149, {"fusion"}),
    ],
)
def test_the_published_stages(parts: dict[str, nn.Module], epoch: int, names: set[str]):
    StagePlan().apply(epoch, parts)
    assert learning(parts) == names


def test_a_run_that_goes_back_is_freed_again(parts: dict[str, nn.Module]):
    """The published code only ever froze; a resumed run stayed frozen."""
    plan = StagePlan()
    plan.apply(120, parts)
    plan.apply(60, parts)
    assert learning(parts) == {"image", "text", "fusion"}


def test_a_part_that_the_model_lacks_is_named(parts: dict[str, nn.Module]):
    with pytest.raises(RequestError, match="vision"):
        StagePlan((Stage("all", 0, frozenset({"vision"})),)).apply(0, parts)


def test_stages_must_begin_at_the_first_epoch_and_rise():
    with pytest.raises(RequestError, match="first must begin at 0"):
        StagePlan((Stage("late", 5, frozenset({"fusion"})),))
