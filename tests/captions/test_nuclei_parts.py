"""Each step of the nuclear segmentation against the same computed plainly, by SciPy, scikit-image or in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi
from skimage.measure import regionprops

from wsikit.captions import nuclei_mask as mask_steps
from wsikit.captions.nuclei import find_nuclei
from wsikit.captions.nuclei_split import depth_below, split
from wsikit.captions.pixels import Densities, densities

SHAPES = [(64, 64), (65, 48), (48, 65), (33, 33), (3, 40), (40, 2), (2, 2)]


def blobs(shape, seed=0, share=0.4, blur=1.6):
    """A mask of random blobs, uint8."""
    field = ndi.gaussian_filter(np.random.default_rng(seed).random(shape), blur)
    return (field > np.quantile(field, 1 - share)).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_depth_counts_erosions_by_cross_and_square_in_turn(shape, seed):
    mask = blobs(shape, seed, share=0.6)
    left, depth = mask > 0, mask.astype(int)
    for step in range(63):
        left = ndi.binary_erosion(left, ndi.generate_binary_structure(2, 1 + step % 2), border_value=1)
        depth += left
    assert np.array_equal(depth_below(mask), depth)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_holes_are_filled_where_they_are_small_off_the_edge_and_dense(shape, seed, share):
    mask = blobs(shape, seed, share, blur=0.8)
    plane = np.random.default_rng(seed + 10).random(shape).astype(np.float32)
    expected = mask.copy()
    labels, n = ndi.label(mask == 0)
    for label in range(1, n + 1):
        rows, columns = np.nonzero(labels == label)
        at_edge = min(rows.min(), columns.min()) == 0 or rows.max() == shape[0] - 1 or columns.max() == shape[1] - 1
        if len(rows) <= 9 and not at_edge and plane[rows, columns].mean() >= 0.45:
            expected[rows, columns] = 1
    mask_steps.fill_holes(mask, 9, plane, 0.45)
    assert np.array_equal(mask, expected)


def test_the_largest_hole_is_filled_where_it_is_small():
    mask = np.ones((40, 40), np.uint8)
    mask[10:14, 10:14] = mask[30, 30] = 0
    mask_steps.fill_holes(mask, 16, np.ones((40, 40), np.float32), 0.5)
    assert mask.all()


@pytest.mark.parametrize("shape", [*SHAPES, (1, 7), (7, 1), (1, 1)])
def test_a_limit_of_half_size_holds_for_the_pixels_of_its_block_and_the_last_one_beyond(shape):
    plane = np.random.default_rng(1).random(shape).astype(np.float32)
    limit = np.random.default_rng(2).random([max(1, n // 2) for n in shape]).astype(np.float32)
    rows, columns = (np.minimum(np.arange(n) // 2, max(1, n // 2) - 1) for n in shape)
    expected = plane > limit[rows][:, columns]
    assert np.array_equal(mask_steps.is_above(plane, limit), expected)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 6), (6, 1), (1, 1)])
def test_half_size_is_the_mean_of_blocks(shape):
    plane = np.random.default_rng(1).random(shape).astype(np.float32)
    height, width = (n // 2 * 2 or 1 for n in shape)
    expected = ndi.uniform_filter(plane, [min(2, height), min(2, width)], origin=-1 if min(shape) > 1 else 0)
    if min(shape) > 1:
        assert mask_steps.halve(plane) == pytest.approx(expected[:height:2, :width:2], abs=1e-6)
    else:
        assert mask_steps.halve(plane).mean() == pytest.approx(plane[:height, :width].mean(), abs=1e-6)


def test_the_threshold_separates_the_densities_as_well_as_any():
    """Otsu's criterion, the variance between the two sides, of every possible threshold."""
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(0.3, 0.08, 3000), rng.normal(0.8, 0.15, 1096)]).astype(np.float32)
    plane = rng.permutation(np.maximum(values, 0.1)).reshape(64, 64)
    sample = plane[::2, ::2].ravel()

    def spread(threshold):
        below = sample <= threshold
        return below.mean() * (1 - below.mean()) * (sample[below].mean() - sample[~below].mean()) ** 2

    found = mask_steps.otsu_of(plane, Densities(plane, plane, plane, 0.5))
    assert spread(found) > 0.999 * max(spread(value) for value in np.sort(sample)[:-1])


def test_a_patch_without_stain_has_no_threshold():
    plane = np.zeros((32, 32), np.float32)
    assert mask_steps.otsu_of(plane, Densities(plane, plane, plane, 0.5)) == 0.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_each_pixel_belongs_to_the_maximum_that_steepest_ascent_leads_to(shape, seed):
    """Followed pixel by pixel; maxima nearer than 1 px do not exist, so none are merged."""
    mask = blobs(shape, seed)
    pixels = np.flatnonzero(mask)
    member, n = split(mask, pixels, 1.0, 0.9)
    depth = np.pad(np.where(mask > 0, np.trunc(mask_steps.smooth(depth_below(mask), 1.0, 4096.0)), 0), 1)

    def top(y, x):
        steps = [(depth[y + dy, x + dx], dx == 0, dx == 1, dy == 0, dy == 1) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        best = max(range(9), key=lambda index: steps[index])
        y, x, here = y + best // 3 - 1, x + best % 3 - 1, best == 4
        return (y, x) if here else top(y, x)

    tops = [top(y + 1, x + 1) for y, x in zip(*np.nonzero(mask), strict=True)]
    assert len(set(zip(tops, member, strict=True))) == len(set(tops)) == len(set(member)) <= n


def test_near_maxima_are_one():
    """Two discs of radius 8 px whose centres are 12 px apart."""
    y, x = np.mgrid[:40, :60]
    mask = ((np.hypot(y - 20, x - 24) < 8) | (np.hypot(y - 20, x - 36) < 8)).astype(np.uint8)
    pixels = np.flatnonzero(mask)
    assert len(set(split(mask, pixels, 1.4, 4.0)[0])) == 2
    assert len(set(split(mask, pixels, 1.4, 14.0)[0])) == 1


def test_measurements_are_those_of_the_labels(draw_nuclei):
    """Against scikit-image's region properties."""
    od = densities(draw_nuclei(0.5, spacing_um=9.0)[:-5, 7:], 0.5)
    found = find_nuclei(od)
    regions = regionprops(found.labels, intensity_image=od.red)
    assert len(found) == len(regions) > 100
    assert np.column_stack([found.y, found.x]) == pytest.approx(np.array([one.centroid for one in regions]))
    assert found.area_um2 == pytest.approx([one.area * 0.25 for one in regions])
    assert found.density == pytest.approx([one.intensity_mean for one in regions], rel=1e-5)
    # 1/12 px²: a pixel is a square, in scikit-image a point
    squares = np.array([one.inertia_tensor_eigvals for one in regions]) + 1 / 12
    assert found.aspect == pytest.approx(np.sqrt(squares[:, 1] / squares[:, 0]))
    boxes = np.array([one.bbox for one in regions])
    at_edge = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == od.shape).any(axis=1)
    assert np.array_equal(found.cut, at_edge)
    assert found.labels.dtype == np.int32
    assert found.labels.flags.c_contiguous
