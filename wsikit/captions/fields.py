"""Fields: large images at low power that hold a block of patches, for generative captioners. Numbers and words only."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from wsikit.errors import RequestError

FIELD_REVISION = 2
"""Raise it when the same field is placed, or its patches are named, in another way. It is part of the receipts."""

FIELD_MPP = 2.0
"""Default µm/px of a field."""

_LOST = re.compile(r" of the field, (less than 1|\d+) % of which could not be read\.\)$")

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


def with_position(text: str, position: str, lost: float = 0.0) -> str:
    """The text of a field, for one of its patches. `lost` is the share of the field that could not be read, 0–1.

    Examples
    --------
    >>> with_position("Abundant neuropil.", "upper left")
    'Abundant neuropil. (This patch: upper left of the field.)'
    >>> with_position("Abundant neuropil.", "left", 0.124)
    'Abundant neuropil. (This patch: left of the field, 12 % of which could not be read.)'
    """
    missing = f", {share_in_words(lost)} of which could not be read" if lost > 0 else ""
    return f"{text} (This patch: {position} of the field{missing}.)"


def lost_in(text: str) -> float:
    """The share of the field that could not be read, from the caption of one of its patches; to a percent.

    Examples
    --------
    >>> lost_in(with_position("Neuropil.", "left", 0.29)), lost_in(with_position("Neuropil.", "left"))
    (0.29, 0.0)
    """
    found = _LOST.search(text)
    if found is None:
        return 0.0
    return 0.005 if found[1].startswith("less") else int(found[1]) / 100


def share_in_words(share: float) -> str:
    """A share of a field in percent; above 0 it is never 0 %.

    Examples
    --------
    >>> share_in_words(0.124), share_in_words(0.001), share_in_words(0.996)
    ('12 %', 'less than 1 %', '99 %')
    """
    return "less than 1 %" if share < 0.01 else f"{math.floor(100 * share + 1e-9)} %"
