"""Reinhard and Macenko: slides of different stains have the same colours afterwards; glass is unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.inference.stain import GLASS, Macenko, Reinhard
from wsikit.training.data import PatchSet
from wsikit.training.stain_normalisation import normalise_stain


def tissue(shift: tuple[int, int, int], n: int = 6, seed: int = 0) -> np.ndarray:
    """Pink noise with nuclei, its lower third glass."""
    rng = np.random.default_rng(seed)
    images = rng.normal((190, 120, 170), 14, (n, 24, 24, 3)) + np.array(shift)
    images[rng.random((n, 24, 24)) < 0.2] -= 60
    images[:, 16:] = 244
    return images.clip(0, 255).astype(np.uint8)


def patches(images: np.ndarray, slides: list[str]) -> PatchSet:
    n = len(images)
    return PatchSet(images, np.zeros(n, np.int64), np.array(slides), ("",) * n, slides=np.array(slides))


def test_slides_of_other_stains_get_the_colours_of_the_training_tissue_and_glass_stays():
    training = Reinhard.fit(tissue((0, 0, 0)))
    data = patches(
        np.concatenate([tissue((30, -25, 10), seed=1), tissue((-40, 10, -30), seed=2)]), ["a"] * 6 + ["b"] * 6
    )
    found = normalise_stain(data, training)
    for rows in (slice(0, 6), slice(6, 12)):
        before, after = Reinhard.fit(data.images[rows]), Reinhard.fit(found.images[rows])
        assert np.abs(np.subtract(before.mean, training.mean)).max() > 5
        np.testing.assert_allclose(after.mean, training.mean, atol=0.8)
        np.testing.assert_allclose(after.std, training.std, atol=1.0)
    assert (found.images[:, 16:] == 244).all()
    assert found.slides is data.slides


def test_what_has_the_colours_already_stays_and_a_slide_does_not_depend_on_others():
    images = tissue((0, 0, 0))
    same = normalise_stain(patches(images, ["a"] * 6), Reinhard.fit(images)).images
    assert np.abs(same.astype(int) - images).max() <= 1
    other = tissue((30, -25, 10), seed=1)
    alone = normalise_stain(patches(other, ["b"] * 6), Reinhard.fit(images)).images
    both = patches(np.concatenate([images, other]), ["a"] * 6 + ["b"] * 6)
    assert (normalise_stain(both, Reinhard.fit(images)).images[6:] == alone).all()


def test_glass_alone_has_no_colours():
    with pytest.raises(RequestError, match="0 pixels of tissue in 2 patches"):
        Reinhard.fit(np.full((2, 8, 8, 3), 250, np.uint8))
    assert Reinhard.fit(tissue((0, 0, 0))).record()["glass_above_L"] == GLASS


H, E = (np.array(v) / np.linalg.norm(v) for v in ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)))
H2, E2 = (np.array(v) / np.linalg.norm(v) for v in ((0.55, 0.75, 0.36), (0.15, 0.95, 0.25)))


def stained(
    h: np.ndarray, e: np.ndarray, strength: float, *, seed: int = 0, n: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Patches of two stains by the law of Beer and Lambert, some pixels with one alone, and glass."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.5, 1.0, (4, 32, 32, 2)) * strength
    amounts[:, :10, :, 1], amounts[:, 10:20, :, 0] = 0, 0
    amounts[:, 28:] = 0  # glass
    density = amounts[..., :1] * h + amounts[..., 1:] * e
    return np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)


def test_macenko_finds_the_stains_that_patches_were_made_of():
    found = Macenko.fit(stained(H, E, 0.8))
    assert np.dot(found.stains[0], H) > 0.998
    assert np.dot(found.stains[1], E) > 0.998
    np.testing.assert_allclose(found.concentrations, 0.8, atol=0.03)


def test_macenko_brings_a_slide_of_other_stains_to_what_the_same_tissue_looks_like_in_training():
    wanted = stained(H, E, 0.9, seed=1)
    other = stained(H2, E2, 1.3, seed=1)
    found = normalise_stain(patches(other, ["a"] * 4), Macenko.fit(wanted)).images
    before, after = (np.abs(images.astype(int) - wanted).mean() for images in (other, found))
    assert before > 15
    assert after < 4
    assert (found[:, 28:] == other[:, 28:]).all()


def test_macenko_refuses_a_slide_of_one_stain_and_glass():
    one = (256 * 10 ** -(np.random.default_rng(0).uniform(0.3, 1, (2, 16, 16, 1)) * H) - 1).astype(np.uint8)
    with pytest.raises(RequestError, match="one stain only"):
        Macenko.fit(one)
    with pytest.raises(RequestError, match="0 pixels of tissue"):
        Macenko.fit(np.full((2, 8, 8, 3), 250, np.uint8))
