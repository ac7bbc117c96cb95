"""Degraded patches: the faults that wsikit's own quality measures find, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.phantom import phantom_patches
from wsikit.tissue.quality import patch_quality
from wsikit.training.degrade import KINDS, degrade


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return np.stack([patch.image for patch in phantom_patches(range(40, 46), 2)])


def faulty(images: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    return degrade(images, np.random.default_rng(seed), kinds=[kind], mpp=0.5)


@pytest.mark.parametrize(("kind", "measure"), [("blur", "blur"), ("pen", "pen")])
def test_the_fault_is_found_by_the_measures_of_the_tiler(tissue: np.ndarray, kind: str, measure: str):
    before, after = (patch_quality(images, mpp=0.5)[measure] for images in (tissue, faulty(tissue, kind)))
    assert (after > before + 0.1).mean() > 0.9


def test_a_blur_has_the_standard_deviation_that_is_documented(tissue: np.ndarray):
    found = patch_quality(faulty(tissue, "blur"), mpp=0.5)["blur"] * 4
    assert (found > 1.2).mean() > 0.9


def test_ink_and_folds_absorb_light_in_a_band_only(tissue: np.ndarray):
    for kind in ("pen", "fold"):
        after = faulty(tissue, kind)
        assert (after <= tissue).all()
        changed = (after != tissue).any(axis=3).mean(axis=(1, 2))
        assert (changed > 0.2).all()
        assert changed.min() < 0.9


def test_a_fold_doubles_the_density_of_an_even_patch():
    even = np.full((1, 64, 64, 3), 127, np.uint8)  # transmits half the light
    after = faulty(even, "fold")[0]
    assert after.min() == pytest.approx(256 * 0.5 * 0.5 - 1, abs=1)
    assert after.max() == 127


def test_glass_is_neither_blurred_nor_folded_to_something_else():
    glass = np.full((1, 64, 64, 3), 255, np.uint8)
    for kind in ("blur", "fold"):
        np.testing.assert_array_equal(faulty(glass, kind), glass)
    assert faulty(glass, "pen").min() < 150


def test_equal_seeds_give_equal_patches_and_the_originals_stay(tissue: np.ndarray):
    kept = tissue.copy()
    one, two, other = (degrade(tissue, np.random.default_rng(seed), mpp=0.5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    np.testing.assert_array_equal(tissue, kept)


def test_coarse_pixels_are_blurred_visibly_too(tissue: np.ndarray):
    coarse = degrade(tissue, np.random.default_rng(0), kinds=["blur"], mpp=8.0)
    assert np.abs(coarse.astype(int) - tissue).mean() > 2


def test_an_unknown_kind_is_named():
    with pytest.raises(RequestError, match="'dust'"):
        degrade(np.zeros((1, 8, 8, 3), np.uint8), np.random.default_rng(0), kinds=["dust"], mpp=0.5)
    with pytest.raises(RequestError, match=", ".join(KINDS)):
        degrade(np.zeros((1, 8, 8, 3), np.uint8), np.random.default_rng(0), kinds=[], mpp=0.5)
