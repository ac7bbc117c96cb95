"""Each voting method against its formula, written out again with plain loops or in closed form."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.voting import Evidence, ThresholdRule, VoteRule, vote
from wsikit.voting.methods import BINS, RankTally, clinical_weights, tally

FREE = {"min_patches": 0, "min_margin": 0}


def some(n: int = 60, c: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(c) * 0.7, n), rng.uniform(0.1, 3, n)


def test_a_log_vote_is_the_normalised_geometric_mean():
    probs, weights = some()
    product = [math.prod(max(row[c], 1e-6) ** (w / weights.sum()) for row, w in zip(probs, weights)) for c in range(3)]
    expected = np.array(product) / sum(product)
    assert vote(probs, method="log", weights=weights, **FREE).probs == pytest.approx(expected)


def test_one_patch_that_excludes_a_class_does_not_exclude_it_for_the_slide_in_a_log_vote():
    probs = np.vstack([np.tile([0.2, 0.8], (99, 1)), [[1.0, 0.0]]])
    result = vote(probs, method="log", **FREE)
    # by hand: mean log p is 0.99·log 0.2 + 0 against 0.99·log 0.8 + 0.01·log 1e-6
    odds = math.exp(0.99 * math.log(0.8) + 0.01 * math.log(1e-6) - 0.99 * math.log(0.2))
    assert result.probs[1] == pytest.approx(odds / (1 + odds))
    assert result.label == 1


def literal_soft_vote(logits, svm, alpha=10.0, beta=10.0, gamma=0.1, twice=True):
    """The slide rule of the paper's code, patch by patch."""
    total = np.zeros(len(logits[0]))
    weight_sum = 0.0
    for z, q in zip(logits, svm):
        p = np.exp(z) / np.exp(z).sum()
        if twice:
            q = np.exp(q) / np.exp(q).sum()
        weight = gamma if int(np.argmax(q)) == 0 else alpha * q[1] + beta * q[2]
        total += weight * p
        weight_sum += weight
    return total / weight_sum


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("settings", [{}, {"alpha": 3.0, "beta": 7.0, "gamma": 0.5}])
def test_soft_clinical_is_the_published_rule(twice, settings):
    rng = np.random.default_rng(3)
    logits, svm = rng.normal(size=(80, 4)), rng.dirichlet(np.ones(3), 80)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rule = VoteRule("soft_clinical", double_softmax=twice, **settings, **FREE)
    result = vote(probs, rule, evidence=Evidence(key_tissue=svm))
    assert result.probs == pytest.approx(literal_soft_vote(logits, svm, twice=twice, **settings))


def test_the_published_weights_are_practically_a_mask():
    svm = np.random.default_rng(4).dirichlet(np.ones(3) * 0.3, 100_000)
    weights = clinical_weights(svm, double_softmax=True)
    key = weights[weights != 0.1]
    assert 0.3 < len(key) / len(weights) < 0.8
    # the bounds in closed form: q = (½, ½, 0) just loses to key tissue, q = (0, 1, 0) or (0, 0, 1) is all of it
    assert key.min() > 10 * (1 - math.exp(0.5) / (2 * math.exp(0.5) + 1))
    assert key.max() <= 10 * (1 - 1 / (2 + math.e)) + 1e-12


def test_one_hot_tissue_with_equal_weights_is_the_mean():
    probs, _ = some()
    tissue = np.eye(3)[np.arange(60) % 3]
    rule = VoteRule("soft_clinical", alpha=1, beta=1, gamma=1, **FREE)
    assert vote(probs, rule, evidence=Evidence(key_tissue=tissue)).probs == pytest.approx(probs.mean(axis=0))


def test_a_slide_without_key_tissue_gets_the_plain_mean():
    probs, _ = some()
    rule = VoteRule("soft_clinical", **FREE)
    result = vote(probs, rule, evidence=Evidence(key_tissue=np.tile([1.0, 0, 0], (60, 1))))
    assert result.probs == pytest.approx(probs.mean(axis=0))
    assert result.n_effective == pytest.approx(60)


