"""From a caption to the statements that are true of its patch: its sentences, and short phrases of what it names.

People ask with one word ("neuropil"); captions are long and name what is absent as well. So texts for training also are
phrases made of a caption's terms (`wsikit.captions.parse`), such as "moderate neuropil" or "no necrosis". Two patches
share a statement if it is true of both: it is then a positive of both, whatever else their captions say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsikit.captions.parser import parse
from wsikit.encoders.concepts import CONCEPTS
from wsikit.facts import ABSENT, PRESENT
from wsikit.scrub import scrub
from wsikit.training.afloc.phrases import Phrase, answers

NAMES: dict[str, tuple[str, ...]] = {
    "neuropil": ("neuropil", "fibrillary matrix", "neuropil-like matrix", "neurites"),
    "rosettes": ("Homer Wright rosettes", "rosettes"),
    "ganglion_cells": ("ganglion cells", "ganglion-like cells"),
    "large_pale_nuclei": ("large vesicular nuclei",),
    "maturing_neuroblasts": ("maturing neuroblasts",),
    "spindle_stroma": ("Schwannian stroma", "Schwann cell stroma", "spindle cell stroma", "wavy spindle cells"),
    "blood": ("blood", "haemorrhage", "hemorrhage", "red cells", "erythrocytes"),
    "necrosis": ("necrosis", "necrotic tissue", "ghost cells and nuclear debris"),
    "calcification": ("calcification", "calcium"),
    "lymphoid": ("lymphocytes", "lymphoid infiltrate"),
    "mitoses": ("mitoses", "karyorrhexis"),
    "fat": ("fat", "adipose tissue"),
    "lumen": ("lumens",),
    "haematoxylin": ("haematoxylin",),
    "eosin": ("eosin",),
    "blank": ("bare glass", "empty background"),
    "septa": ("fibrovascular septa", "fibrous septa", "fibrovascular tissue"),
    "neuroblasts": ("neuroblasts", "tumour cells", "tumor cells", "small round blue cells"),
}
"""Term to its names; the first is the usual one."""

_CONCEPTS = {
    "neuropil": "neuropil",
    "rosettes": "rosettes",
    "ganglion_cells": "ganglion-cells",
    "spindle_stroma": "schwannian-stroma",
    "blood": "haemorrhage",
    "necrosis": "necrosis",
    "calcification": "calcification",
    "lymphoid": "lymphocytes",
    "mitoses": "mitosis-karyorrhexis",
    "fat": "fat",
    "blank": "background",
}
"""Term to the concept of the lexicon whose synonyms name it as well: the words that `wsikit localize` asks with."""

_MORE_TERMS = {
    "neuroblasts": (r"(?<!no )\b(?:small round|undifferentiated) neuroblasts", r"no neuroblasts"),
    "septa": (r"fibrovascular (?:septum|tissue)|septa only", r"(?!)"),
}
"""Terms that the parser does not have: where they are present, and where absent."""

_SEPTA_ONLY = re.compile(r"stroma septa only", re.IGNORECASE)

TEMPLATES = (
    "{}", "{}.", "{} present", "there is {}", "an H&E image of {}", "a photomicrograph of {}", "a patch with {}",
    "histology showing {}", "tissue with {}", "a histopathology image showing {}", "{} is present",
)  # fmt: skip
NEGATIONS = (
    "no {}", "{} absent", "without {}", "an H&E image without {}", "a patch with no {}", "no {}.",
    "an H&E image of no {}", "a histopathology image showing no {}", "no {} is present",
)  # fmt: skip
_PIECES = re.compile(r"[.;:](?!\d)")


@dataclass(frozen=True)
class Statements:
    """Statements of N patches."""

    texts: tuple[str, ...]
    """K statements, each different."""
    holds: npt.NDArray[np.bool_]
    """(N, K), True where the statement is true of the patch by its caption."""
    groups: npt.NDArray[np.int64]
    """(K,) group of each statement: phrases of one term and one polarity, or all sentences. Drawn equally often."""
    reports: tuple[str, ...]
    """Length N: the captions, without words that name a class."""
    terms: tuple[str, ...]
    """Terms that the captions name."""
    named: npt.NDArray[np.float32]
    """(N, T) per term 1 if the caption says that it is there, 0 if not, NaN if this is not known."""
    phrases: tuple[Phrase, ...] = ()
    """Further phrases, of the configuration."""
    answered: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(N, P) per phrase 1 where it is true, 0 where its opposite is, else NaN."""


