"""Files of other tools in the variants that their versions wrote, and files that are named after the slide."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import wsikit
from wsikit.errors import RequestError
from wsikit.results.interop import read_external
from wsikit.results.interop_checks import check_external
from wsikit.tiling.plan import ImageParameters

MPP = (0.5, 0.5)
STEPS = np.array([[x, y] for y in range(3) for x in range(4)], dtype=np.float64)


def stamp(path: Path, coords: np.ndarray, **attributes: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["coords"] = coords
        file["feats"] = np.random.default_rng(0).normal(size=(len(coords), 4)).astype(np.float16)
        file.attrs.update(attributes)
    return path


@pytest.mark.parametrize(
    "attributes",
    [
        {"stamp_version": "2.0.1", "unit": "um", "tile_size": 256.0},
        {"stamp_version": "2.1.0", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224},
        {"unit": b"um", "tile_size": np.array([256.0])},
        {"unit": np.array(["um"], dtype=h5py.string_dtype()), "tile_size_um": np.float32(256), "tile_size_px": [224]},
    ],
)
def test_stamp_2_in_every_spelling_of_its_attributes(tmp_path: Path, attributes: dict[str, Any]) -> None:
    found = read_external(stamp(tmp_path / "f.h5", STEPS * 256, **attributes), slide_mpp=MPP)
    assert (found.layout, found.unit, found.side_px) == ("stamp", "um", 512)
    np.testing.assert_allclose(found.coords, STEPS * 512)
    assert [one for one in check_external(found, slide_px=(4000, 4000), slide_mpp=MPP) if one.fatal] == []


def test_stamp_1_is_recognised_by_its_step_and_said(tmp_path: Path) -> None:
    found = read_external(stamp(tmp_path / "f.h5", STEPS * 224), slide_mpp=MPP)
    np.testing.assert_allclose(found.coords, STEPS * 512)  # 224 px of a patch are 256 µm
    assert (found.side_px, found.patch_px) == (512, 224)
    assert "STAMP 1" in check_external(found, slide_px=(4000, 4000), slide_mpp=MPP)[0].text
    other = read_external(stamp(tmp_path / "g.h5", STEPS * 300), slide_mpp=MPP)
    assert any(one.fatal for one in check_external(other, slide_px=(4000, 4000), slide_mpp=MPP))  # not guessed


def test_attributes_of_one_element_and_empty_ones(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as file:
        coords = file.create_dataset("coords", data=(STEPS * 448).astype(np.int64))
        coords.attrs["patch_size"] = np.array([224])
        coords.attrs["patch_size_level0"] = np.array([[448]])
        coords.attrs["overlap"] = np.int32(0)
        coords.attrs["level0_magnification"], coords.attrs["target_magnification"] = b"40", "20"
        coords.attrs["name"] = h5py.Empty("S1")
    found = read_external(tmp_path / "t.h5", slide_mpp=(0.25, 0.25))
    assert (found.layout, found.patch_px, found.side_px, found.magnification) == ("trident", 224, 448, (40, 20))
    assert "name" not in found.attributes


def test_atlaspatch_gets_whole_magnifications_and_the_true_field(slide_path: Path, tmp_path: Path) -> None:
    """Its reader calls int(): 14.6 would become 14."""
    store = wsikit.tile(slide_path, tmp_path / "s.zarr", mpp=0.685, patch_px=100, image=ImageParameters(pixels="none"))
    job = wsikit.export(store, "atlaspatch", tmp_path / "job", on_note=lambda note: None)
    with h5py.File(job / "patches" / "disc.h5") as file:
        assert file.attrs["target_magnification"] == 15
        assert file.attrs["patch_size_level0"] == 137  # 68.5 µm
        assert isinstance(file.attrs["level0_magnification"].item(), int)


def test_files_are_named_after_the_slide_and_never_replace_those_of_another(slide_path: Path, tmp_path: Path) -> None:
    image = ImageParameters(pixels="none")
    one = wsikit.tile(slide_path, tmp_path / "one.zarr", mpp=1.0, patch_px=100, image=image)
    other = tmp_path / "other" / slide_path.name
    other.parent.mkdir()
    shutil.copy(slide_path, other)
    two = wsikit.tile(other, tmp_path / "two.zarr", mpp=1.0, patch_px=100, image=image)
    for _ in range(2):
        wsikit.export(one, "trident", tmp_path / "job", on_note=lambda note: None)
    assert [path.name for path in (tmp_path / "job").rglob("*.h5")] == [f"{slide_path.stem}_patches.h5"]
    with pytest.raises(RequestError, match="holds the patches of one, another slide"):
        wsikit.export(two, "trident", tmp_path / "job", on_note=lambda note: None)
