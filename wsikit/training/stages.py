"""Table of which parts of a model are trained in which epochs. Applying it is idempotent, so a run can be resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikit.errors import RequestError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, from its epoch to that of the next stage."""

    name: str
    from_epoch: int
    learns: frozenset[str]
    """Names of the trained parts; all others are frozen."""


PAPER_STAGES = (
    Stage("image", 0, frozenset({"image", "fusion"})),
    Stage("both", 50, frozenset({"image", "text", "fusion"})),
    Stage("fusion", 100, frozenset({"fusion"})),
)
"""As published, over 150 epochs: text frozen, both trained, both frozen."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """The stages, ordered by epoch, the first at epoch 0."""

    stages: tuple[Stage, ...] = PAPER_STAGES

    def __post_init__(self) -> None:
        starts = [stage.from_epoch for stage in self.stages]
        if not starts or starts[0] != 0 or any(a >= b for a, b in zip(starts, starts[1:])):
            raise RequestError(
                f"stages begin at epochs {starts}; the first must begin at 0 and each after the one before."
            )

    def at(self, epoch: int) -> Stage:
        """The stage of `epoch`, counted from 0."""
        return [stage for stage in self.stages if stage.from_epoch <= epoch][-1]

    def apply(self, epoch: int, parts: Mapping[str, nn.Module]) -> Stage:
        """Set requires_grad and train/eval of every part as the table says for `epoch`.

        A frozen part is in eval mode: its dropout adds no noise, its batch statistics are fixed.

        Raises
        ------
        RequestError
            If the table names a part that the model does not have.
        """
        stage = self.at(epoch)
        if unknown := stage.learns - parts.keys():
            raise RequestError(
                f"stage {stage.name!r} trains unknown parts {sorted(unknown)}; the model has {sorted(parts)}."
            )
        for name, part in parts.items():
            part.requires_grad_(name in stage.learns)
            part.train(name in stage.learns)
        return stage
