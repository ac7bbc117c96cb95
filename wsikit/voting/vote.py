"""Aggregate the patch probabilities of one slide: a subtype with its uncertainty, or an abstention with its reason.

Plain arrays, NumPy only. Which patches vote and with which weight is decided in `wsikit.voting.inputs` and `weights`;
the methods are in `wsikit.voting.methods`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.learned import LearnedVote
from wsikit.voting.methods import certainty, choices, clinical_weights, means, tally
from wsikit.voting.parameters import VoteRule
from wsikit.voting.regions import UNPREDICTED, WEIGHTLESS, Places, class_raster
from wsikit.voting.result import Floats, RuleOutcome, SlideResult
from wsikit.voting.rows import nan_rows, row_max, row_sums
from wsikit.voting.temperature import at_temperature
from wsikit.voting.uncertainty import (
    Poll,
    abstention_reason,
    effective_sample_size,
    find_interval,
    find_share_interval,
    leader,
    share_tally,
)

SUM_TOLERANCE = 1e-2
"""Largest deviation of a row's sum from 1: float16 softmax stays within it, logits do not."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Further values of M patches that some methods use; None: not available."""

    gate: npt.ArrayLike | None = None
    """(M,) weight of the text in the fusion, 0 to 1; the weights of the method gate. NaN counts as 0."""
    attention: npt.ArrayLike | None = None
    """(M,) ≥ 0, from a model trained at slide level; the weights of the method attention. NaN counts as 0."""
    key_tissue: npt.ArrayLike | None = None
    """(M, 3) probabilities of other tissue, neuropil, Schwannian stroma; for soft_clinical. NaN: unknown."""
    ood_score: npt.ArrayLike | None = None
    """(M,) out-of-distribution score; above 1 a patch is out-of-distribution. NaN: unknown."""


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
    """Aggregate the patches of one slide.

    Parameters
    ----------
    probs
        (M, C) probabilities per patch over the C voting classes. A row with a NaN is a patch without prediction: it
        is counted but does not vote.
    rule
        Method, its parameters, and when to abstain.
    weights
        (M,) ≥ 0; None: 1 for all. Only ratios matter.
    evidence
        Further values per patch: what some methods weight by, and the out-of-distribution score.
    places
        Coordinates of the patches; needed for the interval, the areas and the second subtype.
    classes
        C class codes; kept in the result, and needed where a threshold rule names its class.
    settings
        Fields of `VoteRule`, instead of `rule` or to replace some of its fields.

    Raises
    ------
    RequestError
        If the rows are not probabilities, the weights are negative, a setting is out of bounds, or the method needs
        evidence that is not given.
    TypeError
        If there is no such setting.

    Notes
    -----
    w is `weights` times the weight that the method adds; p are a patch's probabilities. mean: Σwp/Σw. hard: weighted
    fraction of patches per most probable class, split evenly between equal classes; a tie of the slide is broken by
    the mean. log: product of experts, exp(Σ w log p/Σw), normalised, with p clipped at 1e-6. soft_clinical: mean with
    the weights of `clinical_weights`. confidence: mean with w · (1 − H(p)/log C)^kappa. gate, attention: mean with
    these as weights; attention with pool=log: log with these weights, p clipped at the smallest float32 only; with
    pool=ordinal: the weighted mean of the log odds of P(higher than class k), of which the classes' probabilities are
    differences. topk: weighted mean of the k highest p of each class, normalised. quantile: the weighted quantile
    of each class's p, normalised. threshold: the target class, if enough of the weight lies in patches with p ≥ t,
    else the best of the others by the mean. noisy_or: 1 − Π(1 − p)^w with the largest w scaled to 1, normalised.

    >>> vote([[0.9, 0.1], [0.2, 0.8]], weights=[7, 0.1], min_patches=1).probs.round(4).tolist()
    [0.8901, 0.1099]
    >>> vote([[0.54, 0.46]] * 30).reason
    'margin 0.080 is below 0.1'
    """
    rule = _with_settings(rule, settings)
    matrix, predicted, given = _checked(probs, weights)
    evidence = evidence or Evidence()
    if places is not None and len(places.coords) != len(matrix):
        raise RequestError(f"{len(places.coords)} coordinates for {len(matrix)} patches: expected one per patch")
    if classes is not None and len(classes) != matrix.shape[1]:
        raise RequestError(f"{len(classes)} class codes for probabilities of {matrix.shape[1]} classes")
    target = _target(rule, matrix.shape[1], classes)
    learned = _learned(rule, matrix.shape[1], classes)
    rows = np.ascontiguousarray(matrix) if predicted.all() else matrix[predicted]
    rows = rows / row_sums(rows)[:, None]
    if rule.temperature != 1 and len(rows):
        rows = at_temperature(rows, rule.temperature)
    w = given[predicted] * _method_weights(rule, rows, evidence, predicted)
    counted = w > 0
    voters = np.flatnonzero(predicted)[counted]
    poll = Poll(
        rule=rule,
        probs=rows[counted],
        weights=w[counted] / w.max(initial=0.0) if len(voters) else w[:0],
        voters=voters,
        predicted=predicted,
        target=target,
        n_unpredicted=int((~predicted).sum()),
        n_background=int(predicted.sum()) - len(voters),
        thresholds=() if learned is None or target is not None else learned.thresholds,
    )
    result = _result(poll, evidence, places) if len(voters) else _no_votes(poll, places)
    found, why = find_share_interval(rule, learned, result)
    result = replace(result, share_interval=found, no_share_interval=why)
    return replace(result, classes=tuple(classes or ()), thresholds=poll.thresholds)


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
    n_effective = effective_sample_size(poll, leading)
    ood_fraction = _ood_fraction(evidence, poll)
    reason = abstention_reason(rule, n_effective, margin, outcome, ood_fraction)
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
        ood_fraction=ood_fraction,
        rule=outcome,
    )
    return _placed(result, poll, places)


