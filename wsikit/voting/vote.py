"""The vote of a slide's patches: a subtype with its doubt, or an abstention with its reason. NumPy only.

Which patches may vote, and how much, is `wsikit.voting.inputs` and `weights`; what the classes mean is the model's
affair. The methods themselves are in `wsikit.voting.methods`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.methods import certainty, choices, clinical_weights, means, tally
from wsikit.voting.parameters import VoteRule
from wsikit.voting.regions import UNPREDICTED, WEIGHTLESS, Places, class_raster
from wsikit.voting.result import Floats, RuleOutcome, SlideResult
from wsikit.voting.temperature import at_temperature
from wsikit.voting.uncertainty import Poll, doubts, effective, find_interval, leader, share_tally

SUM_TOLERANCE = 1e-2
"""Rows may miss 1 by this much: float16 softmax over a few classes does, logits do not hide within it."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of M patches beside their probabilities; None: nothing."""

    gate: npt.ArrayLike | None = None
    """(M,) how far the text was trusted, 0 to 1; the weights of the method gate. NaN: not at all."""
    attention: npt.ArrayLike | None = None
    """(M,) ≥ 0, of a model that was trained on slides; the weights of the method attention. NaN: none."""
    key_tissue: npt.ArrayLike | None = None
    """(M, 3) probabilities of other tissue, neuropil, Schwannian stroma; for soft_clinical. NaN: not known."""
    ood_score: npt.ArrayLike | None = None
    """(M,) > 1: unlike anything the model was trained on. NaN: not known."""


def vote(
    probs: npt.ArrayLike,
    rule: VoteRule | None = None,
    *,
    weights: npt.ArrayLike | None = None,
    evidence: Evidence | None = None,
    places: Places | None = None,
    classes: Sequence[str] | None = None,
    **settings: Any,
) -> SlideResult:
    """Put the patches of one slide together.

    Parameters
    ----------
    probs
        (M, C) probabilities per patch over the C voting classes. A row with a NaN is a patch without prediction: it
        is counted and does not vote.
    rule
        Method, its numbers, and when to abstain.
    weights
        (M,) ≥ 0, 1 for all if None. Only their ratios matter: scaling all of them changes nothing.
    evidence
        What some methods weigh by, and how unlike the training patches each patch is.
    places
        Where the patches lie: for the interval, the areas and the second subtype.
    classes
        C codes; needed where a threshold rule names its class.
    settings
        Fields of `VoteRule`, instead of a whole `rule` or in place of some of its fields.

    Raises
    ------
    RequestError
        If the rows are not probabilities, the weights are negative, a setting is out of its bounds, or the method
        asks for evidence that is not given.
    TypeError
        If there is no such setting.

    Notes
    -----
    w below is `weights` times what the method adds; p a patch's probabilities. mean: Σwp/Σw. hard: weighted shares of
    each patch's most probable class, split between equals; a tie of the slide is broken by the mean. log: product of
    experts, exp(Σ w log p/Σw), normalised, with p clipped at 1e-6. soft_clinical: mean with the weights of
    `clinical_weights`. confidence: mean with w · (1 − H(p)/log C)^kappa. gate, attention: mean with these as weights.
    topk: weighted mean of the k highest p of each class, normalised. quantile: the weighted quantile of each class's
    p, normalised. threshold: the class asked for, if enough of the weight lies in patches with p ≥ t, else the best
    of the others by the mean. noisy_or: 1 − Π(1 − p)^w with a greatest w of 1, normalised.

    >>> vote([[0.9, 0.1], [0.2, 0.8]], weights=[7, 0.1], min_patches=1).probs.round(4).tolist()
    [0.8901, 0.1099]
    """
    rule = _settle(rule, settings)
    matrix, given = _checked(probs, weights)
    evidence = evidence or Evidence()
    if places is not None and len(places.coords) != len(matrix):
        raise RequestError(f"{len(places.coords)} places for {len(matrix)} patches")
    target = _target(rule, matrix.shape[1], classes)
    predicted = np.asarray(~np.isnan(matrix).any(axis=1))
    rows = matrix[predicted] / matrix[predicted].sum(axis=1, keepdims=True)
    if rule.temperature != 1 and len(rows):
        rows = at_temperature(rows, rule.temperature)
    w = given[predicted] * _method_weights(rule, rows, evidence, predicted)
    voters = np.flatnonzero(predicted)[w > 0]
    poll = Poll(
        rule=rule,
        probs=rows[w > 0],
        weights=w[w > 0] / w.max(initial=0.0) if len(voters) else w[:0],
        voters=voters,
        predicted=predicted,
        target=target,
        n_unpredicted=int((~predicted).sum()),
        n_background=int(predicted.sum()) - len(voters),
    )
    return _result(poll, evidence, places) if len(voters) else _nobody(poll, places)


