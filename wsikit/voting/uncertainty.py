"""Uncertainty of a vote: margin, bootstrap interval, effective sample size, reasons to abstain. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.voting.bootstrap import MIN_BLOCKS, blocks_of, resample
from wsikit.voting.intervals import Interval, ShareInterval
from wsikit.voting.learned import LearnedVote, relative
from wsikit.voting.methods import SumTally, Tally, means
from wsikit.voting.parameters import VoteRule
from wsikit.voting.regions import Places
from wsikit.voting.result import Floats, RuleOutcome, SlideResult, format_margin

EQUAL = 1e-12
"""Scores that differ by less than this are equal: the difference is rounding."""


@dataclass(frozen=True, eq=False)
class Poll:
    """The voting patches."""

    rule: VoteRule
    probs: Floats
    """(V, C), rows of sum 1."""
    weights: Floats
    """(V,) above 0, the largest is 1."""
    voters: npt.NDArray[np.int64]
    """(V,) their indices among the slide's M patches."""
    predicted: npt.NDArray[np.bool_]
    """(M,) whether each patch of the slide has a prediction."""
    target: int | None
    """The target class of a threshold rule."""
    n_unpredicted: int
    n_background: int
    thresholds: tuple[float, ...] = ()
    """(C,) share of each class that calls it; empty: equal."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The leading class and its margin, for any number of draws at once."""

    leading: npt.NDArray[np.int64]
    """(…) index of the leading class."""
    margin: Floats
    """(…) its margin."""


def share_tally(poll: Poll) -> SumTally | None:
    """Tally of the share of the weight that a threshold rule tests; None without such a rule."""
    if poll.target is None or poll.rule.rule is None:
        return None
    reached = poll.probs[:, poll.target] >= poll.rule.rule.t - EQUAL
    return SumTally(reached[:, None].astype(np.float64), poll.weights, means)


def ranking(poll: Poll, score: Floats, share: float | Floats | None) -> Ranking:
    """The leading class of `score` (…, C) and its margin; for a threshold rule by the `share` (…) that it tests."""
    if poll.target is None or poll.rule.rule is None or share is None:
        top = np.sort(score, axis=-1)
        margin = top[..., -1] - top[..., -2] if score.shape[-1] > 1 else top[..., -1]
        return Ranking(score.argmax(axis=-1), margin)
    beyond = np.asarray(share) / poll.rule.rule.min_frac - 1
    others = np.array(score, copy=True)
    # the target class does not lead where the rule does not hold, unless it is the only class
    others[..., poll.target] = -1.0 if score.shape[-1] > 1 else 1.0
    leading = np.where(beyond >= -EQUAL, poll.target, others.argmax(axis=-1))
    return Ranking(leading, np.minimum(np.abs(beyond), 1.0))


def leader(poll: Poll, score: Floats, mean: Floats, share: float | None) -> tuple[int, float]:
    """The leading class and its margin; a tie (up to rounding) is broken by the mean probability."""
    score = relative(score, poll.thresholds)
    decided = np.where(score >= score.max() - EQUAL, score.max() + mean, score)
    return int(ranking(poll, decided, share).leading), float(ranking(poll, score, share).margin)


