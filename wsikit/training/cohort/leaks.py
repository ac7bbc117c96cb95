"""Columns that may give the answer away, by their names: they define the class, or were known only after the event.

A name cannot prove a leak. What is found is a warning, which `--strict` refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXPRESSION = re.compile(r"(^|[_ .-])(rna|rnaseq|rna-seq|mrna|expr|expression|fpkm|tpm|counts?)$", re.IGNORECASE)
"""Columns of expression: a gene's expression is not the status that defines a class."""


@dataclass(frozen=True)
class Leak:
    """A kind of column that gives the answer away."""

    pattern: re.Pattern[str]
    """Searched in the name of the column, with `_`, `.` and `-` as spaces."""
    reason: str
    of_glioma: bool = False
    """Only where the classes look like those of glioma."""


_AGAIN = "states the diagnosis itself"
_LATER = "is known only after the event or at the end of the follow-up"

_ARMS = "1p/19q codeletion and other changes of whole arms define the WHO class of gliomas"
_SEVEN = "gain of 7 with loss of 10 defines glioblastoma"

FOR_CLASSES = (
    Leak(re.compile(r"\bidh ?[12]?\b", re.I), "IDH status defines the WHO class of gliomas", of_glioma=True),
    Leak(re.compile(r"\b(chr ?)?\d{1,2} ?[pq]\b|\bcodel", re.I), _ARMS, of_glioma=True),
    Leak(re.compile(r"\bchr(omosome)? ?(7|10)\b|\b7 ?gain|\b10 ?loss", re.I), _SEVEN, of_glioma=True),
    Leak(
        re.compile(r"\begfr\b", re.I), "amplification of EGFR is a criterion of glioblastoma (WHO 2021)", of_glioma=True
    ),
    Leak(
        re.compile(r"\bcdkn2[ab]\b", re.I), "loss of CDKN2A/B makes an astrocytoma grade 4 (WHO 2021)", of_glioma=True
    ),
    Leak(re.compile(r"\btert\b|\bh3 ?(k27|g34|f3a)", re.I), "it defines a WHO class of gliomas", of_glioma=True),
    Leak(re.compile(r"\b(oncotree|diagnosis|histolog\w*|who cns\w*|subtype|tumou?r ?type|icd ?o?)\b", re.I), _AGAIN),
    Leak(
        re.compile(r"\b(grade|stage|gleason)\b", re.I), "a grade or stage, read by a pathologist from the same slides"
    ),
)

FOR_SURVIVAL = (
    Leak(
        re.compile(r"\b(survival|follow ?up|last contact|days to (death|last)|time to (death|event))\b", re.I), _LATER
    ),
    Leak(re.compile(r"\b(os|pfs|dss|dfi|pfi|dfs)( (time|months|days|status|event|cens\w*))?$", re.I), _LATER),
    Leak(re.compile(r"\b(vital status|deceased|death|died|dead|censor\w*|event)\b", re.I), _LATER),
    Leak(re.compile(r"\b(recurr\w*|progress\w*|relapse\w*|new tumou?r)\b", re.I), _LATER),
)

_GLIOMA = re.compile(r"glio|astro|oligo|\bgbm|\blgg|\bodg\b|\bidh|who.?cns", re.IGNORECASE)


def looks_like_glioma(column: str, values: Sequence[str]) -> bool:
    """Whether the classes are those of gliomas, by the names of the column and of its values.

    >>> looks_like_glioma("oncotree_code", ["GBM", "ODG"]), looks_like_glioma("oncotree_code", ["IDC", "ILC"])
    (True, False)
    """
    return any(_GLIOMA.search(text) for text in (column, *values))


def leaks(columns: Mapping[str, Sequence[str]], *, of: Sequence[Leak], glioma: bool = False) -> dict[str, list[str]]:
    """The columns that a rule names, by its reason.

    Parameters
    ----------
    columns
        Names by modality, as they are given to the model.
    of
        `FOR_CLASSES` or `FOR_SURVIVAL`.
    glioma
        Also apply the rules of gliomas.

    >>> leaks({"mut": ["IDH1_mut", "TP53_mut"], "rna": ["IDH1_rnaseq"]}, of=FOR_CLASSES, glioma=True)
    {'IDH status defines the WHO class of gliomas': ['IDH1_mut']}
    """
    found: dict[str, list[str]] = {}
    for names in columns.values():
        for name in names:
            if EXPRESSION.search(name):
                continue
            words = re.sub(r"[_.\-/]+", " ", name)
            for leak in of:
                if (glioma or not leak.of_glioma) and leak.pattern.search(words):
                    found.setdefault(leak.reason, []).append(name)
                    break
    return found
