"""Mitosis-karyorrhexis index (MKI) and INPC's prognostic groups (favourable, unfavourable), from given cell counts.

No patch model gives an MKI. For research only; INPC needs untreated tissue, several sections and a pathologist.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from wsikit.errors import RequestError

FAVOURABLE, UNFAVOURABLE = "FH", "UH"
LOW, INTERMEDIATE, HIGH = MKI_CLASSES = ("low", "intermediate", "high")

MKI_LIMITS = (100.0, 200.0)
"""Per 5,000 cells: below the first low, above the second high, otherwise intermediate (limits included)."""
MKI_BANDS = ((90.0, 110.0), (190.0, 210.0))
"""Borderline ranges: sources differ on which side 200 belongs to."""
MKI_CELLS = 5000
"""Neuroblasts that must be counted; fewer give no index."""
YOUNG_MONTHS, OLD_MONTHS = 18.0, 60.0
_Z = 1.959963984540054  # 97.5 % of the normal distribution


@dataclass(frozen=True)
class Mki:
    """Counted mitotic and karyorrhectic neuroblasts.

    >>> Mki(80, 5000).reading
    'low'
    """

    count: int
    cells: int
    """Neuroblasts examined."""

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.cells or self.cells < 1:
            raise RequestError(f"MKI: {self.count} of {self.cells} cells; expected 0 ≤ count ≤ cells, and cells ≥ 1")

    @property
    def per_5000(self) -> float:
        return 5000.0 * self.count / self.cells

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval, per 5,000 cells: Wilson's for a binomial proportion (E. B. Wilson 1927)."""
        n, share = self.cells, self.count / self.cells
        middle = share + _Z**2 / (2 * n)
        half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n * n))
        scale = 5000.0 / (1 + _Z**2 / n)
        return max(0.0, (middle - half) * scale), min(5000.0, (middle + half) * scale)

    @property
    def reading(self) -> str | None:
        """low, intermediate or high; None where too few cells were counted."""
        return None if self.cells < MKI_CELLS else mki_class(self.per_5000)

    @property
    def borderline(self) -> str:
        """Why its class is borderline; empty if it is not."""
        if self.cells < MKI_CELLS:
            return ""
        for low, high in MKI_BANDS:
            if low <= self.per_5000 <= high:
                return f"MKI {self.per_5000:.0f} per 5,000 lies within {low:g}–{high:g}"
        low, high = self.interval
        crossed = [limit for limit in MKI_LIMITS if low <= limit <= high]
        return f"the MKI interval {low:.0f}–{high:.0f} per 5,000 contains {crossed[0]:g}" if crossed else ""


@dataclass(frozen=True)
class Clinical:
    """Clinical data that a slide does not contain."""

    age_months: float | None = None
    """At diagnosis."""
    mki: Mki | str | None = None
    """Counts, or the class given by a pathologist: low, intermediate, high. For GNB-N that of the nodule."""
    treated: bool | None = None
    """Whether the patient had chemotherapy before the tissue was taken."""

    def __post_init__(self) -> None:
        if self.age_months is not None and not (math.isfinite(self.age_months) and self.age_months >= 0):
            raise RequestError(f"age of {self.age_months} months: expected 0 or more")
        if isinstance(self.mki, str) and self.mki not in MKI_CLASSES:
            raise RequestError(f"MKI {self.mki!r}: expected {', '.join(MKI_CLASSES)}, or counts")

    @property
    def mki_reading(self) -> str | None:
        """Class of the MKI; None where it is not known."""
        return self.mki.reading if isinstance(self.mki, Mki) else self.mki

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of age, MKI and treatment are unknown, in words."""
        found = [] if self.age_months is not None else ["age at diagnosis"]
        if isinstance(self.mki, Mki) and self.mki.reading is None:
            found.append(f"MKI: counted on {self.mki.cells:,} cells, {MKI_CELLS:,} are needed")
        elif self.mki is None:
            found.append("MKI")
        return tuple(found if self.treated is not None else [*found, "treatment before the tissue was taken"])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Clinical:
        """The inverse of `to_json`."""
        mki = record["mki"]
        return cls(**{**record, "mki": Mki(**mki) if isinstance(mki, dict) else mki})


def mki_class(per_5000: float) -> str:
    """Class of an index: below 100 low, 100 to 200 intermediate, above 200 high.

    >>> mki_class(99), mki_class(200)
    ('low', 'intermediate')
    """
    low, high = MKI_LIMITS
    return LOW if per_5000 < low else INTERMEDIATE if per_5000 <= high else HIGH


def neuroblastoma_group(category: str, age_months: float, mki: str) -> str:
    """Prognostic group, favourable (FH) or unfavourable (UH), of stroma-poor neuroblastoma ("UD", "PD", "D").

    Shimada 1999, with the ages of Sano 2006.

    >>> neuroblastoma_group("PD", 17.9, "intermediate"), neuroblastoma_group("PD", 18, "low")
    ('FH', 'UH')
    """
    if category not in ("UD", "PD", "D") or mki not in MKI_CLASSES:
        raise RequestError(f"group of category {category!r} with MKI {mki!r}: expected UD, PD or D, and an MKI class")
    if age_months >= OLD_MONTHS or category == "UD" or mki == HIGH:
        return UNFAVOURABLE
    if age_months < YOUNG_MONTHS:
        return FAVOURABLE
    return FAVOURABLE if category == "D" and mki == LOW else UNFAVOURABLE
