"""Patches by what is said or measured of them: a query in words against captions and facts. Texts in, row numbers out.

A patch is found if every term of the query holds there, said in its caption or measured on it, and nothing speaks
against it. Silence is no absence: "without rosettes" finds patches of which it is stated that there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.captions.parser import TERMS, parse
from wsikit.errors import RequestError
from wsikit.facts import ABSENT, ABUNDANT, FACTS, MODERATE, PRESENT, SCANT

_AMOUNTS = (SCANT, MODERATE, ABUNDANT)
_GRADED = {"cellularity": (ABSENT, *_AMOUNTS)}  # an ordinal whose lowest step is a find too
_NEXT_TO = 0.5  # an amount beside the one asked for; also "present" where an amount is asked for
_IF_ANY = {SCANT: 0.7, PRESENT: 0.8, MODERATE: 0.85, ABUNDANT: 1.0}  # asked for without an amount: more is better
_BORROWED = 0.9  # what a caption shared with another patch says is less sure

SAID, MEASURED, SHARED = "said", "measured", "said of a patch like it"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a term on a patch."""

    grade: str
    source: str
    """`SAID`, `MEASURED` or `SHARED`."""


@dataclass(frozen=True, slots=True)
class Match:
    """A patch that fits a query."""

    row: int
    score: float
    """0 … 1: how well the amounts fit, mean over the terms."""
    why: dict[str, Evidence]
    """By term of the query."""


@dataclass(frozen=True)
class Patches:
    """What is known of N patches."""

    texts: Sequence[str]
    """N captions, empty where there is none."""
    own: npt.NDArray[np.bool_]
    """(N,) False where the caption is that of another patch."""
    facts: npt.NDArray[np.float32]
    """(N, F) measured on the patch itself; NaN where not measured."""
    fact_names: Sequence[str] = ()


def understand(query: str) -> dict[str, str]:
    """The terms of a query with the grade that each is wanted at.

    Raises
    ------
    RequestError
        If there is no word of the vocabulary in it.

    Examples
    --------
    >>> understand("neuropil without rosettes, densely cellular")
    {'neuropil': 'present', 'rosettes': 'absent', 'cellularity': 'abundant'}
    """
    wanted = parse(query)
    if not wanted:
        known = ", ".join(term.replace("_", " ") for term in TERMS)
        raise RequestError(
            f"query {query!r}: no word of the vocabulary in it. Ask for {known}, cellularity or nuclei, "
            'e.g. "abundant neuropil, no necrosis" or "densely cellular, small round nuclei".'
        )
    return wanted


def find(patches: Patches, wanted: Mapping[str, str]) -> list[Match]:
    """Rows that fit terms with grades, as `understand` gives them, the best first.

    Among equals, first those with more of what was asked for, then by row.
    """
    measured = _measurements(patches, wanted)
    matches = []
    for row, text in enumerate(patches.texts):
        match = _match(row, wanted, _said(text, bool(patches.own[row])), _graded(measured, row))
        if match is not None:
            matches.append(match)
    strength = {match.row: _strength(measured, wanted, match.row) for match in matches}
    return sorted(matches, key=lambda match: (-match.score, -strength[match.row], match.row))


def count_terms(patches: Patches, wanted: Mapping[str, str]) -> dict[str, int]:
    """How many patches fit each term alone: tells which one nothing fits."""
    return {term: len(find(patches, {term: grade})) for term, grade in wanted.items()}


def _match(
    row: int, wanted: Mapping[str, str], said: Mapping[str, Evidence], measured: Mapping[str, Evidence]
) -> Match | None:
    why: dict[str, Evidence] = {}
    fits: list[float] = []
    for term, grade in wanted.items():
        known = [evidence[term] for evidence in (measured, said) if term in evidence]
        scores = [fit(term, grade, evidence.grade) for evidence in known]
        if not scores or min(scores) <= 0:
            return None  # nobody says so, or somebody says otherwise
        best = int(np.argmax(scores))
        why[term] = known[best]
        fits.append(scores[best] * (_BORROWED if known[best].source == SHARED else 1.0))
    return Match(row, float(np.mean(fits)), why)


def fit(term: str, wanted: str, found: str) -> float:
    """How well a grade that was found fits the one that is wanted, 0 (against it) … 1."""
    steps = _GRADED.get(term, _AMOUNTS)
    if wanted == found:
        return _IF_ANY[PRESENT] if wanted == PRESENT else 1.0
    if wanted == PRESENT:
        return _IF_ANY.get(found, 0.0)
    if wanted in steps and found in steps:
        return _NEXT_TO if abs(steps.index(wanted) - steps.index(found)) == 1 else 0.0
    return _NEXT_TO if wanted in _AMOUNTS and found == PRESENT else 0.0


def _said(text: str, own: bool) -> dict[str, Evidence]:
    if not text:
        return {}
    return {term: Evidence(grade, SAID if own else SHARED) for term, grade in parse(text).items()}


def _measurements(patches: Patches, wanted: Mapping[str, str]) -> dict[str, tuple[str, npt.NDArray[np.float32]]]:
    """Term to its fact's name and values, of the terms wanted that can be measured."""
    columns = {name: index for index, name in enumerate(patches.fact_names)}
    return {
        fact.term: (name, patches.facts[:, columns[name]])
        for name, fact in FACTS.items()
        if fact.term in wanted and name in columns
    }


def _graded(measured: Mapping[str, tuple[str, npt.NDArray[np.float32]]], row: int) -> dict[str, Evidence]:
    return {
        term: Evidence(FACTS[name].grade(float(values[row])), MEASURED)
        for term, (name, values) in measured.items()
        if np.isfinite(values[row])
    }


def _strength(
    measured: Mapping[str, tuple[str, npt.NDArray[np.float32]]], wanted: Mapping[str, str], row: int
) -> float:
    """How much there is of what was wanted, and how little of what was not, against the patch that has most of it."""
    total = 0.0
    for term, (_, values) in measured.items():
        most = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
        if most > 0 and np.isfinite(values[row]) and wanted[term] in (ABSENT, PRESENT, ABUNDANT):
            total += float(values[row]) / most * (-1 if wanted[term] == ABSENT else 1)
    return total
