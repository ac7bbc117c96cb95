"""How well captions state measured facts, compared with baselines that do not use the image."""

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
    """Presence only: amounts are ignored."""
    fact_f1_graded: float
    """Amounts must agree as well."""


@dataclass(frozen=True)
class TermScore:
    """Accuracy of one term, and accuracy of always using its most common word."""

    term: str
    n: int
    """Number of references that mention it."""
    accuracy: float
    floor: float


def score_captions(
    references: Sequence[str], captions: Sequence[str], training: Sequence[str], *, seed: int = 0
) -> list[CaptionScore]:
    """Scores of the captions and of two baselines: the best constant caption; the caption of another, random patch.

    Parameters
    ----------
    references
        Measured captions.
    captions
        Generated ones of the same patches.
    training
        Training captions: the constant caption is the best of their most common ones, on these.
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
    """The constant caption with the best graded fact-F1 on the training captions."""
    tried = [text for text, _ in Counter(training).most_common(40)]
    sample = training[:: max(1, len(training) // 500)]
    return max(tried, key=lambda text: fact_f1(sample, [text] * len(sample), graded=True).f1)


def score_terms(references: Sequence[str], captions: Sequence[str]) -> list[TermScore]:
    """Scores per term, the most frequent in the references first."""
    truth, claims = [parse(text) for text in references], [parse(text) for text in captions]
    counts: Counter[str] = Counter(term for terms in truth for term in terms)
    scores = []
    for term, n in counts.most_common():
        pairs = [(read[term], claim.get(term)) for read, claim in zip(truth, claims, strict=True) if term in read]
        commonest = Counter(word for word, _ in pairs).most_common(1)[0][1]
        hits = sum(word == claim for word, claim in pairs)
        scores.append(TermScore(term, n, round(hits / n, 4), round(commonest / n, 4)))
    return scores
