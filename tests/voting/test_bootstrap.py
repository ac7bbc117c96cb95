"""The block bootstrap interval has its nominal coverage; one that resamples single patches would not."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.geometry import PatchGrid
from wsikit.voting import METHODS, Evidence, Places, ThresholdRule, VoteRule, vote
from wsikit.voting.bootstrap import MAX_BLOCKS, MIN_BLOCKS, blocks_of, resample

SIDE = 48  # patches; 50 µm each, so that a block of 400 µm holds 8 × 8
GRID = PatchGrid((SIDE * 100, SIDE * 100), (0.5, 0.5), 100, 0.5)
PLACES = Places(GRID, GRID.all_coords())


def patchwork(seed: int, share: float = 0.6) -> np.ndarray:
    """36 fully correlated blocks of 400 µm, each of class 0 with probability `share`; (2304, 2) probabilities."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((6, 6)) < share
    p = np.where(np.kron(blocks, np.ones((8, 8))) > 0, 0.9, 0.1).ravel()
    return np.stack([p, 1 - p], axis=1)


def test_the_interval_covers_the_truth_about_as_often_as_its_level():
    """95 % of 200 slides would be 190; a percentile interval of 36 blocks has slightly lower coverage."""
    truth, covered = 0.1 + 0.8 * 0.6, 0
    for seed in range(200):
        interval = vote(patchwork(seed), places=PLACES, block_um=400, resamples=400).interval
        covered += interval.low[0] <= truth <= interval.high[0]
    assert 176 <= covered <= 198


def test_resampling_single_patches_would_give_far_too_narrow_intervals():
    covered = 0
    for seed in range(60):
        interval = vote(patchwork(seed), places=PLACES, block_um=50, resamples=200).interval
        covered += interval.low[0] <= 0.58 <= interval.high[0]
    assert covered < 30


def test_the_width_is_that_of_the_mean_of_blocks():
    """Percentiles of a mean of B equal blocks: ± 1.96 · sd/√B, nearly."""
    p = np.kron(np.random.default_rng(3).random((6, 6)), np.ones((8, 8))).ravel()
    probs = np.stack([p, 1 - p], axis=1)
    interval = vote(probs, places=PLACES, block_um=400, resamples=4000).interval
    means = p.reshape(6, 8, 6, 8).mean(axis=(1, 3)).ravel()
    expected = 2 * 1.96 * means.std() / 6
    assert interval.high[0] - interval.low[0] == pytest.approx(expected, rel=0.06)
    assert interval.n_blocks == 36


def test_draws_are_sums_over_blocks_drawn_with_replacement():
    sums = np.random.default_rng(0).random((7, 2))
    drawn = resample(sums, resamples=3000, seed=1)
    assert drawn.mean(axis=0) == pytest.approx(sums.sum(axis=0), rel=0.02)
    assert drawn.std(axis=0) == pytest.approx(np.sqrt(7) * sums.std(axis=0), rel=0.05)
    assert np.array_equal(drawn, resample(sums, resamples=3000, seed=1))
    assert not np.array_equal(drawn, resample(sums, resamples=3000, seed=2))
    whole = resample(np.eye(7), resamples=50)
    assert (whole.sum(axis=1) == 7).all()
    assert np.array_equal(whole, np.round(whole))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_an_interval_around_its_own_score(method):
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 1, SIDE)[None, :, None] * [2.0, 0, -1] + rng.normal(size=(SIDE, SIDE, 3))
    probs = (np.exp(drift) / np.exp(drift).sum(axis=2, keepdims=True)).reshape(-1, 3)
    n = len(probs)
    evidence = Evidence(gate=rng.random(n), attention=rng.random(n), key_tissue=rng.dirichlet(np.ones(3), n))
    rule = VoteRule(method, rule=ThresholdRule(0, 0.5, 0.3), k=100)
    result = vote(probs, rule, evidence=evidence, places=PLACES)
    interval = result.interval
    assert (interval.low <= result.probs + 1e-9).all()
    assert (interval.high >= result.probs - 1e-9).all()
    assert interval.margin[0] <= result.margin + 1e-9 <= interval.margin[1] + 2e-9
    assert 0.9 < interval.leading_share <= 1
    again = vote(probs, rule, evidence=evidence, places=PLACES).interval
    assert np.array_equal(interval.low, again.low)