def find_interval(
    poll: Poll, count: Tally, leading: int, places: Places | None
) -> tuple[Interval | None, tuple[float, float], str]:
    """The within-slide sampling interval, that of a threshold rule's share (NaN if there is none), and why there is
    none."""
    rule, none = poll.rule, (math.nan, math.nan)
    if not rule.resamples:
        return None, none, "none was requested"
    if places is None:
        return None, none, "the coordinates of the patches are not known"
    block, n_blocks, side_um = blocks_of(places.grid, places.coords[poll.voters], rule.block_um)
    if n_blocks < MIN_BLOCKS:
        blocks = f"{n_blocks} block{'s' if n_blocks != 1 else ''} of {side_um:g} µm"
        return None, none, f"{blocks} with voting patches, fewer than {MIN_BLOCKS}"
    tails = ((1 - rule.level) / 2, (1 + rule.level) / 2)
    sums, asked = count.block_sums(block, n_blocks), share_tally(poll)
    shares = None
    if asked is None:
        drawn = resample(sums, resamples=rule.resamples, seed=rule.seed)
    else:
        together = np.concatenate([sums, asked.block_sums(block, n_blocks)], axis=1)
        both = resample(together, resamples=rule.resamples, seed=rule.seed)
        drawn, shares = both[:, : sums.shape[1]], asked.score(both[:, sums.shape[1] :])[:, 0]
    scores = count.score(drawn)
    ahead, lead = _lead_of(poll, relative(scores, poll.thresholds), shares, leading)
    low, high = np.quantile(scores, tails, axis=0)
    margin_low, margin_high = np.quantile(lead, tails).tolist()
    found = Interval(rule.level, low, high, (margin_low, margin_high), float(ahead.mean()), n_blocks, side_um)
    if shares is None:
        return found, none, ""
    share_low, share_high = np.quantile(shares, tails).tolist()
    return found, (share_low, share_high), ""


def find_share_interval(
    rule: VoteRule, learned: LearnedVote | None, result: SlideResult
) -> tuple[ShareInterval | None, str]:
    """The interval with the error of the model, and why there is none.

    `learned` is None where `rule` has nothing that was learned with its settings.
    """
    if result.leading is None:
        return None, "no patch could vote"
    if learned is None:
        given = rule.learned is not None
        return None, "what was learned holds for other settings of the vote" if given else "no errors were learned"
    level = rule.interval_level
    ends = learned.interval(result.probs, result.n_effective, level)
    if ends is None:
        return None, learned.why_not(level)
    return ShareInterval(level, *ends, learned.patients), ""


def _lead_of(poll: Poll, scores: Floats, shares: Floats | None, leading: int) -> tuple[npt.NDArray[np.bool_], Floats]:
    """In which draws (R,) a class leads, and its margin in each, below 0 where another class leads."""
    drawn = ranking(poll, scores, shares)
    ahead = drawn.leading == leading
    if shares is not None or scores.shape[1] == 1:
        return ahead, np.where(ahead, drawn.margin, -drawn.margin)
    return ahead, scores[:, leading] - np.delete(scores, leading, axis=1).max(axis=1)


def effective_sample_size(poll: Poll, leading: int) -> float:
    """(Σw)²/Σw² (Kish) of the patches that enter the leading class's score."""
    w = _weights_used(poll, leading)
    return float(w.sum() ** 2 / (w**2).sum())


def _weights_used(poll: Poll, leading: int) -> Floats:
    """Weights of the patches that enter the leading class's score."""
    rule = poll.rule
    if rule.method != "topk" or len(poll.weights) <= rule.k:
        return poll.weights
    column = poll.probs[:, leading]
    return poll.weights[np.argpartition(column, len(column) - rule.k)[len(column) - rule.k :]]


def abstention_reason(
    rule: VoteRule, n_effective: float, margin: float, outcome: RuleOutcome | None, ood_fraction: float | None
) -> str:
    """Why no subtype is called; an empty string if one is."""
    reasons = []
    if n_effective < rule.min_patches * (1 - 1e-9):  # twenty equal weights of 0.1 give 19.999…
        reasons.append(f"{math.floor(n_effective * 10) / 10:g} effective patches, fewer than {rule.min_patches:g}")
    if margin < rule.min_margin - EQUAL:
        if outcome is not None:
            reasons.append(f"share {outcome.share:.4f} is too close to the rule's limit of {outcome.min_frac:g}")
        else:
            # rounded down: 0.0996 must not read "0.100 is below 0.1"
            text = format_margin(margin, 3)
            if float(text) >= rule.min_margin:
                text = f"{math.floor(margin * 1000) / 1000:.3f}"
            reasons.append(f"margin {text} is below {rule.min_margin:g}")
    if ood_fraction is not None and ood_fraction > rule.max_ood:
        percent = math.ceil(ood_fraction * 1000) / 10
        reasons.append(
            f"{percent:g} % of the voting weight is out-of-distribution tissue, more than {rule.max_ood * 100:g} %"
        )
    return "; ".join(reasons)
