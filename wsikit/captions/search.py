"""Search for patches by a query in words, in captions and measured facts. Texts in, row numbers out.

A patch matches if every term of the query is stated in its caption or measured on it, and neither source contradicts
it. A missing statement is not an absence: "without rosettes" finds patches for which rosettes are stated or measured
to be absent.
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
_GRADED = {"cellularity": (ABSENT, *_AMOUNTS)}  # here the lowest grade is a finding as well
_ADJACENT = 0.5  # score of a neighbouring amount; also of "present" if the query has an amount
_ANY_AMOUNT = {SCANT: 0.7, PRESENT: 0.8, MODERATE: 0.85, ABUNDANT: 1.0}  # no amount in the query: more is better
_SHARED_WEIGHT = 0.9  # a caption shared with another patch is weaker evidence

STATED, MEASURED, SHARED = "stated", "measured", "stated for a similar patch"
"""Sources of evidence: the patch's own caption, a measured fact, a shared caption."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The grade of a term on a patch, and its source."""

    grade: str
    source: str
    """`STATED`, `MEASURED` or `SHARED`."""


@dataclass(frozen=True, slots=True)
class Match:
    """A patch that matches a query."""

    row: int
    score: float
    """0 to 1: how well the amounts match, mean over the terms."""
    why: dict[str, Evidence]
    """Evidence by term of the query."""


@dataclass(frozen=True)
class Patches:
    """Captions and facts of N patches."""

    texts: Sequence[str]
    """N captions; empty if there is none."""
    own: npt.NDArray[np.bool_]
    """(N,) False if the caption is that of another patch."""
    facts: npt.NDArray[np.float32]
    """(N, F) measured on the patch itself; NaN if not measured."""
    fact_names: Sequence[str] = ()


def parse_query(query: str) -> dict[str, str]:
    """Parse a query: term to the grade that is searched for.

    Raises
    ------
    RequestError
        The query has no word of the vocabulary.

    Examples
    --------
    >>> parse_query("neuropil without rosettes, densely cellular")
    {'neuropil': 'present', 'rosettes': 'absent', 'cellularity': 'abundant'}
    """
    wanted = parse(query)
    if not wanted:
        known = ", ".join(term.replace("_", " ") for term in TERMS)
        raise RequestError(
            f"query {query!r}: no word of the vocabulary in it. Search for {known}, cellularity or nuclei, "
            'e.g. "abundant neuropil, no necrosis" or "densely cellular, small round nuclei".'
        )
    return wanted


def find(patches: Patches, wanted: Mapping[str, str]) -> list[Match]:
    """Rows that match the terms of a query, best first.

    Parameters
    ----------
    wanted
        Term to grade, as `parse_query` returns them.

    Returns
    -------
    list of Match
        Sorted by score, then by the measured amount of what was searched for, then by row.

    Examples
    --------
    >>> patches = Patches(["Abundant neuropil.", "No neuropil."], np.array([True, True]), np.empty((2, 0), np.float32))
    >>> [match.row for match in find(patches, parse_query("neuropil"))]
    [0]
    """
    measured = _measurements(patches, wanted)
    matches = []
    for row, text in enumerate(patches.texts):
        match = _match(row, wanted, _stated(text, bool(patches.own[row])), _graded(measured, row))
        if match is not None:
            matches.append(match)
    strength = {match.row: _strength(measured, wanted, match.row) for match in matches}
    return sorted(matches, key=lambda match: (-match.score, -strength[match.row], match.row))


def count_terms(patches: Patches, wanted: Mapping[str, str]) -> dict[str, int]:
    """Number of patches that match each term alone: shows which term has no match."""
    return {term: len(find(patches, {term: grade})) for term, grade in wanted.items()}


def _match(
    row: int, wanted: Mapping[str, str], stated: Mapping[str, Evidence], measured: Mapping[str, Evidence]
) -> Match | None:
    why: dict[str, Evidence] = {}
    weights: list[float] = []
    for term, grade in wanted.items():
        known = [evidence[term] for evidence in (measured, stated) if term in evidence]
        scores = [grade_match(term, grade, evidence.grade) for evidence in known]
        if not scores or min(scores) <= 0:
            return None  # no evidence, or evidence against it
        best = int(np.argmax(scores))
        why[term] = known[best]
        weights.append(scores[best] * (_SHARED_WEIGHT if known[best].source == SHARED else 1.0))
    return Match(row, float(np.mean(weights)), why)


def grade_match(term: str, wanted: str, found: str) -> float:
    """How well the grade found matches the grade wanted, 0 (contradicts it) to 1.

    Examples
    --------
    >>> grade_match("neuropil", "abundant", "moderate"), grade_match("neuropil", "abundant", "absent")
    (0.5, 0.0)
    """
    steps = _GRADED.get(term, _AMOUNTS)
    if wanted == found:
        return _ANY_AMOUNT[PRESENT] if wanted == PRESENT else 1.0
    if wanted == PRESENT:
        return _ANY_AMOUNT.get(found, 0.0)
    if wanted in steps and found in steps:
        return _ADJACENT if abs(steps.index(wanted) - steps.index(found)) == 1 else 0.0
    return _ADJACENT if wanted in _AMOUNTS and found == PRESENT else 0.0


def _stated(text: str, own: bool) -> dict[str, Evidence]:
    if not text:
        return {}
    return {term: Evidence(grade, STATED if own else SHARED) for term, grade in parse(text).items()}


def _measurements(patches: Patches, wanted: Mapping[str, str]) -> dict[str, tuple[str, npt.NDArray[np.float32]]]:
    """Term to the name and values of its fact, for those of the wanted terms that were measured."""
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
    """Measured amount of what was searched for, minus that of what should be absent, each relative to its maximum."""
    total = 0.0
    for term, (_, values) in measured.items():
        most = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
        if most > 0 and np.isfinite(values[row]) and wanted[term] in (ABSENT, PRESENT, ABUNDANT):
            total += float(values[row]) / most * (-1 if wanted[term] == ABSENT else 1)
    return total
