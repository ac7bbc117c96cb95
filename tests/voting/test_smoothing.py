"""Smoothing on the patch grid: what it must remove, what it must leave, and what is missing stays missing."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.voting import smooth

METHODS = ("median", "mrf")


def grid_of(cols: int, rows: int, overlap_px: int = 0) -> PatchGrid:
    stride = 100 - overlap_px
    return PatchGrid((cols * stride + overlap_px, rows * stride + overlap_px), (0.5, 0.5), 100, 0.5, overlap_px)


def probs_of(labels: np.ndarray, sure: float = 0.9, n_classes: int = 3) -> np.ndarray:
    rest = (1 - sure) / (n_classes - 1)
    return np.where(np.eye(n_classes, dtype=bool)[labels.ravel()], sure, rest)


def labels_after(labels: np.ndarray, method: str, **options) -> np.ndarray:
    grid = grid_of(labels.shape[1], labels.shape[0])
    return (
        smooth(probs_of(labels), grid, grid.all_coords(), method=method, **options).argmax(axis=1).reshape(labels.shape)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_single_stray_patch_takes_the_class_of_its_neighbours(method):
    labels = np.zeros((7, 7), int)
    labels[3, 3] = 2
    labels[0, 0] = 1  # in a corner, with three neighbours only
    after = labels_after(labels, method, coupling=1.0)
    assert (after == 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_straight_border_stays_where_it_is(method):
    labels = np.zeros((12, 12), int)
    labels[:, 5:] = 2
    assert np.array_equal(labels_after(labels, method), labels)


@pytest.mark.parametrize("method", METHODS)
def test_missing_patches_have_no_influence_and_stay_missing(method):
    """Were the patches without prediction of any class, white or other, the lone pair would be outvoted."""
    labels = np.zeros((7, 7), int)
    labels[3, 3:5] = 2
    probs = probs_of(labels)
    alone = np.ones((7, 7), bool)
    alone[3, 3:5] = False
    probs[alone.ravel()] = np.nan
    grid = grid_of(7, 7)
    after = smooth(probs, grid, grid.all_coords(), method=method)
    assert np.isnan(after[alone.ravel()]).all()
    assert after[~alone.ravel()].argmax(axis=1).tolist() == [2, 2]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_passes_across_a_missing_patch(method):
    probs = np.array([[0.9, 0.1], [np.nan, np.nan], [0.4, 0.6]])
    grid = grid_of(3, 1)
    after = smooth(probs, grid, grid.all_coords(), method=method, coupling=2.0)
    assert after[[0, 2]] == pytest.approx(probs[[0, 2]])


@pytest.mark.parametrize("method", METHODS)
def test_a_patch_not_in_the_table_is_as_one_without_prediction(method):
    rng = np.random.default_rng(0)
    grid = grid_of(9, 6)
    probs, there = rng.dirichlet(np.ones(3), 54), rng.random(54) < 0.6
    holed = np.where(there[:, None], probs, np.nan)
    whole = smooth(holed, grid, grid.all_coords(), method=method)[there]
    assert smooth(probs[there], grid, grid.all_coords()[there], method=method) == pytest.approx(whole)


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_rows_does_not_matter(method):
    rng = np.random.default_rng(1)
    grid = grid_of(8, 8)
    probs, order = rng.dirichlet(np.ones(3), 64), rng.permutation(64)
    straight = smooth(probs, grid, grid.all_coords(), method=method)
    assert smooth(probs[order], grid, grid.all_coords()[order], method=method) == pytest.approx(straight[order])


def test_the_median_is_that_of_the_neighbours_recounted_one_by_one():
    rng = np.random.default_rng(2)
    rows, cols = 5, 130  # more rows than one would need, fewer than a block
    grid = grid_of(cols, rows)
    probs = rng.dirichlet(np.ones(3), rows * cols)
    probs[rng.random(len(probs)) < 0.3] = np.nan
    square = probs.reshape(rows, cols, 3)
    after = smooth(probs, grid, grid.all_coords(), method="median").reshape(rows, cols, 3)
    for r in range(rows):
        for c in range(0, cols, 7):
            if np.isnan(square[r, c, 0]):
                assert np.isnan(after[r, c]).all()
                continue
            around = square[max(r - 1, 0) : r + 2, max(c - 1, 0) : c + 2].reshape(-1, 3)
            found = np.nanmedian(around, axis=0)
            assert after[r, c] == pytest.approx(found / found.sum())


def test_more_rows_than_fit_at_once_are_smoothed_alike():
    rng = np.random.default_rng(3)
    probs = rng.dirichlet(np.ones(2), 150 * 4)
    tall, wide = grid_of(4, 150), grid_of(150, 4)
    down = smooth(probs, tall, tall.all_coords(), method="median").reshape(150, 4, 2)
    turned = probs.reshape(150, 4, 2).transpose(1, 0, 2).reshape(-1, 2)
    across = smooth(turned, wide, wide.all_coords(), method="median").reshape(4, 150, 2)
    assert down == pytest.approx(across.transpose(1, 0, 2))


def test_two_certain_neighbours_converge_to_the_mean_field_solution():
    """q ∝ p·exp(coupling·q of the other), solved by plain iteration for two patches."""
    p = np.array([[0.7, 0.3], [0.4, 0.6]])
    q = p.copy()
    for _ in range(500):
        for i in (0, 1):
            raw = p[i] * np.exp(0.8 * q[1 - i])
            q[i] = raw / raw.sum()
    grid = grid_of(2, 1)
    assert smooth(p, grid, grid.all_coords(), method="mrf", coupling=0.8) == pytest.approx(q, abs=2e-3)


def test_without_coupling_a_field_changes_nothing():
    probs = np.random.default_rng(4).dirichlet(np.ones(3) * 5, 64)
    grid = grid_of(8, 8)
    assert smooth(probs, grid, grid.all_coords(), method="mrf", coupling=0) == pytest.approx(probs, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_that_are_sure_of_different_classes_leave_probabilities(method):
    """The median of every class is 0 here: no row of NaN may come of it."""
    labels = np.arange(9).reshape(3, 3) % 3
    grid = grid_of(3, 3)
    after = smooth(probs_of(labels, sure=1.0), grid, grid.all_coords(), method=method)
    assert after.sum(axis=1) == pytest.approx(np.ones(9))


def test_overlapping_patches_are_smoothed_with_those_a_stride_away():
    labels = np.zeros((5, 5), int)
    labels[2, 2] = 1
    grid = grid_of(5, 5, overlap_px=50)
    after = smooth(probs_of(labels), grid, grid.all_coords(), method="median")
    assert (after.argmax(axis=1) == 0).all()


def test_patches_off_any_grid_have_no_neighbours_and_are_refused():
    grid = PatchGrid((1000, 1000), (0.5, 0.5), 100, 0.5, anchored=False)
    with pytest.raises(RequestError, match="regular grid"):
        smooth([[0.5, 0.5]], grid, np.array([[3, 7]]), method="median")


@pytest.mark.parametrize("method", ["none", *METHODS])
def test_a_slide_without_any_patch_or_prediction_comes_back(method):
    grid = grid_of(2, 2)
    assert smooth(np.empty((0, 3)), grid, np.empty((0, 2), np.int64), method=method).shape == (0, 3)
    assert np.isnan(smooth(np.full((4, 3), np.nan), grid, grid.all_coords(), method=method)).all()
