"""The value of a slide, by a model on labels of slides that gives one: a value, a risk, or an expected grade.

Values and risks are stored with the predictions (`wsikit.inference.slide_value`); an expected grade is the mean of the
grades 1 … C, weighted by the slide's probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsikit.models.mil_config import EXPECTED_GRADE, VALUE
from wsikit.store.slide_vectors import read_slide_vector
from wsikit.store.table import PatchTable

TITLES = {VALUE: "Value of the slide", "risk": "Risk of the slide", EXPECTED_GRADE: "Expected grade"}
"""For display, by kind."""


@dataclass(frozen=True)
class SlideValue:
    """One number of a slide, with what it is.

    >>> SlideValue("expected_grade", 2.25, "UD = 1 to D = 3").words()
    '2.25 (UD = 1 to D = 3)'
    """

    kind: str
    """"value", "risk" (higher: earlier), or "expected_grade"."""
    value: float
    unit: str = ""
    """Of a grade: its ends, such as "UD = 1 to D = 3"."""

    @property
    def title(self) -> str:
        """For display."""
        return TITLES.get(self.kind, self.kind)

    def words(self) -> str:
        """Number and unit: four significant digits."""
        number = f"{self.value:.4g}"
        return f"{number} ({self.unit})" if self.kind != VALUE and self.unit else f"{number} {self.unit}".strip()


def stored_value(table: PatchTable) -> SlideValue | None:
    """The value that was stored with the predictions of a table; None if there is none, or if it is of others."""
    if VALUE not in table.columns():
        return None
    vector = read_slide_vector(table, VALUE)
    if vector is None:
        return None
    for name, digest in vector.receipt.inputs.items():
        receipt = table.receipt(name)
        if receipt is None or receipt.digest != digest:
            return None
    kind = str(vector.attributes.get("kind", VALUE))
    return SlideValue(kind, float(vector.values[0]), str(vector.attributes.get("unit", "")))


def expected_grade(model: Mapping[str, Any], classes: Sequence[str], probs: Sequence[float]) -> SlideValue | None:
    """The expected grade of a slide whose model has ordered classes; None for other models, and where no patch voted.

    Parameters
    ----------
    model
        What was recorded about it with the predictions.
    classes, probs
        Codes from lowest to highest, and the slide's probabilities (C,).
    """
    if (model.get("vote") or {}).get("pool") != "ordinal" or not all(math.isfinite(p) for p in probs):
        return None
    grade = sum(number * p for number, p in enumerate(probs, start=1))
    return SlideValue(EXPECTED_GRADE, float(grade), f"{classes[0]} = 1 to {classes[-1]} = {len(classes)}")
