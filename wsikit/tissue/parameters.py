"""What decides a tissue mask, all of it in physical units, so that no slide's shape or scanner enters."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from wsikit.errors import RequestError

STAINS = ("auto", "brightfield", "fluorescence")


@dataclass(frozen=True, slots=True)
class TissueParameters:
    """Settings of a tissue mask. Every number is a length in µm, an area in mm², or an optical density."""

    mpp: float = 8.0
    """µm per mask pixel; a slide scanned more coarsely is masked at its own pixel size."""
    min_area_mm2: float = 0.02
    """Smaller pieces are dust: 0.02 mm² is 140 µm square, a third of the section of a fine-needle core."""
    max_hole_mm2: float = 0.03
    """Smaller holes belong to the tissue: fat cells (to 0.01 mm²), vessels, small lumina."""
    min_pen_mm2: float = 0.05
    """Smaller ink-coloured spots are taken for pigment, smaller black ones at the slide's edge for tissue."""
    closing_um: float = 24.0
    """Gaps up to twice this are closed: the walls of fat cells are thinner than a mask pixel."""
    margin_um: float = 48.0
    """Kept clear around pen marks and black borders, whose edges are soft."""
    min_density: float = 0.045
    """Least stain, as optical density (natural logarithm) above the glass. Noisy glass raises it, to twice this."""
    stain: str = "auto"
    """What the slide is: `auto` looks at it, `brightfield` and `fluorescence` decide for it."""

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
        return asdict(self)
