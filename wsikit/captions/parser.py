"""Parser of captions: from a text to terms with grades, including negation. And fact-F1, which compares two captions.

Texts may be written by our captioners, a person or a language model. Words outside the vocabulary are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wsikit.captions.lexicon import TONE_HEAD
from wsikit.errors import RequestError
from wsikit.facts import ABSENT, ABUNDANT, FACTS, MODERATE, PRESENT, SCANT, TONE

# Longer wordings first where one holds another.
_TERMS = {
    "neuropil": r"neuropil(?:-like)?|fibrill\w+ (?:matrix|background|material)|neuritic \w+|neurites",
    "rosettes": r"(?:homer[- ]wright )?rosettes?(?:-like)?(?: rings?)?",
    "ganglion_cells": r"gangli\w+(?:[- ]like)? cells?",
    "large_pale_nuclei": r"(?:large )?(?:pale|vesicular) nuclei",
    "maturing_neuroblasts": r"differentiating neuroblasts?|maturing (?:cells?|neuroblasts?)",
    "spindle_stroma": r"schwann\w+(?: (?:cell )?stroma)?|spindle(?:[- ]cell)?s? stroma|wavy spindle cells",
    "blood": r"ha?emorrhag\w+|blood|red cells|erythrocytes",
    "necrosis": r"necro\w+(?:-like(?: areas?)?)?",
    "calcification": r"calcif\w+|calcium",
    "lymphoid": r"lympho\w+(?: infiltrates?)?",
    "mitoses": r"mitos[ei]s(?:/karyorrhexis)?|mitotic figures?|karyorrhexis",
    "fat": r"fat|adipo\w+(?: tissue)?",
    "lumen": r"lumens?|lumina",
    "haematoxylin": r"ha?ematoxylin",
    "eosin": r"eosin(?!o)",
    "brown": r"brown(?: \w+)?",
    "grey": r"gr[ea]y(?: dust or ink)?",
    "black": r"black",
    "blank": r"bare glass|blank",
    "pen": r"pen(?: marks?)?",
    "blur": r"blur\w*|out of focus",
}
TERMS = tuple(_TERMS)
"""Terms for components of tissue, as `parse` returns them. It also returns terms for nuclei, colour and texture."""

_GRADES = {
    ABSENT: r"absent|none|not (?:seen|present|found|identified)|not",
    SCANT: r"scant\w*|few|focal\w*|scattered|rare|occasional|minimal|septa only|< ?5 ?%",
    MODERATE: r"moderate\w*|some|< ?50 ?%|> ?5 ?%",
    ABUNDANT: r"abundant|many|extensive\w*|marked|diffuse\w*|prominent|numerous|> ?50 ?%",
    PRESENT: r"present|seen|immature|mature",
}
_BEFORE = r"no|without|lacks?|lacking|devoid of|free of|absence of|negative for"
_TOKENS = re.compile(
    "|".join(
        [rf"(?P<deny>\b(?:{_BEFORE})\b)"]
        + [rf"(?P<t_{name}>\b(?:{words})\b)" for name, words in _TERMS.items()]
        + [rf"(?P<g_{grade}>(?<![\w-])(?:{words})(?![\w-]))" for grade, words in _GRADES.items()]
        + [
            r"(?P<turn>\bbut\b|\bwith\b|\bhowever\b|[;:]|\.(?!\d))",
            r"(?P<comma>,(?!\d))",
            r"(?P<join>\band\b|\bor\b|\bnor\b)",
        ]
    ),
    re.IGNORECASE,
)

_CELLS = {
    "cellularity": {
        ABSENT: r"hardly any nuclei",
        SCANT: r"sparse(?:ly cellular)?|hypocellular|paucicellular",
        MODERATE: r"moderately cellular",
        ABUNDANT: r"densely cellular|hypercellular|highly cellular",
    },
    "nuclear_size": {
        size: rf"{size}(?= \(|,? round|,? uniform| nuclei| neuroblasts| cells)(?! pale| vesicular)"
        for size in ("small", "medium-sized", "large")
    },
    "nuclear_shape": {
        "partly elongated": r"partly elongated",
        "elongated": r"(?<!partly )elongated",
        "round": r"round(?!ed)",
    },
    "size_variation": {
        "very variable": r"very variable in size|pleomorphic",
        "variable": r"(?<!very )variable in size",
        "uniform": r"uniform in size",
    },
    "chromatin": {
        "medium dark": r"medium dark",
        "pale": r"(?:in size, |with )pale",
        "dark": r"(?:in size, |with )dark|hyperchromatic",
    },
}

_TONE = re.compile(rf"\b{TONE_HEAD}: ([a-z, ]*)\.")
_TONE_WORDS = {word: (FACTS[name].term, word) for name in TONE for _, word in FACTS[name].grades}


def parse(text: str) -> dict[str, str]:
    """Parse a caption: term to grade.

    Returns
    -------
    dict
        Components of tissue ("neuropil", "blood", …) to "absent", "scant", "moderate", "abundant" or, if no amount is
        given, "present"; nuclei ("nuclear_size", "chromatin", …), colour and texture to their words. If a term occurs
        twice, the first grade other than "present" is kept.

    Examples
    --------
    >>> parse("Abundant neuropil without rosettes; no necrosis or haemorrhage.")
    {'neuropil': 'abundant', 'rosettes': 'absent', 'necrosis': 'absent', 'blood': 'absent'}
    """
    read: dict[str, str] = {}
    tone = _TONE.search(text)
    text = _TONE.sub("", text)
    for sentence in _clauses(text):
        for term, grade in _read_clause(sentence):
            if read.get(term, PRESENT) == PRESENT:
                read[term] = grade
    for term, words in _CELLS.items():
        for grade, pattern in words.items():
            if re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, re.IGNORECASE):
                read.setdefault(term, grade)
    words_of_tone = re.findall(r"[a-z]+", tone[1]) if tone else []
    return read | dict(_TONE_WORDS[word] for word in words_of_tone if word in _TONE_WORDS)


def _clauses(text: str) -> list[list[tuple[str, str]]]:
    """Tokens (kind, name) between full stops, semicolons and turns of the sentence."""
    clauses: list[list[tuple[str, str]]] = [[]]
    for match in _TOKENS.finditer(text):
        kind = match.lastgroup or ""
        if kind == "turn":
            clauses.append([])
        else:
            clauses[-1].append((kind[:1] if kind[1:2] == "_" else kind, kind[2:] if kind[1:2] == "_" else ""))
    return clauses


def _read_clause(tokens: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Terms with grades. An amount precedes or follows its terms, up to the next comma; a negation applies up to
    the end of the clause, unless an amount follows it."""
    found: list[list[str]] = []
    denied, amount, open_terms = False, "", 0
    for kind, name in tokens:
        if kind == "deny":
            denied, amount, open_terms = True, "", 0
        elif kind == "comma":
            amount, open_terms = "", 0
        elif kind == "g" and open_terms:
            for term in found[-open_terms:]:
                term[1] = name
            open_terms = 0
        elif kind == "g":
            denied, amount = name == ABSENT, name
        elif kind == "t":
            found.append([name, ABSENT if denied else amount or PRESENT])
            open_terms += not (denied or amount)
    return [(term, grade) for term, grade in found]


