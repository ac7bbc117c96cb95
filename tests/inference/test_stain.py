"""Stain normalisation at prediction, on patches composed of known stains by the law of Beer and Lambert."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wsikit
from wsikit.errors import RequestError, SlideError
from wsikit.inference.stain import (
    MACENKO_REFERENCE,
    FittedStain,
    Macenko,
    Reinhard,
    StainNormalisation,
    parse_stain,
)

OWN = Macenko(
    tuple(tuple(np.array(v) / np.linalg.norm(v)) for v in ((0.65, 0.70, 0.29), (0.10, 0.97, 0.25))), (1.1, 0.6)
)


def composed(stain: Macenko, *, n: int = 4, seed: int = 0) -> np.ndarray:
    """uint8 (n, 64, 64, 3): eight rows of pure haematoxylin, eight of pure eosin, mixtures, and eight of glass."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.3, 1.0, (n, 64, 64, 2)) * np.array(stain.concentrations)
    amounts[:, :8, :, 1] = amounts[:, 8:16, :, 0] = amounts[:, 56:] = 0
    density = amounts @ np.array(stain.stains)
    return np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)


def angle(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Degrees between two stain vectors."""
    return float(np.degrees(np.arccos(np.clip(np.dot(one, other), -1, 1))))


@pytest.fixture
def normalised() -> tuple[np.ndarray, np.ndarray]:
    images = composed(OWN)
    return images, parse_stain("macenko").fit(images)(images)


def test_the_stains_of_a_slide_become_those_of_the_published_reference(normalised):
    images, result = normalised
    before, after = Macenko.fit(images), Macenko.fit(result)
    for index in range(2):
        assert angle(before.stains[index], MACENKO_REFERENCE.stains[index]) > 5
        assert angle(after.stains[index], MACENKO_REFERENCE.stains[index]) < 2.5
    np.testing.assert_allclose(after.concentrations, MACENKO_REFERENCE.concentrations, rtol=0.06)


def test_the_pixels_are_those_of_the_same_tissue_in_the_reference_stain(normalised):
    images, result = normalised
    expected = composed(MACENKO_REFERENCE)
    assert np.abs(images[:, :56].astype(int) - expected[:, :56]).mean() > 15
    assert np.abs(result[:, :56].astype(int) - expected[:, :56]).mean() < 5


def test_glass_keeps_its_pixels(normalised):
    images, result = normalised
    assert (result[:, 56:] == images[:, 56:]).all()


@pytest.mark.parametrize("method", [Macenko, Reinhard])
def test_a_slide_normalised_to_its_own_stain_changes_little(method):
    images = composed(OWN)
    change = np.abs(StainNormalisation(method.fit(images)).fit(images)(images).astype(int) - images)
    assert change.mean() < 1.5
    assert np.percentile(change, 99) <= 8


@pytest.mark.parametrize("method", [Macenko, Reinhard])
def test_a_patch_does_not_depend_on_its_batch_and_survives_pickling(method):
    images = composed(OWN)
    original = images.copy()
    fitted = StainNormalisation(method.fit(composed(MACENKO_REFERENCE))).fit(images)
    together = fitted(images)
    copied = pickle.loads(pickle.dumps(fitted))
    for row in (2, 0):
        assert (copied(images[row : row + 1])[0] == together[row]).all()
    assert (images == original).all()
    assert fitted(images[:0]).shape == (0, 64, 64, 3)


@pytest.mark.parametrize("method", [Macenko, Reinhard])
def test_the_colour_table_equals_the_direct_computation(method):
    images = composed(OWN)
    reference, own = method.fit(composed(MACENKO_REFERENCE)), method.fit(images)
    difference = FittedStain(reference, own)(images).astype(int) - reference.recolour(images, own)
    assert np.abs(difference).max() <= 1  # the last bit of a matrix product may fall on either side of a half
    assert (difference != 0).mean() < 1e-4


def test_unreadable_patches_are_returned_as_they_are():
    images = composed(OWN)
    images[1] = 0
    fitted = parse_stain("macenko").fit(images[:1])
    assert (fitted(images)[1] == 0).all()
    marked = fitted(images, np.array([True, True, False, True]))
    assert (marked[2] == images[2]).all()
    assert (marked[3] != images[3]).any()


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (np.full((3, 32, 32, 3), 244, np.uint8), "0 pixels of tissue in 3 patches; 100 are needed"),
        (np.empty((0, 32, 32, 3), np.uint8), "0 pixels of tissue in 0 patches; 100 are needed"),
        (
            np.random.default_rng(0).integers(60, 160, (2, 32, 32, 1), np.uint8).repeat(3, axis=3),
            "one stain only in 2 patches; Macenko's method needs two",
        ),
    ],
)
def test_a_slide_whose_stain_cannot_be_estimated_is_left_as_it_is_and_the_reason_given(sample, reason):
    fitted = parse_stain("macenko").fit(sample)
    assert fitted.reason == reason
    assert fitted.record() == {"reason": reason}
    assert (fitted(composed(OWN)) == composed(OWN)).all()


def test_the_fingerprint_is_of_the_content_of_the_reference_and_not_of_its_path(tmp_path: Path):
    for name, stain in (("a.png", OWN), ("b.png", OWN), ("c.png", MACENKO_REFERENCE)):
        Image.fromarray(composed(stain).reshape(-1, 64, 3)).save(tmp_path / name)
    first, second, third = (
        parse_stain(f"macenko:{tmp_path / name}").fingerprint() for name in ("a.png", "b.png", "c.png")
    )
    assert first == second != third
    assert json.loads(json.dumps(first)) == first
    assert str(tmp_path) not in json.dumps(first)
    assert angle(first["stains"][0], OWN.stains[0]) < 2.5
    reinhard = parse_stain(f"reinhard:{tmp_path / 'a.png'}").fingerprint()
    assert json.loads(json.dumps(reinhard)) == reinhard


def test_a_reference_slide_and_its_store_have_the_same_stain(tmp_path: Path):
    wsikit.make_phantom(tmp_path / "slide.tiff", seed=1, size_px=(1792, 1792))
    wsikit.tile(tmp_path / "slide.tiff", tmp_path / "slide.zarr")
    from_slide = parse_stain(f"macenko:{tmp_path / 'slide.tiff'}")
    assert from_slide.fingerprint() == parse_stain(f"macenko:{tmp_path / 'slide.zarr'}").fingerprint()
    assert from_slide == parse_stain(f"macenko:{tmp_path / 'slide.tiff'}")


def test_what_cannot_be_a_stain_option_is_refused_with_what_can(tmp_path: Path):
    with pytest.raises(RequestError, match="expected macenko, macenko:REFERENCE or reinhard:REFERENCE"):
        parse_stain("vahadane")
    with pytest.raises(RequestError, match="needs a reference, as none is published"):
        parse_stain("reinhard")
    with pytest.raises(SlideError, match="nowhere.png"):
        parse_stain(f"macenko:{tmp_path / 'nowhere.png'}")
    Image.fromarray(np.full((64, 64, 3), 250, np.uint8)).save(tmp_path / "glass.png")
    with pytest.raises(RequestError, match=r"glass\.png: 0 pixels of tissue in 1 patches.* Choose a picture"):
        parse_stain(f"reinhard:{tmp_path / 'glass.png'}")


def test_torch_is_not_imported():
    code = "import sys, wsikit.inference.stain as s; s.parse_stain('macenko'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