def terms_of(caption: str) -> dict[str, str]:
    """Terms of a caption with grades, as `wsikit.captions.parse`, and those that only training knows.

    >>> terms_of("Necrosis with ghost cells; no neuroblasts; neuropil absent.")
    {'necrosis': 'present', 'neuropil': 'absent', 'neuroblasts': 'absent'}
    """
    found = {term: grade for term, grade in parse(caption).items() if term in NAMES}
    for term, (present, absent) in _MORE_TERMS.items():
        if re.search(absent, caption, re.IGNORECASE):
            found[term] = ABSENT
        elif re.search(present, caption, re.IGNORECASE):
            found[term] = PRESENT
    if _SEPTA_ONLY.search(caption):
        found["spindle_stroma"] = ABSENT  # septa are no Schwannian stroma, though the parser counts them as a little
    return found


def sentences_of(caption: str) -> list[str]:
    """Sentences and clauses of a caption, at full stops, colons and semicolons; single words are kept.

    >>> sentences_of("Densely cellular: 0.5 mm; neuropil absent. Fat.")
    ['Densely cellular', '0.5 mm', 'neuropil absent', 'Fat']
    """
    return [piece.strip() for piece in _PIECES.split(caption) if piece.strip()]


def statements_of(
    captions: Sequence[str], *, closed_world: bool = True, at_least: int = 2, phrases: Sequence[Phrase] = ()
) -> Statements:
    """Statements of captions, and of which patches each is true.

    Parameters
    ----------
    closed_world
        What a caption does not name is absent from its patch. For captions that name all they find.
    at_least
        Number of patches of which a sentence must be true; sentences with measured numbers are true of one patch only.
        Phrases are kept in any case.
    phrases
        Phrases of the configuration, which are statements as well.
    """
    scrubbed = [scrub(caption) for caption in captions]
    read = [terms_of(caption) for caption in captions]
    terms = tuple(term for term in NAMES if any(term in one for one in read))
    rows: dict[str, set[int]] = {}
    for row, caption in enumerate(scrubbed):
        for sentence in sentences_of(caption):
            rows.setdefault(sentence, set()).add(row)
    rows = {text: where for text, where in rows.items() if len(where) >= at_least}
    groups = dict.fromkeys(rows, 0)
    presence = np.full((len(captions), len(terms)), np.nan, dtype=np.float32)
    for row, named in enumerate(read):
        if not captions[row].strip():
            continue
        for term in terms:
            grade = named.get(term, ABSENT if closed_world else "")
            if grade:
                presence[row, terms.index(term)] = grade != ABSENT
            for text in _phrases(term, grade):
                rows.setdefault(text, set()).add(row)
                groups[text] = 1 + 2 * terms.index(term) + (grade != ABSENT)
    answered = answers(phrases, captions)
    for number, phrase in enumerate(phrases):
        for said, texts in enumerate((phrase.deny, phrase.say)):
            there = set(np.flatnonzero(answered[:, number] == said).tolist())
            for text in texts if there else ():
                rows.setdefault(text, set()).update(there)
                groups[text] = 1 + 2 * (len(terms) + number) + said
    holds = np.zeros((len(captions), len(rows)), dtype=bool)
    for column, where in enumerate(rows.values()):
        holds[list(where), column] = True
    numbers = np.array([groups[text] for text in rows], dtype=np.int64)
    return Statements(tuple(rows), holds, numbers, tuple(scrubbed), terms, presence, tuple(phrases), answered)


def _phrases(term: str, grade: str) -> list[str]:
    if not grade:
        return []
    if grade == ABSENT:
        return [form.format(name) for name in names_of(term) for form in NEGATIONS]
    graded = [] if grade == PRESENT else [f"{grade} {name}" for name in names_of(term)]
    return [form.format(name) for name in names_of(term) for form in TEMPLATES] + graded


def names_of(term: str) -> tuple[str, ...]:
    """Names of a term, the usual one first, and the synonyms of the lexicon.

    >>> names_of("fat")[:3]
    ('fat', 'adipose tissue', 'adipocytes')
    """
    more = CONCEPTS[_CONCEPTS[term]].synonyms if term in _CONCEPTS else ()
    return tuple(dict.fromkeys((*NAMES[term], *more)))