def test_the_lead_of_a_class_that_wins_half_the_draws_spans_zero():
    labels = np.zeros((SIDE, SIDE), int)
    labels[:, SIDE // 2 :] = 1
    probs = np.where(np.eye(2, dtype=bool)[labels.ravel()], 0.9, 0.1)
    interval = vote(probs, places=PLACES, block_um=400, min_margin=0).interval
    assert interval.margin[0] < -0.1
    assert interval.margin[1] > 0.1
    assert 0.3 < interval.leading_share < 0.8


def test_the_share_of_a_rule_has_an_interval_too():
    sure = (np.arange(SIDE * SIDE) % 10 == 0)[:, None]
    probs = np.where(sure, [0.1, 0.9], [0.9, 0.1])
    outcome = vote(probs, VoteRule("threshold", rule=ThresholdRule(1, 0.5, 0.05)), places=PLACES).rule
    assert outcome.low <= outcome.share <= outcome.high
    assert outcome.share == pytest.approx(0.1, abs=0.001)


@pytest.mark.parametrize("n_blocks", [MIN_BLOCKS - 1, MIN_BLOCKS])
def test_there_is_an_interval_from_the_minimum_number_of_blocks_on(n_blocks):
    coords = np.array([[block * 1000, 0] for block in range(n_blocks)])  # one patch per block of 500 µm
    grid = PatchGrid((100_000, 1000), (0.5, 0.5), 100, 0.5)
    result = vote(np.tile([0.9, 0.1], (n_blocks, 1)), places=Places(grid, coords), block_um=500)
    assert (result.interval is not None) == (n_blocks >= MIN_BLOCKS)
    if result.interval is not None:
        assert result.interval.n_blocks == n_blocks


def test_with_few_blocks_there_is_no_interval_and_the_reason_is_given():
    places = Places(GRID, GRID.all_coords()[:20])  # one row of 1 mm
    result = vote(np.tile([0.9, 0.1], (20, 1)), places=places, block_um=500)
    assert result.interval is None
    assert result.no_interval == "2 blocks of 500 µm with voting patches, fewer than 5"
    assert vote(np.tile([0.9, 0.1], (20, 1)), places=places, resamples=0).no_interval == "none was requested"
    assert "coordinates" in vote(np.tile([0.9, 0.1], (20, 1))).no_interval


def test_blocks_have_the_stated_side_on_slides_with_non_square_pixels():
    grid = PatchGrid((4000, 2000), (0.25, 0.5), 100, 0.5)
    coords = grid.all_coords()
    number, n_blocks, side_um = blocks_of(grid, coords, 200.0)
    middle_um = (coords + np.array(grid.side) / 2) * [0.25, 0.5]
    assert side_um == 200.0
    assert n_blocks == 25
    for block in range(n_blocks):
        assert np.ptp(middle_um[number == block], axis=0).max() < 200
    assert np.bincount(number).tolist() == [16] * 25


def test_beyond_the_maximum_number_blocks_are_made_larger():
    grid = PatchGrid((30_000, 30_000), (0.5, 0.5), 100, 0.5)
    number, n_blocks, side_um = blocks_of(grid, grid.all_coords(), 100.0)
    assert side_um == 400.0
    assert n_blocks == 38 * 38 <= MAX_BLOCKS
    assert number.max() == n_blocks - 1


def test_blocks_far_apart_need_no_memory_for_the_space_between():
    grid = PatchGrid((10**9, 10**9), (0.5, 0.5), 100, 0.5)
    number, n_blocks, _ = blocks_of(grid, np.array([[0, 0], [10**9 - 200, 10**9 - 200]]), 100.0)
    assert (number.tolist(), n_blocks) == ([0, 1], 2)
