"""The reader keeps the contract, and its pixels are those of the file."""

from pathlib import Path

import numpy as np
import pytest
from npz_reader import NpzSlide

from wsikit.testing import check_reader


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    np.savez(tmp_path / "slide.npz", pixels=pixels, mpp=0.5)
    return tmp_path / "slide.npz"


def test_it_keeps_the_contract_of_a_slide(path: Path) -> None:
    check_reader(NpzSlide, path)


def test_the_pixels_and_the_scale_are_those_of_the_file(path: Path) -> None:
    slide = NpzSlide(path)
    assert slide.mpp == (0.5, 0.5)
    assert np.array_equal(slide.read_region(100, 50, 64, 32, level=0), np.load(path)["pixels"][50:82, 100:164])


def test_a_zip_without_pixels_is_left_to_other_readers(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", counts=np.zeros(3))
    assert not NpzSlide.reads(tmp_path / "other.npz", (tmp_path / "other.npz").read_bytes()[:64])
