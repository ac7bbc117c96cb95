"""Maps of scores on the patch grid, against SciPy's filter and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.voting.text_map import combine, mixture_threshold, presence, rescale, smooth_cells, smooth_patches, upsample


def random_map(shape: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.6
    return np.where(mask, rng.random(shape), np.nan), mask


def test_masked_smoothing_is_the_ratio_of_two_gaussian_filters() -> None:
    values, mask = random_map((40, 31))
    filled = np.where(mask, values, 0.0)
    above, below = (
        gaussian_filter(image.astype(float), 1.5, mode="constant", truncate=4.0) for image in (filled, mask)
    )
    expected = np.where(mask, above / np.where(mask, below, 1), np.nan)
    np.testing.assert_allclose(smooth_cells(values, mask, 1.5), expected, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4.0])
def test_a_constant_map_stays_constant_up_to_the_border_of_the_tissue(sigma: float) -> None:
    _, mask = random_map((25, 25))
    found = smooth_cells(np.full(mask.shape, 0.3), mask, sigma)
    np.testing.assert_allclose(found[mask], 0.3, atol=1e-12)
    assert np.isnan(found[~mask]).all()


@pytest.mark.parametrize("shape", [(64, 50), (33, 97), (16, 40)])
def test_chunks_give_the_same_map_as_the_whole(shape: tuple[int, int]) -> None:
    values, mask = random_map(shape, seed=3)
    whole, parts = (smooth_cells(values, mask, 1.5, chunk=chunk) for chunk in (1000, 16))
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    assert np.array_equal(np.isnan(parts), np.isnan(whole))


def test_patches_without_a_value_have_no_weight_and_get_none() -> None:
    grid = PatchGrid((224 * 5, 224), (0.5, 0.5), 224, 0.5)
    found = smooth_patches(np.array([1.0, np.nan, 1.0, 1.0, 1.0]), grid, grid.all_coords())
    np.testing.assert_allclose(found, [1, np.nan, 1, 1, 1])


def test_patches_in_no_grid_are_smoothed_only_if_sigma_is_0() -> None:
    grid = PatchGrid((1000, 1000), (0.5, 0.5), 224, 0.5, anchored=False)
    coords = np.array([[3, 5], [400, 301]])
    assert smooth_patches(np.array([0.1, 0.2]), grid, coords, 0).tolist() == [0.1, 0.2]
    with pytest.raises(RequestError, match="--sigma 0"):
        smooth_patches(np.array([0.1, 0.2]), grid, coords)


def test_a_coarse_map_that_is_linear_in_the_position_is_linear_at_the_fine_patches() -> None:
    fine = PatchGrid((3200, 3200), (0.5, 0.5), 200, 0.5)
    coarse = PatchGrid((3200, 3200), (0.5, 0.5), 200, 2.0)
    centres = coarse.all_coords() + np.asarray(coarse.side) / 2
    places = fine.all_coords() + np.asarray(fine.side) / 2
    found = upsample(2 * centres[:, 0] - centres[:, 1], coarse, coarse.all_coords(), places)
    within = ((places > 400) & (places < 2800)).all(axis=1)
    np.testing.assert_allclose(found[within], (2 * places[:, 0] - places[:, 1])[within])
    assert np.isfinite(found).all()


def test_where_the_coarse_grid_has_no_value_the_fine_one_counts_alone() -> None:
    found = combine(np.array([0.2, 0.4, np.nan]), np.array([0.6, np.nan, 0.5]))
    np.testing.assert_allclose(found, [0.4, 0.4, np.nan])


def test_quantiles_are_of_the_cohort_and_minmax_is_of_the_slide() -> None:
    faint = np.array([0.10, 0.11, np.nan])
    assert rescale(faint, "minmax").tolist()[:2] == [-1, 1]
    np.testing.assert_allclose(rescale(faint, "quantile", np.linspace(0.1, 1.1, 11)), [0, 0.01, np.nan], atol=1e-12)
    with pytest.raises(RequestError, match="cohort"):
        rescale(faint, "quantile")


def test_presence_is_the_mean_of_the_highest_and_undefined_without_any() -> None:
    values = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(presence(values), values[-11:].mean())
    assert np.isnan(presence(np.array([np.nan])))
    assert presence(np.array([0.5, np.nan])) == 0.5


def test_a_mixture_divides_two_normal_distributions_where_their_densities_are_equal() -> None:
    """Equal spread s, means a < b and shares 0.9 and 0.1: equal at (a + b) / 2 + s² ln 9 / (b − a)."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(-8, 2, 18_000), rng.normal(2, 2, 2_000)])
    assert mixture_threshold(values) == pytest.approx(-3 + 4 * np.log(9) / 10, abs=0.2)
    assert mixture_threshold(np.append(values, np.nan)) == mixture_threshold(values)


def test_a_long_tail_does_not_draw_the_threshold_of_a_mixture_into_the_larger_group() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(-20, 8, 9_000), rng.normal(5, 1, 500)])
    assert 0 < mixture_threshold(values) < 5


def test_a_mixture_finds_nothing_in_a_constant_map() -> None:
    assert mixture_threshold(np.full(5, 0.3)) == np.inf