def test_a_patch_of_unknown_tissue_is_weighted_as_other_tissue():
    tissue = np.array([[np.nan, np.nan, np.nan], [0.9, 0.05, 0.05], [0.1, 0.6, 0.3]])
    assert clinical_weights(tissue).tolist() == pytest.approx([0.1, 0.1, 9.0])


@pytest.mark.parametrize(("method", "name"), [("gate", "gate"), ("attention", "attention")])
def test_gate_and_attention_are_weights(method, name):
    probs, weights = some()
    given = np.random.default_rng(1).random(60)
    given[:5] = np.nan  # unknown: weight 0
    result = vote(probs, method=method, weights=weights, evidence=Evidence(**{name: given}), **FREE)
    w = weights[5:] * given[5:]
    assert result.probs == pytest.approx((w[:, None] * probs[5:]).sum(axis=0) / w.sum())
    assert result.n_background == 5


def test_topk_is_the_weighted_mean_of_the_k_highest_of_each_class():
    probs, weights = some()
    means = []
    for c in range(3):
        best = sorted(range(60), key=lambda i: -probs[i, c])[:7]
        means.append(sum(weights[i] * probs[i, c] for i in best) / sum(weights[i] for i in best))
    result = vote(probs, method="topk", k=7, weights=weights, **FREE)
    assert result.probs == pytest.approx(np.array(means) / sum(means))
    lead = sorted(range(60), key=lambda i: -probs[i, result.leading])[:7]
    assert result.n_effective == pytest.approx(weights[lead].sum() ** 2 / (weights[lead] ** 2).sum())


def test_topk_of_more_than_there_are_is_the_mean():
    probs, weights = some()
    assert vote(probs, method="topk", k=999, weights=weights, **FREE).probs == pytest.approx(
        vote(probs, weights=weights, **FREE).probs
    )


