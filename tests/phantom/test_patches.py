"""Patches to train on: labelled by the truth, repeatable, split by slide, not separable by colour alone."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError
from wsikit.phantom import CLASSES, PhantomPatch, phantom_patches
from wsikit.phantom.baseline import colour_histogram, histogram_baseline


@pytest.fixture(scope="module")
def patches() -> list[PhantomPatch]:
    return list(phantom_patches(range(30, 36), 8))


def test_patches_carry_image_label_and_caption(patches: list[PhantomPatch]) -> None:
    assert len(patches) >= 44
    assert {CLASSES[patch.label] for patch in patches} == set(CLASSES)
    for patch in patches:
        assert patch.image.shape == (224, 224, 3)
        assert patch.image.dtype == np.uint8
        assert patch.label == patch.facts.labels[0]
        assert not patch.facts.borderline[0]
        assert patch.caption.endswith(".")
        assert not (patch.subtype == "UD" and CLASSES[patch.label] in ("PD", "D"))


def test_the_same_seeds_give_the_same_patches(patches: list[PhantomPatch]) -> None:
    again = list(phantom_patches([32], 8))
    before = [patch for patch in patches if patch.seed == 32]
    assert [patch.caption for patch in again] == [patch.caption for patch in before]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(again, before, strict=True))


def test_no_patches_is_refused() -> None:
    with pytest.raises(RequestError, match="0 patches"):
        list(phantom_patches([1], 0))


def test_histogram_counts_every_pixel_once() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0] = (255, 0, 128)
    squares = colour_histogram(image) ** 2
    assert squares.shape == (608,)
    assert squares[:512].sum() == pytest.approx(1)
    assert squares[0] == pytest.approx(0.75)
    assert squares[512 + 31] == pytest.approx(0.25)


def test_the_baseline_finds_colour_differences_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    noise = rng.random((60, 608))
    shifted = noise.copy()
    shifted[np.arange(60), labels] += 5
    assert histogram_baseline((shifted, labels), (shifted, labels))["balanced_accuracy"] == 1
    blind = histogram_baseline((noise, labels), (rng.random((60, 608)), labels))
    assert blind["balanced_accuracy"] < 0.6
    assert blind["chance"] == pytest.approx(0.3333)