def _result(poll: Poll, evidence: Evidence, places: Places | None) -> SlideResult:
    rule, w = poll.rule, poll.weights
    count, asked = tally(rule, poll.probs, w), share_tally(poll)
    score, mean = count.point(), means(np.append(w @ poll.probs, w.sum()))
    share = None if asked is None else float(asked.point()[0])
    leading, margin = leader(poll, score, mean, share)
    interval, (share_low, share_high), no_interval = find_interval(poll, count, leading, places)
    outcome = None
    if poll.target is not None and rule.rule is not None and share is not None:
        limits = (rule.rule.t, rule.rule.min_frac)
        outcome = RuleOutcome(poll.target, *limits, share, leading == poll.target, share_low, share_high)
    n_effective = effective(poll, leading)
    novel = _ood_fraction(evidence, poll)
    reason = doubts(rule, n_effective, margin, outcome, novel)
    result = SlideResult(
        method=rule.method,
        label=None if reason else leading,
        probs=score,
        fractions=means(np.append(w @ choices(poll.probs), w.sum())),
        n_patches=len(w),
        n_unpredicted=poll.n_unpredicted,
        n_background=poll.n_background,
        n_effective=n_effective,
        margin=margin,
        leading=leading,
        abstained=bool(reason),
        reason=reason,
        interval=interval,
        no_interval=no_interval,
        ood_fraction=novel,
        rule=outcome,
    )
    return _placed(result, poll, places)


def _placed(result: SlideResult, poll: Poll, places: Places | None) -> SlideResult:
    """With areas and a second subtype, where the places are known."""
    if places is None:
        return result
    labels = np.where(poll.predicted, WEIGHTLESS, UNPREDICTED)
    labels[poll.voters] = poll.probs.argmax(axis=1)
    top = np.zeros(len(labels))
    top[poll.voters] = poll.probs.max(axis=1)
    raster = class_raster(places, labels, top)
    areas = raster.areas(len(result.probs))
    if result.leading is None:
        return replace(result, areas=areas)
    return replace(result, areas=areas, second=raster.second(result.leading, areas, poll.rule.second_mm2))


def _settle(rule: VoteRule | None, settings: dict[str, Any]) -> VoteRule:
    known = {item.name for item in fields(VoteRule)}
    if set(settings) - known:
        raise TypeError(f"no voting setting {sorted(set(settings) - known)}; there are {sorted(known)}")
    return replace(rule, **settings) if rule is not None else VoteRule(**settings)