@pytest.mark.parametrize("q", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_a_quantile_is_the_first_probability_that_so_much_of_the_weight_does_not_exceed(q):
    probs, weights = some()
    expected = []
    for c in range(3):
        rows = sorted((probs[i, c], weights[i]) for i in range(60))
        reached, found = 0.0, rows[-1][0]
        for p, w in rows:
            reached += w
            if reached >= q * weights.sum() - 1e-9:
                found = p
                break
        expected.append(found)
    result = vote(probs, method="quantile", quantile=q, weights=weights, **FREE)
    assert result.probs == pytest.approx(np.array(expected) / sum(expected))


def test_noisy_or_is_one_minus_the_chance_that_no_patch_is_of_the_class():
    probs = np.array([[0.3, 0.7], [0.6, 0.4], [0.1, 0.9]])
    weights = np.array([1.0, 0.5, 0.25])
    raw = [1 - math.prod((1 - row[c]) ** w for row, w in zip(probs, weights)) for c in (0, 1)]
    result = vote(probs, method="noisy_or", weights=weights, **FREE)
    assert result.probs == pytest.approx(np.array(raw) / sum(raw))


def rows_with_share(share: float, n: int = 1000) -> np.ndarray:
    """A slide of PD with `share` of sure D patches; classes UD, PD, D."""
    sure = round(share * n)
    return np.vstack([np.tile([0.1, 0.2, 0.7], (sure, 1)), np.tile([0.1, 0.8, 0.1], (n - sure, 1))])


@pytest.mark.parametrize(
    ("share", "label", "holds"), [(0.08, 2, True), (0.05, 2, True), (0.03, 1, False), (0, 1, False)]
)
def test_a_threshold_rule_calls_a_class_by_its_share_though_most_patches_look_otherwise(share, label, holds):
    rule = VoteRule("threshold", rule=ThresholdRule("D", 0.5, 0.05), **FREE)
    result = vote(rows_with_share(share), rule, classes=("UD", "PD", "D"))
    assert (result.label, result.rule.holds) == (label, holds)
    assert result.rule.share == pytest.approx(share)
    assert result.margin == pytest.approx(min(1, abs(share / 0.05 - 1)))
    assert vote(rows_with_share(share), **FREE).label == 1


def test_a_share_next_to_the_limit_of_the_rule_abstains_and_says_so():
    rule = VoteRule("threshold", rule=ThresholdRule(2, 0.5, 0.05))
    result = vote(rows_with_share(0.052), rule)
    assert (result.label, result.leading) == (None, 2)
    assert "share 0.0520 is too close to the rule's limit of 0.05" in result.reason


def test_the_target_class_never_leads_if_its_rule_does_not_hold():
    """By the mean D is ahead, but no patch is sure of it."""
    rule = VoteRule("threshold", rule=ThresholdRule(2, 0.9, 0.05), **FREE)
    assert vote(np.tile([0.1, 0.3, 0.6], (40, 1)), rule).label == 1


@pytest.mark.parametrize("method", ["soft_clinical", "gate", "attention"])
def test_a_method_that_lacks_its_evidence_says_what_it_needs(method):
    with pytest.raises(RequestError, match=f"{method} needs"):
        vote([[0.5, 0.5]], method=method)


def test_wrong_rules_are_refused():
    with pytest.raises(RequestError, match="needs a rule"):
        VoteRule("threshold")
    with pytest.raises(RequestError, match=r"\['UD', 'PD'\]"):
        vote([[0.5, 0.5]], VoteRule("threshold", rule=ThresholdRule("D")), classes=("UD", "PD"))
    with pytest.raises(RequestError, match="class number 5"):
        vote([[0.5, 0.5]], VoteRule("threshold", rule=ThresholdRule(5)))
    with pytest.raises(RequestError, match="min_frac of 0"):
        ThresholdRule("D", 0.5, 0)
    with pytest.raises(TypeError, match="kapa"):
        vote([[0.5, 0.5]], kapa=2)


@pytest.mark.parametrize("method", ["topk", "quantile"])
def test_ranks_over_blocks_are_ranks_over_patches_to_the_width_of_a_bin(method):
    probs, weights = some(3000)
    count = tally(VoteRule(method, k=150), probs, weights / weights.max())
    assert isinstance(count, RankTally)
    block = np.arange(3000) % 40
    together = count.score(count.block_sums(block, 40).sum(axis=0))
    assert together == pytest.approx(count.point(), abs=2 / BINS)
    # a draw of blocks is a vote over their patches
    drawn = np.random.default_rng(2).integers(0, 40, 40)
    taken = np.concatenate([np.flatnonzero(block == b) for b in drawn])
    again = tally(VoteRule(method, k=150), probs[taken], weights[taken] / weights.max()).point()
    assert count.score(count.block_sums(block, 40)[drawn].sum(axis=0)) == pytest.approx(again, abs=2 / BINS)


def test_a_resample_uses_no_more_than_k_of_many_equal_patches():
    """100 patches of 0.9 and 400 of 0.2: the 150 highest are all of the one and 50 of the other."""
    probs = np.repeat([[0.9, 0.1], [0.2, 0.8]], [100, 400], axis=0)
    count = tally(VoteRule("topk", k=150), probs, np.ones(500))
    sums = count.block_sums(np.arange(500) % 10, 10).sum(axis=0)
    raw = np.array([(100 * 0.9 + 50 * 0.2) / 150, 0.8])
    assert count.score(sums) == pytest.approx(raw / raw.sum())
    assert count.point() == pytest.approx(raw / raw.sum())


@pytest.mark.parametrize("method", ["mean", "hard", "log", "noisy_or"])
def test_sums_over_blocks_are_sums_over_patches(method):
    probs, weights = some(500)
    count = tally(VoteRule(method), probs, weights / weights.max())
    sums = count.block_sums(np.random.default_rng(0).integers(0, 9, 500), 9)
    assert count.score(sums.sum(axis=0)) == pytest.approx(count.point())


def test_hard_shares_are_a_count_of_labels():
    probs, _ = some(200)
    counted = Counter(int(row.argmax()) for row in probs)
    assert vote(probs, method="hard", **FREE).probs == pytest.approx([counted[c] / 200 for c in range(3)])
