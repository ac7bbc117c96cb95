"""Voting parameters fitted on validation slides: temperature, parameters of each method, minimum margin.

No test slide is used; an error is raised if a patient is in both parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.area_fractions import Share
from wsikit.voting.inpc import Rules, decide_poor
from wsikit.voting.inpc_facts import DIFFERENTIATING, NEUROPIL
from wsikit.voting.parameters import ThresholdRule, VoteParameters, VoteRule
from wsikit.voting.result import SlideResult
from wsikit.voting.vote import Evidence, vote

Floats = npt.NDArray[np.float64]

TEMPERATURES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "mean": {"temperature": TEMPERATURES},
    "hard": {},
    "log": {"temperature": (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)},
    "soft_clinical": {"beta": (0.0, 3.0, 10.0, 30.0), "gamma": (0.1, 1.0, 3.0, 10.0), "temperature": TEMPERATURES},
    "confidence": {"kappa": (0.25, 0.5, 1.0, 2.0, 4.0), "temperature": TEMPERATURES},
    "gate": {"temperature": TEMPERATURES},
    "attention": {"temperature": TEMPERATURES},
    "topk": {"k": (5, 10, 20, 50), "temperature": TEMPERATURES},
    "quantile": {"quantile": (0.5, 0.6, 0.75, 0.9), "temperature": TEMPERATURES},
    "noisy_or": {"temperature": TEMPERATURES},
    "threshold": {"t": (0.5, 0.7, 0.9), "min_frac": (0.02, 0.05, 0.1, 0.2)},
}
"""Grid of values, searched exhaustively; small, as slides are few. Alpha is fixed: soft_clinical needs ratios only."""
MAX_ERROR = 0.05
"""Maximum error rate among called slides that min_margin must reach on the validation slides."""
LEAST_SLIDES = 3
_MOST_LIMITS = 40


@dataclass(frozen=True, eq=False)
class VoteSlide:
    """A slide with ground truth."""

    slide: str
    patient: str
    probs: Floats
    """(M, C) over the voting classes; NaN without prediction."""
    weights: Floats
    """(M,)."""
    truth: Floats
    """(C,) fraction of each class, sum 1; one-hot for a slide with one label."""
    evidence: Evidence = field(default_factory=Evidence)


def fit_parameters(slides: Sequence[VoteSlide], start: VoteParameters) -> VoteParameters:
    """The parameters of `start.method` with the lowest mean Brier score over `slides`; ties go to the first.

    Brier: squared difference between the slide's probabilities and its truth, summed over the classes. Parameters
    outside the method's grid, and the margin, stay as in `start`.
    """
    if len(slides) < LEAST_SLIDES:
        raise RequestError(
            f"{len(slides)} validation slides are too few to fit a vote; at least {LEAST_SLIDES} are needed"
        )
    scored = [(brier(slides, candidate), index, candidate) for index, candidate in enumerate(_candidates(start))]
    return min(scored, key=lambda one: one[:2])[2]


def brier(slides: Sequence[VoteSlide], parameters: VoteRule) -> float:
    """Mean Brier score; a slide without voting patches gets equal probabilities."""
    return float(np.mean([((answer(slide, parameters) - slide.truth) ** 2).sum() for slide in slides]))


def answer(slide: VoteSlide, parameters: VoteRule) -> Floats:
    """(C,) slide probabilities by the vote, sum 1."""
    result = voted(slide, parameters)
    if result.leading is None:
        return np.full(len(slide.truth), 1 / len(slide.truth))
    # a rule returns a class, not probabilities
    return np.eye(len(slide.truth))[result.leading] if parameters.method == "threshold" else result.probs


def fit_margin(
    slides: Sequence[VoteSlide], parameters: VoteParameters, *, max_error: float = MAX_ERROR
) -> tuple[VoteParameters, str]:
    """The smallest min_margin with an error rate of at most `max_error` among called slides, and a one-line summary.

    If no margin reaches it, that of `parameters` is kept.
    """
    results = [(voted(slide, parameters), int(slide.truth.argmax())) for slide in slides]
    margins = np.array([result.margin for result, _ in results if result.leading is not None])
    wrong = np.array([result.leading != truth for result, truth in results if result.leading is not None])
    for margin in sorted({0.0, *np.clip(margins, 0, 1).tolist()}):
        called = margins >= margin
        if called.sum() >= LEAST_SLIDES and wrong[called].mean() <= max_error:
            summary = (
                f"{int(wrong[called].sum())} of {int(called.sum())} slides called are wrong, {len(results)} in all"
            )
            return replace(parameters, min_margin=float(margin)), summary
    return parameters, f"no margin reaches an error rate of {max_error:g}: kept at {parameters.min_margin:g}"


def fit_rules(shares: Sequence[Mapping[str, Share]], truth: Sequence[str], start: Rules | None = None) -> Rules:
    """INPC's rules with the proxy limits of highest balanced accuracy on the validation slides.


    Parameters
    ----------
    shares
        Evidence of each slide's statement; slides without neuropil or differentiation are left out.
    truth
        UD, PD or D of each.
    """
    start = start or Rules()
    known = [(s, t) for s, t in zip(shares, truth, strict=True) if NEUROPIL in s and DIFFERENTIATING in s]
    if len({t for _, t in known}) < 2:
        return start
    limits = [_between([s[name].value for s, _ in known], usual) for name, usual in _usual(start)]
    best, found = -1.0, start
    for neuropil, differentiating in itertools.product(*limits):
        rules = replace(start, neuropil_share=neuropil, differentiating=differentiating)
        right = [(decide_poor(s, rules)[0] == t, t) for s, t in known]
        score = float(np.mean([np.mean([r for r, t in right if t == one]) for one in {t for _, t in known}]))
        if score > best + 1e-12:
            best, found = score, rules
    return found


def refuse_tested(validation: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]]) -> None:
    """Raise if a slide or a patient, given as (slide, patient), is in both parts.

    Raises
    ------
    RequestError
        Naming one of them.
    """
    fitted, tested = list(validation), list(test)
    for index, what in ((0, "slide"), (1, "patient")):
        shared = sorted({one[index] for one in fitted} & {one[index] for one in tested})
        if shared:
            raise RequestError(
                f"{len(shared)} {what}(s) are in validation and in test, such as {shared[0]!r}; a vote fitted on them "
                "would be tested on its own training data. Split by patient."
            )


def voted(slide: VoteSlide, parameters: VoteRule) -> SlideResult:
    """The result of a slide, without within-slide sampling interval."""
    return vote(slide.probs, replace(parameters, resamples=0), weights=slide.weights, evidence=slide.evidence)


def _candidates(start: VoteParameters) -> list[VoteParameters]:
    grid = GRIDS[start.method]
    found = [start]
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        if start.rule is not None and start.method == "threshold":
            settings = {"rule": ThresholdRule(start.rule.target, **settings)}
        found.append(replace(start, **settings))
    return found


def _usual(start: Rules) -> tuple[tuple[str, float], tuple[str, float]]:
    return (NEUROPIL, start.neuropil_share), (DIFFERENTIATING, start.differentiating)


def _between(values: Sequence[float], usual: float) -> list[float]:
    """The default limit and the midpoints between neighbouring values: all candidates that differ in effect."""
    ordered = np.unique(values)
    middles = (ordered[1:] + ordered[:-1]) / 2
    if len(middles) > _MOST_LIMITS:
        middles = np.quantile(middles, np.linspace(0, 1, _MOST_LIMITS))
    return [usual, *middles.tolist()]
