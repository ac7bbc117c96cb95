"""Curriculum: the weight of the text rises over the epochs. Pure functions of the epoch, counted from 0."""

from __future__ import annotations

from dataclasses import dataclass

from wsikit.errors import RequestError


@dataclass(frozen=True, slots=True)
class CurriculumSchedule:
    """Piecewise constant weight alpha: `start`, then `steps` plateaus between the milestones, then `end`.

    The defaults are the schedule as published: 0.3 before epoch 50, 0.30, 0.44, 0.58, 0.72, 0.86 for ten epochs each,
    1.0 from epoch 100 on.

    >>> [CurriculumSchedule().alpha(epoch) for epoch in (0, 60, 99, 100)]
    [0.3, 0.44, 0.86, 1.0]
    """

    milestones: tuple[int, int] = (50, 100)
    """First epoch of the rise, first epoch at `end`."""
    start: float = 0.3
    end: float = 1.0
    steps: int = 5

    def __post_init__(self) -> None:
        first, last = self.milestones
        if not 0 <= first < last or self.steps < 1 or not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise RequestError(
                f"curriculum: milestones {self.milestones}, steps {self.steps}, {self.start} to {self.end}; "
                "milestones must rise, steps be at least 1, weights lie in [0, 1]."
            )

    def alpha(self, epoch: int) -> float:
        """Weight of the fused loss and of the text in the gate at `epoch`."""
        first, last = self.milestones
        if epoch < first:
            return self.start
        if epoch >= last:
            return self.end
        plateau = (epoch - first) * self.steps // (last - first)
        return round(self.start + plateau * (self.end - self.start) / self.steps, 12)

    @classmethod
    def over(
        cls,
        epochs: int,
        *,
        rise: tuple[float, float] = (1 / 3, 2 / 3),
        start: float = 0.3,
        end: float = 1.0,
        steps: int = 5,
    ) -> CurriculumSchedule:
        """The same schedule over `epochs`; `rise` gives the milestones as fractions of them.

        Raises
        ------
        RequestError
            If there are too few epochs to reach the end of the schedule.
        """
        first, last = round(rise[0] * epochs), round(rise[1] * epochs)
        if not 0 <= first < last < epochs:
            raise RequestError(
                f"curriculum: {epochs} epochs with a rise at {rise[0]:.2f} to {rise[1]:.2f} of them never reach "
                f"the end weight {end}; take more epochs or another rise."
            )
        return cls((first, last), start, end, steps)