def _checked(probs: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[Floats, Floats]:
    """(M, C) probabilities and (M,) weights as float64, or a RequestError that says what is wrong with them."""
    matrix = np.asarray(probs, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise RequestError(f"probabilities of shape {matrix.shape}: expected (patches, classes)")
    predicted = ~np.isnan(matrix).any(axis=1)
    rows = matrix[predicted]
    if (rows < 0).any() or (np.abs(rows.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise RequestError("the rows are not probabilities (0 or more, sum 1): apply softmax to logits first")
    if weights is None:
        return matrix, np.ones(len(matrix))
    given = _column(weights, len(matrix), "weights")
    usable = given[predicted]
    if not (np.isfinite(usable) & (usable >= 0)).all():
        raise RequestError("weights must be finite and 0 or more")
    return matrix, given


def _column(values: npt.ArrayLike, n_patches: int, what: str) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.shape[:1] != (n_patches,) or column.ndim > 2:
        raise RequestError(f"{what} of shape {column.shape} for {n_patches} patches: expected ({n_patches},)")
    return column


def _target(rule: VoteRule, n_classes: int, classes: Sequence[str] | None) -> int | None:
    """Index of the class that a threshold rule asks for."""
    if rule.method != "threshold" or rule.rule is None:
        return None
    wanted = rule.rule.target
    if isinstance(wanted, str):
        if classes is None or wanted not in classes:
            raise RequestError(f"rule for class {wanted!r}: the voting classes are {list(classes or [])}")
        return list(classes).index(wanted)
    if not 0 <= wanted < n_classes:
        raise RequestError(f"rule for class number {wanted}: there are {n_classes} voting classes")
    return wanted


def _method_weights(rule: VoteRule, rows: Floats, evidence: Evidence, predicted: npt.NDArray[np.bool_]) -> Floats:
    """(P,) what the method adds to the weight of the patches that have a prediction."""
    if rule.method == "confidence":
        return certainty(rows, rule.kappa)
    if rule.method == "soft_clinical":
        tissue = _given(evidence.key_tissue, "key_tissue", rule.method, predicted)
        return clinical_weights(
            tissue, alpha=rule.alpha, beta=rule.beta, gamma=rule.gamma, double_softmax=rule.double_softmax
        )
    if rule.method in ("gate", "attention"):
        asked = evidence.gate if rule.method == "gate" else evidence.attention
        found = np.nan_to_num(_given(asked, rule.method, rule.method, predicted), nan=0.0)
        if not (np.isfinite(found) & (found >= 0)).all():
            raise RequestError(f"{rule.method} must be finite and 0 or more")
        return found
    return np.ones(len(rows))


def _given(values: npt.ArrayLike | None, what: str, method: str, predicted: npt.NDArray[np.bool_]) -> Floats:
    if values is None:
        raise RequestError(f"voting method {method} needs {what} of every patch, and none is given")
    return _column(values, len(predicted), what)[predicted]


def _ood_fraction(evidence: Evidence, poll: Poll) -> float | None:
    """Weighted share of the voting patches unlike the training patches; None if it is known of none."""
    if evidence.ood_score is None:
        return None
    ood_score = _column(evidence.ood_score, len(poll.predicted), "ood_score")[poll.voters]
    known = ~np.isnan(ood_score)
    if not known.any():
        return None
    return float(poll.weights[known] @ (ood_score[known] > 1) / poll.weights[known].sum())


def _nobody(poll: Poll, places: Places | None) -> SlideResult:
    """An abstention for want of any voting patch."""
    n_unpredicted, n_background = poll.n_unpredicted, poll.n_background
    if n_unpredicted and n_background:
        why = f"{n_unpredicted} without prediction, {n_background} of weight 0"
    elif n_unpredicted:
        why = f"all {n_unpredicted} are without prediction"
    elif n_background:
        why = f"all {n_background} have weight 0 (background, undecided, or not to be seen)"
    else:
        why = "the slide has no patches"
    nothing = np.full(poll.probs.shape[1], math.nan)
    result = SlideResult(
        method=poll.rule.method,
        label=None,
        probs=nothing,
        fractions=nothing.copy(),
        n_patches=0,
        n_unpredicted=n_unpredicted,
        n_background=n_background,
        n_effective=0.0,
        margin=math.nan,
        leading=None,
        abstained=True,
        reason=f"no patch could vote: {why}",
        no_interval="no patch could vote",
    )
    return _placed(result, poll, places)
