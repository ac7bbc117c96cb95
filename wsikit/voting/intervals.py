"""The two intervals of a vote: sampling within the slide, and with the error of the model. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Interval:
    """Within-slide sampling interval of the vote: a percentile bootstrap over square blocks of tissue.

    It says how far the vote depends on which part of this tissue is on the slide, and holds no error of the model.
    """

    level: float
    """Confidence level, such as 0.95."""
    low: Floats
    """(C,) lower ends for `SlideResult.probs`."""
    high: Floats
    """(C,) upper ends."""
    margin: tuple[float, float]
    """Ends for `SlideResult.margin`, measured for the leading class: below 0 where another class leads."""
    leading_share: float
    """Share of the bootstrap draws in which the leading class leads, 0 to 1."""
    n_blocks: int
    """Blocks with voting patches."""
    block_um: float
    """Side of a block, µm."""

    def words(self) -> str:
        """What it is, in words."""
        return f"{percent(self.level)} within-slide sampling interval"


@dataclass(frozen=True, eq=False)
class ShareInterval:
    """Interval of each class's share with the error of the model, learned from validation patients.

    Of new patients like these, the true share of a class lies within in at least a fraction `level`.
    """

    level: float
    """Such as 0.9."""
    low: Floats
    """(C,) lower ends for `SlideResult.probs`."""
    high: Floats
    """(C,) upper ends."""
    patients: int
    """Number of validation patients that it was learned from."""
    kind: str = "split conformal"

    def words(self) -> str:
        """What it is, in words."""
        return f"{percent(self.level)} interval with the model's error ({self.patients} validation patients)"

    def to_json(self) -> dict[str, Any]:
        """As values that `from_json` reads back; `low` and `high` stay arrays."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ShareInterval:
        """The inverse of `to_json`, after JSON."""
        ends = {name: np.asarray(record[name], dtype=np.float64) for name in ("low", "high")}
        return cls(**{**record, **ends})


def percent(level: float) -> str:
    """A level as text.

    >>> percent(0.9), percent(0.975)
    ('90 %', '97.5 %')
    """
    return f"{100 * level:g} %"
