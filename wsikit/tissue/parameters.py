"""Parameters of a tissue mask, in physical units, so that they are independent of slide size and scanner."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from wsikit.errors import RequestError

STAINS = ("auto", "brightfield", "fluorescence")


@dataclass(frozen=True, slots=True)
class TissueParameters:
    """Settings of a tissue mask. Every number is a length in µm, an area in mm², or an optical density.

    >>> TissueParameters(min_area_mm2=0.1).to_json()["min_area_mm2"]
    0.1
    """

    mpp: float = 8.0
    """µm per mask pixel; the mask of a coarser slide has the pixel size of the slide."""
    min_area_mm2: float = 0.02
    """Smaller regions are removed as dust: 0.02 mm² is 140 µm square, a third of the section of a fine-needle core."""
    max_hole_mm2: float = 0.03
    """Smaller holes are filled: fat cells (up to 0.01 mm²), vessels, small lumina."""
    min_pen_mm2: float = 0.05
    """Smaller ink-coloured spots are treated as pigment, smaller black ones at the slide's edge as tissue."""
    closing_um: float = 24.0
    """Gaps of up to twice this width are closed: the walls of fat cells are thinner than a mask pixel."""
    margin_um: float = 48.0
    """Margin around pen marks and black borders that is excluded, because their edges are soft."""
    min_density: float = 0.045
    """Minimum stain, as optical density (natural logarithm) above the glass. Noisy glass raises it, at most twofold."""
    stain: str = "auto"
    """Imaging mode: `brightfield`, `fluorescence`, or `auto` to detect it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                continue
            least_ok = value > 0 if field.name in ("mpp", "min_density") else value >= 0
            if not (math.isfinite(value) and least_ok):
                raise RequestError(f"tissue parameter {field.name} = {value}: it must be a finite positive number")
        if self.stain not in STAINS:
            raise RequestError(f"tissue parameter stain = {self.stain!r}: it must be one of {', '.join(STAINS)}")

    def to_json(self) -> dict[str, Any]:
        """Field names and values, as plain JSON values."""
        return asdict(self)
