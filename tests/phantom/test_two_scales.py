"""Fields and patches of one slide: the class follows from both, and neither shows what the other states."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.phantom import two_scales as module
from wsikit.phantom.facts import facts_of, survey
from wsikit.phantom.render import Scene
from wsikit.phantom.two_scales import MPP, PATCH_PX, TwoScales, mki_grade, two_scales

SEEDS = range(40, 46)
SIDE = 6


@pytest.fixture(scope="module")
def slides() -> list[TwoScales]:
    return [two_scales(seed, 6, per_side=SIDE) for seed in SEEDS]


def test_the_same_seed_gives_the_same_slide(slides: list[TwoScales]) -> None:
    again = two_scales(SEEDS[2], 6, per_side=SIDE)
    assert np.array_equal(again.images, slides[2].images)
    assert np.array_equal(again.picture, slides[2].picture)
    assert (again.cells, again.events) == (slides[2].cells, slides[2].events)
    assert not np.array_equal(again.picture, slides[3].picture)


def test_favourable_needs_neuropil_in_the_patch_and_an_index_of_the_field_that_is_not_high(
    slides: list[TwoScales],
) -> None:
    grades = {mki_grade(slide.mki) for slide in slides}
    assert "high" in grades
    assert len(grades) > 1
    for slide in slides:
        assert len(slide.labels) == len(slide.images) == len(slide.coords)
        favourable = (slide.facts.fraction("neuropil") > 0.05) & (slide.events < 0.04 * slide.cells)
        assert np.array_equal(slide.labels == 0, favourable)
        assert (slide.facts.tumour >= 0.7).all()
    neuropil = np.concatenate([slide.facts.fraction("neuropil") for slide in slides])
    assert 0.3 < (neuropil > 0.05).mean() < 0.7
    assert not ((neuropil > 0.005) & (neuropil < 0.1)).any()


def test_facts_of_a_patch_are_those_of_its_own_survey(slides: list[TwoScales]) -> None:
    slide = slides[0]
    scene = Scene(module._recipe(slide.seed, SIDE), MPP)
    for row, (x, y) in enumerate(slide.coords.tolist()):
        box = (x, y, PATCH_PX, PATCH_PX)
        own = facts_of(survey(scene, scene.plot(box), box, None))
        np.testing.assert_allclose(own.fractions[0], slide.facts.fractions[row], atol=1e-6)
        assert np.array_equal(own.counts[0], slide.facts.counts[row])


def test_the_picture_shows_the_tissue_of_the_patches_at_half_the_scale(slides: list[TwoScales]) -> None:
    for slide in slides:
        assert slide.picture.shape == (SIDE * PATCH_PX // 2,) * 2 + (3,)
        for image, (x, y) in zip(slide.images, slide.coords // 2, strict=True):
            half = image.reshape(PATCH_PX // 2, 2, PATCH_PX // 2, 2, 3).mean((1, 3))
            there = slide.picture[y : y + PATCH_PX // 2, x : x + PATCH_PX // 2].astype(float)
            assert np.corrcoef(half.ravel(), there.ravel())[0, 1] > 0.7


def test_a_field_has_far_more_cells_than_its_patches(slides: list[TwoScales]) -> None:
    for slide in slides:
        assert slide.cells > 20 * slide.facts.n_neuroblastic.mean()
        assert slide.events >= slide.patch_events.sum()


def test_requests_without_patches_are_refused() -> None:
    with pytest.raises(RequestError, match="0 patches of a field of 18"):
        two_scales(1, 0)
    with pytest.raises(RequestError, match="1 patches a side"):
        two_scales(1, 2, per_side=1)
