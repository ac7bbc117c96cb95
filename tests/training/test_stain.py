"""Reinhard: slides of different stains look alike afterwards, glass stays, and the target is itself's own."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.training.data import PatchSet
from wsikit.training.stain import GLASS, Reinhard


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
    found = training.apply(data)
    for rows in (slice(0, 6), slice(6, 12)):
        before, after = Reinhard.fit(data.images[rows]), Reinhard.fit(found.images[rows])
        assert np.abs(np.subtract(before.mean, training.mean)).max() > 5
        np.testing.assert_allclose(after.mean, training.mean, atol=0.8)
        np.testing.assert_allclose(after.std, training.std, atol=1.0)
    assert (found.images[:, 16:] == 244).all()
    assert found.slides is data.slides


def test_what_has_the_colours_already_stays_and_a_slide_does_not_depend_on_others():
    images = tissue((0, 0, 0))
    same = Reinhard.fit(images).apply(patches(images, ["a"] * 6)).images
    assert np.abs(same.astype(int) - images).max() <= 1
    other = tissue((30, -25, 10), seed=1)
    alone = Reinhard.fit(images).apply(patches(other, ["b"] * 6)).images
    beside = Reinhard.fit(images).apply(patches(np.concatenate([images, other]), ["a"] * 6 + ["b"] * 6)).images
    assert (beside[6:] == alone).all()


def test_glass_alone_has_no_colours():
    with pytest.raises(RequestError, match="0 pixels of tissue in 2 patches"):
        Reinhard.fit(np.full((2, 8, 8, 3), 250, np.uint8))
    assert Reinhard.fit(tissue((0, 0, 0))).record()["glass_above_L"] == GLASS
