"""Numbers of a patch relative to its slide, and an image feature that knows its slide."""

from __future__ import annotations

import numpy as np
import torch

from wsikit.models.image_context import ImageContext, image_context
from wsikit.models.slide_context import MIN_PATCHES, SlideContext, number_columns

RNG = np.random.default_rng(0)
SLIDE = RNG.normal([10.0, -3.0], [2.0, 0.5], (400, 2))


def test_statistics_are_those_of_numpy_without_what_was_not_measured():
    values = SLIDE.copy()
    values[:100, 1] = np.nan
    found = SlideContext.of(values).statistics
    known = values[100:, 1]
    np.testing.assert_allclose(found[1], [known.mean(), known.std(), *np.percentile(known, [10, 50, 90])], rtol=1e-6)


def test_a_slide_of_few_patches_is_not_known_rather_than_zero():
    statistics = SlideContext.of(SLIDE[: MIN_PATCHES - 1]).statistics
    assert np.isnan(statistics).all()
    columns = number_columns(SLIDE[:5], statistics=statistics, in_slide=True)
    assert np.isfinite(columns[:, 0, :2]).all()
    assert np.isnan(columns[:, 0, 2:]).all()
    np.testing.assert_array_equal(columns, number_columns(SLIDE[:5], in_slide=True))


def test_columns_are_value_z_score_and_rank():
    statistics = SlideContext.of(SLIDE).statistics
    values, widths = number_columns(SLIDE, statistics=statistics, in_slide=True).transpose(1, 0, 2)
    value, z, rank = np.split(values, 3, axis=1)
    np.testing.assert_allclose(value, SLIDE, rtol=1e-6)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-4)
    true_rank = SLIDE.argsort(axis=0).argsort(axis=0) / (len(SLIDE) - 1)
    assert np.abs(rank - true_rank).max() < 0.12
    assert np.abs(rank - true_rank).mean() < 0.04
    assert ((rank >= 0) & (rank <= 1)).all()
    assert (widths == 0).all()


def test_a_shift_and_a_scale_of_the_whole_slide_change_no_relative_number():
    other = 7.0 + 3.0 * SLIDE
    one = number_columns(SLIDE, statistics=SlideContext.of(SLIDE).statistics, in_slide=True)
    two = number_columns(other, statistics=SlideContext.of(other).statistics, in_slide=True)
    np.testing.assert_allclose(one[:, :, 2:6], two[:, :, 2:6], atol=1e-4)


def test_an_uncertain_number_stays_uncertain_relative_to_the_slide():
    statistics = SlideContext.of(SLIDE).statistics
    value, half = SLIDE[:1], np.array([[1.0, 0.0]])
    columns = number_columns(value, half, statistics, in_slide=True)[0]
    np.testing.assert_allclose(columns[1, 2], 1.0 / statistics[0, 1], rtol=1e-5)
    ends = [number_columns(value + sign * half, statistics=statistics, in_slide=True)[0, 0, 4] for sign in (-1, 1)]
    np.testing.assert_allclose(columns[1, 4], (ends[1] - ends[0]) / 2, rtol=1e-5)
    assert (columns[1, 1::2] == 0).all()


def test_patches_that_are_all_alike_are_not_ranked_by_rounding():
    alike = np.full((50, 1), 0.3) + RNG.normal(0, 1e-9, (50, 1))
    columns = number_columns(alike, statistics=SlideContext.of(alike).statistics, in_slide=True)
    np.testing.assert_allclose(columns[:, 0, 1], 0, atol=1e-3)
    np.testing.assert_allclose(columns[:, 0, 2], 0.5, atol=1e-3)


def test_each_patch_may_have_the_statistics_of_its_own_slide():
    one, two = SlideContext.of(SLIDE).statistics, SlideContext.of(SLIDE + 50).statistics
    both = number_columns(SLIDE[:2], statistics=np.stack([one, two]), in_slide=True)
    np.testing.assert_array_equal(both[:1], number_columns(SLIDE[:1], statistics=one, in_slide=True))
    np.testing.assert_array_equal(both[1:], number_columns(SLIDE[1:2], statistics=two, in_slide=True))


def test_an_image_branch_in_context_begins_as_one_that_sees_the_patch_alone():
    torch.manual_seed(0)
    module = ImageContext(4).eval()
    features = torch.randn(12, 4)
    context = image_context(features).expand(12, -1, -1)
    assert torch.equal(module(features, context), features)
    torch.nn.init.normal_(module.layers[-1].weight)
    assert not torch.allclose(module(features, context), features)


def test_without_a_known_slide_the_image_feature_is_unchanged():
    torch.manual_seed(0)
    module = ImageContext(4).eval()
    torch.nn.init.normal_(module.layers[-1].weight)
    features = torch.randn(MIN_PATCHES - 1, 4)
    unknown = image_context(features)
    assert unknown.isnan().all()
    assert torch.equal(module(features, unknown.expand(len(features), -1, -1)), features)
