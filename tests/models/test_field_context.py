"""Mean numbers of the field around a patch, against the sum written out."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.models.field_context import PRIOR, field_means


def _written_out(values: np.ndarray, centres: np.ndarray, sd: float) -> np.ndarray:
    found = np.empty_like(values)
    for row in range(len(values)):
        d = np.hypot(*(centres - centres[row]).T)
        w = np.exp(-0.5 * (d / sd) ** 2)
        w[row] = 0
        found[row] = (w @ values + PRIOR * values.mean(axis=0)) / (w.sum() + PRIOR)
    return found


def test_the_mean_of_the_field_is_the_weighted_mean_of_the_neighbours():
    rng = np.random.default_rng(0)
    sd = 1000.0
    centres = rng.integers(0, 40, (300, 2)) * (sd / 4) + 7.0  # on the cells' grid, where the two agree exactly
    values = rng.normal(size=(300, 2)) + centres[:, :1] / 5000
    np.testing.assert_allclose(field_means(values, centres, sd), _written_out(values, centres, sd), atol=1e-3)


def test_places_between_cells_change_the_mean_little():
    rng = np.random.default_rng(1)
    centres = rng.uniform(0, 10_000, (400, 2))
    values = centres[:, :1] / 1000 + rng.normal(0, 0.1, (400, 1))
    difference = field_means(values, centres, 1000.0) - _written_out(values, centres, 1000.0)
    assert np.abs(difference).max() < 0.2  # of a range of 10


def test_numbers_that_are_not_measured_have_no_weight_and_get_the_mean_of_the_others():
    centres = np.array([[0.0, 0.0], [100.0, 0.0], [200.0, 0.0]])
    found = field_means(np.array([[np.nan, np.nan], [2.0, np.nan], [2.0, np.nan]]), centres, 1000.0)
    np.testing.assert_allclose(found[:, 0], 2.0, atol=1e-6)
    assert np.isnan(found[:, 1]).all()


@pytest.mark.parametrize("side", [1, 3])
def test_a_patch_without_neighbours_has_the_mean_of_its_slide(side):
    centres = np.arange(side)[:, None] * np.array([[1e6, 0.0]])
    values = np.arange(side, dtype=float)[:, None]
    np.testing.assert_allclose(field_means(values, centres, 500.0)[:, 0], values.mean(), atol=1e-6)
