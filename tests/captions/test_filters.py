"""Filters against plain definitions: SciPy, NumPy, closed forms. And that many planes at once give what each gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage as ndi

from wsikit.captions import pixels
from wsikit.captions.color_texture import color_texture_facts
from wsikit.captions.lumina import find_spaces
from wsikit.captions.texture import Gradient, tensor_of

CROSS, SQUARE = ndi.generate_binary_structure(2, 1), np.ones((3, 3), bool)
SHAPES = [(40, 56), (33, 21), (7, 64), (1, 9), (9, 1), (2, 2)]


@pytest.fixture(params=SHAPES, ids=str)
def plane(request):
    return np.random.default_rng(0).random(request.param, dtype=np.float32)


@pytest.fixture(params=SHAPES, ids=str)
def mask(request):
    return ndi.gaussian_filter(np.random.default_rng(1).random(request.param), 1.5) > 0.5


@pytest.mark.parametrize("sigma", [0.6, 1.1, 3.0, 7.3])
def test_box_mean_is_the_mean_of_a_square_window_with_repeated_edges(plane, sigma):
    side = pixels.box_side(sigma)
    assert math.sqrt((side**2 - 1) / 12) == pytest.approx(sigma, abs=0.35)
    truth = ndi.uniform_filter(plane.astype(float), side, mode="nearest")
    np.testing.assert_allclose(pixels.box_mean(plane, sigma), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 1.7, 9.0])
def test_smooth_is_a_binomial_blur_of_that_width(plane, sigma):
    passes = min(12, round(2 * sigma**2))
    truth = plane.astype(float)
    for _ in range(passes):
        for axis in (0, 1):
            truth = ndi.correlate1d(truth, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    inner = np.s_[passes:-passes, passes:-passes] if passes else np.s_[:, :]  # repeated once, or at each pass
    np.testing.assert_allclose(pixels.smooth(plane, sigma)[inner], truth[inner], rtol=1e-5, atol=1e-6)
    if passes == 1:
        np.testing.assert_allclose(pixels.smooth(plane, sigma), truth, rtol=1e-5)


def test_halving_takes_the_mean_of_four_and_drops_odd_pixels(plane):
    height, width = (side // 2 * 2 if side > 1 else 1 for side in plane.shape)
    parts = plane[:height, :width].astype(float)
    truth = parts.reshape(max(1, height // 2), min(height, 2), max(1, width // 2), min(width, 2)).mean(axis=(1, 3))
    np.testing.assert_allclose(pixels.halve(plane), truth, rtol=1e-6)


def test_cover_counts_the_quarters_of_each_block(mask):
    truth = 4 * pixels.halve(mask.astype(np.float32))
    assert pixels.cover(mask).dtype == np.uint8
    np.testing.assert_array_equal(pixels.cover(mask), truth)
    np.testing.assert_array_equal(pixels.halve_mask(mask, 0.5), truth > 2)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
def test_dilation_and_erosion_take_a_cross_and_a_square_in_turn(mask, steps):
    grown, shrunk = mask, mask
    for step in range(steps):
        shape = SQUARE if step % 2 else CROSS
        grown = ndi.binary_dilation(grown, shape)
        shrunk = ndi.binary_erosion(shrunk, shape, border_value=1)
    np.testing.assert_array_equal(pixels.dilate(mask, steps), grown)
    np.testing.assert_array_equal(pixels.erode(mask, steps), shrunk)


@pytest.mark.parametrize("side", [1, 3, 9])
def test_a_square_reaches_half_its_side(mask, side):
    np.testing.assert_array_equal(pixels.dilate_square(mask, side), ndi.maximum_filter(mask, side))


def test_depth_is_the_number_of_erosions_that_a_pixel_survives(mask):
    depth, left = np.zeros(mask.shape), mask
    for step in range(6):
        depth += left
        left = ndi.binary_erosion(left, SQUARE if step % 2 else CROSS, border_value=1)
    np.testing.assert_array_equal(pixels.depth_below(mask, 6), depth)


def test_box_count_counts_the_pixels_of_the_mask(mask):
    counts, window = pixels.box_count(mask, 2.0)
    side = pixels.box_side(2.0)
    assert window == side**2
    truth = ndi.uniform_filter(mask.astype(float), side, mode="nearest") * window
    np.testing.assert_allclose(counts, truth, atol=1e-6)


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("kind", ["even", "ties", "sorted", "one value", "few"])
def test_a_quantile_is_the_value_at_its_rank(q, kind):
    rng = np.random.default_rng(2)
    values = rng.random(40 if kind == "few" else 12_345, dtype=np.float32)
    values = {"ties": np.round(values, 1), "sorted": np.sort(values), "one value": values * 0}.get(kind, values)
    assert pixels.quantile(values, q) == np.sort(values)[int(q * (len(values) - 1))]


def test_density_is_the_logarithm_of_what_is_absorbed():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = np.stack([values, values[::-1], values.T], axis=2)
    od = pixels.densities(image, 0.5)
    for channel, plane in enumerate((od.red, od.green, od.blue)):
        np.testing.assert_allclose(plane, np.log10(256 / (image[..., channel] + 1.0)), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mpp", [0.5, 0.27, 0.25, 0.17, 0.12, 0.05])
def test_shrinking_rounds_the_mean_of_whole_blocks_half_up(mpp):
    image = np.random.default_rng(3).integers(0, 256, (45, 37, 3), dtype=np.uint8)
    small, small_mpp = pixels.shrink(image, mpp, finest_mpp=0.5)
    k = round(small_mpp / mpp)
    assert 0.45 < small_mpp < 0.56 or k == 1
    height, width = small.shape[:2]
    blocks = image[: height * k, : width * k].reshape(height, k, width, k, 3).astype(np.int64)
    np.testing.assert_array_equal(small, (2 * blocks.sum(axis=(1, 3)) + k * k) // (2 * k * k))


@pytest.mark.parametrize(
    "change",
    [
        lambda planes: pixels.box_mean(planes, 3.0),
        lambda planes: pixels.smooth(planes, 1.2),
        pixels.halve,
        lambda planes: pixels.cover(planes > 0.5),
        lambda planes: pixels.dilate(planes > 0.8, 3),
        lambda planes: pixels.erode(planes > 0.1, 3),
        lambda planes: pixels.dilate_square(planes > 0.9, 7),
        lambda planes: pixels.box_count(planes > 0.5, 3.0)[0],
        lambda planes: np.stack(tensor_of(planes), axis=1),
        lambda planes: np.stack(Gradient(planes).whole(), axis=1),
    ],
)
@pytest.mark.parametrize("shape", [(24, 30), (17, 23), (2, 5)])
def test_many_planes_at_once_give_what_each_gives(change, shape):
    planes = np.random.default_rng(4).random((5, *shape), dtype=np.float32)
    together = change(planes)
    for index in range(len(planes)):
        np.testing.assert_array_equal(together[index], change(planes[index : index + 1])[0])


def test_the_gradient_of_a_box_is_that_of_the_whole_there():
    plane = np.random.default_rng(5).random((1, 31, 40), dtype=np.float32)
    dy, dx = np.zeros((2, 31, 40))
    dy[1:-1], dx[:, 1:-1] = plane[0, 2:] - plane[0, :-2], plane[0, :, 2:] - plane[0, :, :-2]
    truth = [part[:30].reshape(15, 2, 20, 2).mean(axis=(1, 3)) for part in (dx * dx, dy * dy, dx * dy)]
    np.testing.assert_allclose(np.array(Gradient(plane).whole())[:, 0], truth, rtol=1e-4, atol=1e-6)
    for rows, columns in ((slice(0, 4), slice(3, 9)), (slice(5, 15), slice(0, 20)), (slice(14, 15), slice(19, 20))):
        found = Gradient(plane).within(0, rows, columns)
        np.testing.assert_allclose(found, [part[rows, columns] for part in truth], rtol=1e-4, atol=1e-6)


def test_percentiles_and_deviations_are_those_of_the_densities():
    image = np.random.default_rng(6).integers(45, 150, (50, 41, 3), dtype=np.uint8)
    facts = color_texture_facts(image, 4.0)
    od = np.log10(256 / (image + 1.0))
    for name, share in (("od_p10", 0.1), ("od_p50", 0.5), ("od_p90", 0.9)):
        assert facts[name] == pytest.approx(np.sort(od[..., 1].ravel())[int(share * (50 * 41 - 1))], rel=1e-6)
    mean = ndi.uniform_filter(od[..., 1], 5, mode="nearest")  # 20 µm
    assert facts["fine_texture_sd"] == pytest.approx((od[..., 1] - mean).std(), rel=1e-5)
    assert facts["coarse_texture_sd"] == pytest.approx(mean.std(), rel=1e-5)
    # every pixel is stained
    red, green = od[..., 0].mean(), od[..., 1].mean()
    assert facts["red_green_od_ratio"] == pytest.approx((red + 0.01) / (green + 0.01), rel=1e-5)
    ratio = od[..., 0] / np.maximum(od[..., 1], 0.05)
    assert facts["red_green_od_ratio_sd"] == pytest.approx(ratio.std(), rel=1e-4)


def test_a_percentile_is_the_density_at_its_rank():
    values = np.random.default_rng(7).permutation(256).astype(np.uint8).reshape(16, 16)
    facts = color_texture_facts(np.stack([values.T, values, values], axis=2), 4.0)
    densities = np.sort(np.log10(256 / (np.arange(256) + 1.0)))
    for name, share in (("od_p10", 0.1), ("od_p50", 0.5), ("od_p90", 0.9), ("nuclear_stain", 0.9)):
        assert facts[name] == pytest.approx(densities[int(share * 255)], rel=1e-6)


@pytest.mark.parametrize("mpp", [1.0, 2.5, 4.0])
def test_spaces_of_many_patches_are_those_of_each(mpp):
    """Holes with known areas in thick tissue, walls between large spaces, glass at the edge, and nothing."""
    y, x = np.mgrid[:60, :70] * mpp
    holes = ((x % 60 - 30) ** 2 + (y % 60 - 30) ** 2) < 20**2
    cells = ((x % 40) >= mpp) & ((y % 40) >= mpp)
    glass = x < 50
    blanks = np.stack([holes, cells, glass, np.zeros_like(holes), holes & ~glass])
    od = np.where(blanks, 0, 0.3).astype(np.float32)
    found = find_spaces(pixels.Densities(od, od, od, mpp), blanks)
    for index in range(len(blanks)):
        one = od[index : index + 1]
        assert find_spaces(pixels.Densities(one, one, one, mpp), blanks[index : index + 1]) == [found[index]]
    assert found[3] == (0, 0)
    assert found[2] == (0, 0)
    whole = np.count_nonzero(holes) / holes.size
    assert found[0][0] == 0
    assert 0.3 * whole < found[0][1] <= whole  # those that the edge cuts most are none
    assert found[1][0] > 0.5
    assert found[1][1] < 0.1
