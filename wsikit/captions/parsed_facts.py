"""From the words of a caption to numbers with their uncertainty: what a grade says of the fact behind it.

A generated caption states grades, not measurements: "moderate neuropil" is a share between two limits of
`wsikit.facts.FACTS`. Its fact is that interval, as midpoint and half-width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from wsikit.captions.parser import parse
from wsikit.facts import FACTS, STATED

PARSED_REVISION = 2
"""Raise it when the same caption gives other numbers."""

_OF_TERM = {fact.term: name for name, fact in (FACTS | STATED).items() if fact.term}
_GREATEST = {"share": 1.0}
"""Upper limit of the last grade by unit; else the last grade is as wide as the one before it."""
_GREATEST_COUNT = 5.0
_AMOUNTS = ("share", "count", "per mm²")
"""Units whose first grade begins at 0; else it is as wide as the one after it."""


def facts_of_text(text: str) -> dict[str, tuple[float, float]]:
    """Fact name to (value, half-width) of its interval, for all facts that a caption states; see `parse`.

    Examples
    --------
    >>> value, half_width = facts_of_text("Moderate neuropil.")["fibrillary_share"]
    >>> round(value - half_width, 2), round(value + half_width, 2)
    (0.18, 0.3)
    >>> facts_of_text("Lymphocytes seen.")
    {}
    """
    return {name: (value, width) for name, value, width in _stated(text)}


def facts_of_texts(
    texts: Sequence[str], names: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Values and half-widths of the facts `names` that captions state, float32 (N, F) each; the value is NaN, and the
    half-width 0, where a caption does not state a fact."""
    values = np.full((len(texts), len(names)), np.nan, dtype=np.float32)
    widths = np.zeros_like(values)
    places = {name: column for column, name in enumerate(names)}
    for row, text in enumerate(texts):
        for name, value, width in _stated(text) if text else ():
            if name in places:
                values[row, places[name]], widths[row, places[name]] = value, width
    return values, widths


@lru_cache(maxsize=1 << 16)
def _stated(text: str) -> tuple[tuple[str, float, float], ...]:
    """(fact, value, half-width) of each fact that a caption states; similar patches share captions."""
    found = []
    for term, grade in parse(text).items():
        if name := _OF_TERM.get(term):
            low, high = _interval(name, grade)
            found.append((name, (low + high) / 2, (high - low) / 2))
    return tuple(found)


@cache
def _interval(name: str, grade: str) -> tuple[float, float]:
    """Interval of a grade; of "present", or a word that the fact does not have: everything but the first grade."""
    fact = (FACTS | STATED)[name]
    words = [word for _, word in fact.grades]
    limits = [limit for limit, _ in fact.grades[:-1]]
    if fact.unit in _GREATEST:
        top = _GREATEST[fact.unit]
    else:
        top = 2 * limits[-1] - limits[-2] if len(limits) > 1 else _GREATEST_COUNT
    start = 0.0 if fact.unit in _AMOUNTS or len(limits) == 1 else max(0.0, 2 * limits[0] - limits[1])
    edges = [start, *limits, top]
    if grade not in words:
        return edges[1], edges[-1]
    place = words.index(grade)
    return edges[place], edges[place + 1]
