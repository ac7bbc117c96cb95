"""Fields: large images at low power that hold a block of patches, for generative captioners. Numbers and words only."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from wsikit.errors import RequestError

FIELD_REVISION = 1
"""Raise it when the same field is placed, or its patches are named, in another way. It is part of the receipts."""

FIELD_MPP = 2.0
"""Default µm/px of a field."""

_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


@dataclass(frozen=True, slots=True)
class Field:
    """A square image that a captioner describes for all the patches in it.

    Examples
    --------
    >>> Field(896).side_um
    1792.0
    """

    px: int
    """Side, px."""
    mpp: float = FIELD_MPP
    """µm per px."""

    def __post_init__(self) -> None:
        if self.px < 1 or not (math.isfinite(self.mpp) and self.mpp > 0):
            raise RequestError(
                f"caption field of {self.px} px at {self.mpp} µm/px: expected 1 px or more, above 0 µm/px"
            )

    @property
    def side_um(self) -> float:
        """Side, µm."""
        return self.px * self.mpp

    def to_json(self) -> dict[str, Any]:
        """As part of a fingerprint."""
        return {**asdict(self), "revision": FIELD_REVISION}


def field_of(captioner: object) -> Field | None:
    """The field that a captioner describes: its attribute `field`; None: single patches."""
    found = getattr(captioner, "field", None)
    return found if isinstance(found, Field) else None


def position_in_field(x: float, y: float) -> str:
    """Where a patch is in its field, in words, from its centre as fractions of the field's side from the top left.

    Examples
    --------
    >>> position_in_field(0.1, 0.2), position_in_field(0.9, 0.5), position_in_field(0.5, 0.5)
    ('upper left', 'right', 'centre')
    """
    row, column = (min(2, max(0, math.floor(3 * place))) for place in (y, x))
    if row == 1:
        return _COLUMNS[column]
    return f"{_ROWS[row]} {_COLUMNS[column]}"


def with_position(text: str, position: str) -> str:
    """The text of a field, for one of its patches.

    Examples
    --------
    >>> with_position("Abundant neuropil.", "upper left")
    'Abundant neuropil. (This patch: upper left of the field.)'
    """
    return f"{text} (This patch: {position} of the field.)"