def _learned(rule: VoteRule, n_classes: int, classes: Sequence[str] | None) -> LearnedVote | None:
    """What was learned from validation patients for these settings; None if nothing was."""
    learned = rule.applicable()
    if learned is not None and (len(learned.classes) != n_classes or (classes and tuple(classes) != learned.classes)):
        raise RequestError(
            f"voting parameters learned for the classes {list(learned.classes)}, the vote is over "
            f"{list(classes or range(n_classes))}. Fit them for this model: wsikit evaluate --fit-vote."
        )
    return learned


def _placed(result: SlideResult, poll: Poll, places: Places | None) -> SlideResult:
    """With areas and a second subtype, where the coordinates are known."""
    if places is None:
        return result
    labels = np.where(poll.predicted, WEIGHTLESS, UNPREDICTED)
    top = np.zeros(len(labels))
    top[poll.voters], labels[poll.voters] = row_max(poll.probs)
    raster = class_raster(places, labels, top)
    areas = raster.areas(len(result.probs))
    if result.leading is None:
        return replace(result, areas=areas)
    return replace(result, areas=areas, second=raster.second(result.leading, areas, poll.rule.second_mm2))


def _with_settings(rule: VoteRule | None, settings: dict[str, Any]) -> VoteRule:
    known = {item.name for item in fields(VoteRule)}
    if set(settings) - known:
        raise TypeError(f"no voting setting {sorted(set(settings) - known)}; there are {sorted(known)}")
    return replace(rule, **settings) if rule is not None else VoteRule(**settings)


def _checked(probs: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[Floats, npt.NDArray[np.bool_], Floats]:
    """(M, C) probabilities, (M,) whether a patch has any, (M,) weights; RequestError if they are not valid."""
    matrix = np.asarray(probs, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 1:
        raise RequestError(f"probabilities of shape {matrix.shape}: expected (patches, classes)")
    predicted = ~nan_rows(matrix)
    rows = matrix if predicted.all() else matrix[predicted]
    if (rows < 0).any() or (np.abs(row_sums(rows) - 1) > SUM_TOLERANCE).any():
        raise RequestError("the rows are not probabilities (0 or more, sum 1): apply softmax to logits first")
    if weights is None:
        return matrix, predicted, np.ones(len(matrix))
    given = _column(weights, len(matrix), "weights")
    usable = given[predicted]
    if not (np.isfinite(usable) & (usable >= 0)).all():
        raise RequestError("weights must be finite and 0 or more")
    return matrix, predicted, given


def _column(values: npt.ArrayLike, n_patches: int, what: str) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.shape[:1] != (n_patches,) or column.ndim > 2:
        raise RequestError(f"{what} of shape {column.shape} for {n_patches} patches: expected ({n_patches},)")
    return column


def _target(rule: VoteRule, n_classes: int, classes: Sequence[str] | None) -> int | None:
    """Index of the target class of a threshold rule."""
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
    """(P,) factor that the method puts on the weight of each patch that has a prediction."""
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
        raise RequestError(f"voting method {method} needs {what} for every patch, and none is given")
    return _column(values, len(predicted), what)[predicted]


def _ood_fraction(evidence: Evidence, poll: Poll) -> float | None:
    """Weighted fraction of the voting patches that are out-of-distribution; None if no patch has a score."""
    if evidence.ood_score is None:
        return None
    ood_score = _column(evidence.ood_score, len(poll.predicted), "ood_score")[poll.voters]
    known = ~np.isnan(ood_score)
    if not known.any():
        return None
    weights = poll.weights if known.all() else poll.weights[known]
    return float(weights @ ((ood_score if known.all() else ood_score[known]) > 1) / weights.sum())


def _no_votes(poll: Poll, places: Places | None) -> SlideResult:
    """An abstention because no patch votes."""
    n_unpredicted, n_background = poll.n_unpredicted, poll.n_background
    if n_unpredicted and n_background:
        why = f"{n_unpredicted} without prediction, {n_background} of weight 0"
    elif n_unpredicted:
        why = f"all {n_unpredicted} are without prediction"
    elif n_background:
        why = f"all {n_background} have weight 0 (background, undecided, or unusable)"
    else:
        why = "the slide has no patches"
    undefined = np.full(poll.probs.shape[1], math.nan)
    result = SlideResult(
        method=poll.rule.method,
        label=None,
        probs=undefined,
        fractions=undefined.copy(),
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
