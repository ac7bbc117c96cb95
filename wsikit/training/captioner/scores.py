"""How well captions state measured facts, beside what no look at the image would cost: the floors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsikit.captions.parser import fact_f1, parse


@dataclass(frozen=True)
class CaptionScore:
    """Agreement of some captions with the measured ones."""

    name: str
    n: int
    fact_f1: float
    """There or not: amounts do not count."""
    fact_f1_graded: float
    """Amounts must agree too."""


@dataclass(frozen=True)
class TermScore:
    """One term: how often its word is the measured one, and how often the commonest word would be."""

    term: str
    n: int
    """References that speak of it."""
    accuracy: float
    floor: float


def score_captions(
    references: Sequence[str], captions: Sequence[str], training: Sequence[str], *, seed: int = 0
) -> list[CaptionScore]:
    """The captions, and the floors: always one caption, the one that serves best; that of another patch at random.

    Parameters
    ----------
    references
        Measured captions.
    captions
        Generated ones of the same patches.
    training
        Captions that were learned from: the one to repeat is the best of their commonest, for them.
    """
    common = best_constant(training)
    others = [references[i] for i in np.random.default_rng(seed).permutation(len(references))]
    candidates = {
        "generated": captions,
        "floor: always one caption, the best there is": [common] * len(references),
        "floor: measured caption of another patch": others,
    }
    return [
        CaptionScore(
            name,
            len(references),
            round(fact_f1(references, texts).f1, 4),
            round(fact_f1(references, texts, graded=True).f1, 4),
        )
        for name, texts in candidates.items()
    ]


def best_constant(training: Sequence[str]) -> str:
    """The one caption that, said of every training patch, states their graded facts best."""
    tried = [text for text, _ in Counter(training).most_common(40)]
    sample = training[:: max(1, len(training) // 500)]
    return max(tried, key=lambda text: fact_f1(sample, [text] * len(sample), graded=True).f1)


def score_terms(references: Sequence[str], captions: Sequence[str]) -> list[TermScore]:
    """Term by term, those first of which the references speak most."""
    truth, claims = [parse(text) for text in references], [parse(text) for text in captions]
    counts: Counter[str] = Counter(term for terms in truth for term in terms)
    scores = []
    for term, n in counts.most_common():
        pairs = [(read[term], claim.get(term)) for read, claim in zip(truth, claims, strict=True) if term in read]
        commonest = Counter(word for word, _ in pairs).most_common(1)[0][1]
        hits = sum(word == claim for word, claim in pairs)
        scores.append(TermScore(term, n, round(hits / n, 4), round(commonest / n, 4)))
    return scores