@dataclass(frozen=True, slots=True)
class FactScore:
    """Agreement of candidate captions with reference captions, micro-averaged over all pairs."""

    precision: float
    recall: float
    f1: float
    n_reference: int
    """Number of facts in the references."""


def fact_f1(references: Sequence[str], candidates: Sequence[str], *, graded: bool = False) -> FactScore:
    """Micro-averaged F1 over the (term, grade) pairs of captions. "No neuropil" and "neuropil" disagree.

    Parameters
    ----------
    references, candidates
        Texts; the i-th of each describe the same patch.
    graded
        Whether amounts must agree as well; otherwise only presence and absence.

    Raises
    ------
    RequestError
        The numbers of texts differ.

    Examples
    --------
    >>> fact_f1(["Abundant neuropil. No necrosis."], ["Scant neuropil."]).f1
    0.6666666666666666
    """
    if len(references) != len(candidates):
        raise RequestError(
            f"{len(references)} reference captions and {len(candidates)} candidates: expected equal numbers"
        )
    hits = n_reference = n_candidate = 0
    for reference, candidate in zip(references, candidates):
        truth, claim = (_pairs(parse(text), graded) for text in (reference, candidate))
        hits, n_reference, n_candidate = hits + len(truth & claim), n_reference + len(truth), n_candidate + len(claim)
    precision, recall = hits / max(1, n_candidate), hits / max(1, n_reference)
    return FactScore(precision, recall, 2 * hits / max(1, n_reference + n_candidate), n_reference)


def _pairs(terms: dict[str, str], graded: bool) -> set[tuple[str, str]]:
    amounts = (SCANT, MODERATE, ABUNDANT)
    return {(term, PRESENT if not graded and value in amounts else value) for term, value in terms.items()}
