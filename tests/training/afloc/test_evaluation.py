"""Figures of maps in closed form, on planted squares."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.afloc.evaluation import (
    MapWithTruth,
    best_threshold,
    evaluate_maps,
    otsu_threshold,
    overlap,
    points_inside,
    presence_score,
    signed_cnr,
)


def planted(name: str, *, square: bool, noise: float = 0.05, seed: int = 0) -> MapWithTruth:
    rng = np.random.default_rng(seed)
    truth = np.zeros((12, 12), bool)
    if square:
        truth[3:7, 4:8] = True
    values = np.where(truth, 0.9, 0.1) + noise * rng.standard_normal(truth.shape)
    values[0, :] = np.nan
    return MapWithTruth(name, values, truth, square)


def test_an_empty_map_of_a_slide_with_the_concept_scores_zero() -> None:
    """The published code drops such slides from the mean."""
    assert overlap(np.zeros(4, bool), np.array([True, False, False, False])) == (0.0, 0.0)
    assert np.isnan(overlap(np.zeros(4, bool), np.zeros(4, bool))[0])


def test_contrast_is_signed() -> None:
    values, truth = np.array([1.0, 3.0, 5.0, 7.0]), np.array([True, True, False, False])
    assert signed_cnr(values, truth) == pytest.approx(-4 / np.sqrt(2))
    assert signed_cnr(-values, truth) == pytest.approx(4 / np.sqrt(2))


def test_a_constant_map_points_nowhere() -> None:
    truth = np.eye(3, dtype=bool)
    assert points_inside(MapWithTruth("s", np.ones((3, 3)), truth)) is False
    assert points_inside(MapWithTruth("s", truth.astype(float), truth)) is True
    assert points_inside(MapWithTruth("s", np.ones((3, 3)), np.zeros((3, 3), bool))) is None


def test_pointing_one_cell_next_to_the_truth_needs_tolerance() -> None:
    truth, values = np.zeros((5, 5), bool), np.zeros((5, 5))
    truth[1, 1], values[2, 2] = True, 1.0
    one = MapWithTruth("s", values, truth)
    assert (points_inside(one), points_inside(one, tolerance=1)) == (False, True)


def test_the_best_threshold_does_not_divide_equal_values() -> None:
    values, truth = np.array([[0.9, 0.5, 0.5, 0.1]]), np.array([[True, True, False, False]])
    assert best_threshold([MapWithTruth("s", values, truth)]) == 0.5
    with pytest.raises(RequestError, match="no cell of the validation slides"):
        best_threshold([MapWithTruth("s", values, np.zeros((1, 4), bool))])


def test_a_planted_square_is_found_and_slides_without_it_are_recognised() -> None:
    slides = [planted(str(n), square=n % 2 == 0, seed=n) for n in range(8)]
    found = evaluate_maps(slides, threshold=0.5, thresholds=(0.4, 0.6), draws=50)
    assert found["iou"]["value"] > 0.99
    assert found["pointing"]["value"] == 1.0
    assert found["presence_auroc"]["value"] == 1.0
    assert found["mean_dice"]["value"] == pytest.approx(1.0, abs=0.01)
    assert (found["slides_with"], found["slides_without"], found["cells"]) == (4, 4, 8 * 132)


def test_a_map_that_marks_every_slide_does_not_tell_presence() -> None:
    slides = [planted(str(n), square=True, seed=n) for n in range(4)]
    slides += [MapWithTruth(f"n{n}", one.values, np.zeros_like(one.truth), False) for n, one in enumerate(slides)]
    found = evaluate_maps(slides, threshold=0.5, draws=0)
    assert found["presence_auroc"]["value"] == 0.5
    assert found["dice"]["value"] == pytest.approx(2 / 3)


def test_cells_outside_of_the_tissue_do_not_count() -> None:
    one = planted("s", square=True, noise=0.0)
    truth = one.truth.copy()
    truth[0] = True
    outside = MapWithTruth("s", one.values, truth, True)
    assert evaluate_maps([outside], threshold=0.5)["dice"]["value"] == 1.0
    assert presence_score(outside) == pytest.approx(0.9)


def test_map_and_truth_of_different_shapes_are_refused() -> None:
    with pytest.raises(RequestError, match="expected equal"):
        MapWithTruth("s", np.zeros((2, 3)), np.zeros((3, 2), bool))


def test_otsu_divides_two_groups_as_a_loop_over_all_cuts_does() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.05, 70), rng.normal(0.7, 0.1, 30)])

    def within(cut: float) -> float:
        return float(sum(((part - part.mean()) ** 2).sum() for part in (values[values < cut], values[values >= cut])))

    best = min(np.sort(values)[1:], key=within)
    assert otsu_threshold(values) == best
    assert 0.3 < best < 0.6
    assert otsu_threshold(np.append(values, np.nan)) == best


def test_otsu_finds_nothing_in_a_constant_map() -> None:
    assert otsu_threshold(np.full(5, 0.3)) == np.inf
    assert otsu_threshold(np.array([np.nan, 0.3])) == np.inf
