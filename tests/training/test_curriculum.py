"""The text's weight by epoch, against the published table."""

from __future__ import annotations

import pytest

from wsikit.errors import RequestError
from wsikit.training.curriculum import CurriculumSchedule


@pytest.mark.parametrize(
    ("epoch", "alpha"),
    [(0, 0.3), (49, 0.3), (50, 0.3), (59, 0.3), (60, 0.44), (90, 0.86), (99, 0.86), (100, 1.0), (149, 1.0)],
)
def test_the_published_course(epoch: int, alpha: float):
    assert CurriculumSchedule().alpha(epoch) == alpha


def test_the_course_is_the_same_over_fewer_epochs():
    full, short = CurriculumSchedule(), CurriculumSchedule.over(30)
    assert short.milestones == (10, 20)
    assert [short.alpha(epoch) for epoch in range(30)] == [full.alpha(5 * epoch) for epoch in range(30)]


def test_the_weight_never_falls_and_stays_between_its_ends():
    alphas = [CurriculumSchedule.over(17).alpha(epoch) for epoch in range(17)]
    assert alphas == sorted(alphas)
    assert (alphas[0], alphas[-1]) == (0.3, 1.0)


@pytest.mark.parametrize("epochs", [1, 2])
def test_too_few_epochs_for_the_course_are_refused(epochs: int):
    with pytest.raises(RequestError, match="take more epochs"):
        CurriculumSchedule.over(epochs, rise=(0.4, 0.9))


def test_milestones_that_do_not_rise_are_refused():
    with pytest.raises(RequestError, match="must rise"):
        CurriculumSchedule((10, 10))
