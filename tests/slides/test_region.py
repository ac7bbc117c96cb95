"""Plans of regions and their execution, without any file."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import ScaleError
from wsikit.slides.region import RegionPlan, plan_region, resample

DOWNSAMPLES = [(1.0, 1.0), (4.0, 3.9985), (16.0, 16.0)]
MPP = (0.25, 0.26)


def field_um(plan: RegionPlan) -> tuple[float, float]:
    """Width and height of what a plan covers, µm."""
    ds_x, ds_y = DOWNSAMPLES[plan.level]
    left, top, right, bottom = plan.crop
    return (right - left) * ds_x * MPP[0], (bottom - top) * ds_y * MPP[1]


@pytest.mark.parametrize("mpp", [0.15, 0.25, 0.26, 0.299, 0.301, 0.5, 0.688, 0.9995, 1.0, 1.04, 3.99, 4.0, 20.0])
def test_the_field_of_view_is_exact_at_any_mpp_and_on_both_axes(mpp):
    plan = plan_region(DOWNSAMPLES, MPP, 1000, 2000, 224, 112, mpp=mpp)
    width_um, height_um = field_um(plan)
    assert width_um == pytest.approx(224 * mpp, rel=1e-3)
    assert height_um == pytest.approx(112 * mpp, rel=1e-3)
    assert plan.out == (224, 112)


@pytest.mark.parametrize("mpp", [0.15, 0.5, 1.0, 3.3])
def test_the_corner_is_exactly_where_it_was_requested(mpp):
    plan = plan_region(DOWNSAMPLES, MPP, 1003, 2005, 100, 100, mpp=mpp)
    ds_x, ds_y = DOWNSAMPLES[plan.level]
    assert (plan.box[0] + plan.crop[0]) * ds_x == pytest.approx(1003, abs=0.05 * ds_x)
    assert (plan.box[1] + plan.crop[1]) * ds_y == pytest.approx(2005, abs=0.05 * ds_y)


def test_the_level_is_the_coarsest_with_the_detail_on_both_axes():
    assert plan_region(DOWNSAMPLES, MPP, 0, 0, 9, 9, mpp=0.99).level == 0
    assert plan_region(DOWNSAMPLES, MPP, 0, 0, 9, 9, mpp=1.0).level == 0  # y: 0.26 × 3.9985 = 1.04
    assert plan_region(DOWNSAMPLES, MPP, 0, 0, 9, 9, mpp=1.04).level == 1
    assert plan_region(DOWNSAMPLES, MPP, 0, 0, 9, 9, mpp=100).level == 2


def test_an_mpp_per_axis_can_be_requested():
    plan = plan_region([(1.0, 1.0)], MPP, 0, 0, 10, 10, mpp=MPP)
    assert not plan.resampled


def test_a_scale_within_a_thousandth_of_a_level_is_that_level():
    assert not plan_region([(1.0, 1.0)], (0.25, 0.25), 10, 10, 224, 224, mpp=0.25024).resampled
    assert plan_region([(1.0, 1.0)], (0.25, 0.25), 10, 10, 224, 224, mpp=0.2506).resampled


def test_level_reads_are_never_resampled():
    plan = plan_region(DOWNSAMPLES, None, 10.7, 10.7, 30, 20, level=1)
    assert plan == RegionPlan(1, (3, 3, 30, 20), (0.0, 0.0, 30.0, 20.0), (30, 20))
    assert plan_region(DOWNSAMPLES, None, 9.2, -9.2, 30, 20, level=1).box == (2, -2, 30, 20)


def test_without_a_pixel_size_only_levels_can_be_read():
    with pytest.raises(ScaleError, match="pixel size is unknown"):
        plan_region(DOWNSAMPLES, None, 0, 0, 10, 10, mpp=0.5)


@pytest.mark.parametrize("crop", [(0.0, 0.0, 90.0, 60.0), (3.0, 5.0, 51.0, 29.0), (3.3, 5.7, 88.9, 59.2)])
@pytest.mark.parametrize("out", [(30, 20), (24, 12), (17, 11)])
def test_shrinking_is_the_area_average(crop, out, texture, area_average):
    pixels = texture(90, 60, 1)
    exact = area_average(pixels, *crop, out)
    assert np.abs(resample(pixels, crop, out) - exact).max() < 0.6


def test_shrinking_along_one_axis_and_enlarging_along_the_other(texture, area_average):
    pixels = texture(90, 60, 2)
    result = resample(pixels, (10.0, 10.0, 70.0, 30.0), (20, 30))
    assert result.shape == (30, 20, 3)
    averaged = area_average(pixels, 10, 10, 70, 30, (20, 20))
    back = np.stack([np.interp(np.arange(20), (np.arange(30) + 0.5) / 1.5 - 0.5, column) for column in result[:, 5].T])
    assert np.abs(back[:, 2:-2] - averaged[2:-2, 5].T).mean() < 6


def test_a_constant_picture_stays_constant_whatever_the_ratio():
    pixels = np.full((100, 100, 3), 137, np.uint8)
    for out in ((99, 99), (50, 33), (7, 3), (150, 190), (40, 130)):
        assert (resample(pixels, (0.3, 0.7, 99.1, 98.2), out) == 137).all()


@pytest.mark.parametrize("mpp", [0.2, 0.3, 0.77])
def test_reading_in_bands_gives_the_same_pixels(mpp, texture):
    pixels = texture(300, 400, 3)
    plan = plan_region([(1.0, 1.0)], (0.25, 0.25), 30, 40, 60, 90, mpp=mpp)

    def carry_out(part: RegionPlan) -> np.ndarray:
        x, y, width, height = part.box
        return resample(pixels[y : y + height, x : x + width], part.crop, part.out)

    bands = list(plan.bands(band_px=1000))
    assert len(bands) > 3
    assert [rows.start for rows, _ in bands[1:]] == [rows.stop for rows, _ in bands[:-1]]
    assert all(band.box[2] * band.box[3] <= 4000 for _, band in bands)
    joined = np.concatenate([carry_out(band) for _, band in bands])
    # the sums run in another order: a rounding may fall the other way
    assert np.abs(joined.astype(int) - carry_out(plan)).max() <= 1
