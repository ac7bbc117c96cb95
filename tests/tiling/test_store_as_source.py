"""A store given in place of its slide: the same tiles, tissue and patches, without a second loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

import wsikit
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters


@pytest.fixture(params=["jpeg", "deflate"])
def slide(request: pytest.FixtureRequest, tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """Of which the JPEG tiles are passed through; the others are encoded, tissue only."""
    path = tmp_path / "disc.tiff"
    options = {"tile": (128, 128), "photometric": "rgb", "metadata": None, "compression": request.param}
    tifffile.imwrite(path, pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
    return path


def test_a_store_of_a_store_is_that_of_the_slide(slide: Path, tmp_path: Path) -> None:
    first = wsikit.tile(slide, tmp_path / "a.zarr", mpp=1.0, patch_px=100)
    second = wsikit.tile(first.folder, tmp_path / "b.zarr", mpp=1.0, patch_px=100)
    assert second.level_dimensions == first.level_dimensions
    for level in range(len(first.level_dimensions)):
        cols, rows = first.level_format(level).n_tiles
        assert second.level_format(level) == first.level_format(level)
        for col in range(cols):
            for row in range(rows):
                assert second.chunk(level, col, row) == first.chunk(level, col, row)
        names = ("fidelity", "lossless", "missing_tiles", "dropped_tiles")
        one, other = (store.level_record(level) for store in (first, second))
        assert {name: other.get(name) for name in names} == {name: one.get(name) for name in names}
    assert second.record["lossless"] == first.record["lossless"]
    assert np.array_equal(second.tissue()[0], first.tissue()[0])
    assert second.tissue_record()["area_mm2"] == first.tissue_record()["area_mm2"]
    one, other = first.patches(), second.patches()
    assert np.array_equal(one.coords, other.coords)
    for name in one.columns():
        np.testing.assert_array_equal(one.read(name), other.read(name))


def test_a_store_without_pixels_passes_those_of_its_slide(slide: Path, tmp_path: Path) -> None:
    empty = wsikit.tile(slide, tmp_path / "a.zarr", image=ImageParameters(pixels="none"))
    made = wsikit.tile(empty.folder, tmp_path / "b.zarr")
    whole = wsikit.tile(slide, tmp_path / "c.zarr")
    assert made.level_record(0)["fidelity"] == whole.level_record(0)["fidelity"]
    x = whole.dimensions[0] // 2
    assert np.array_equal(made.read_region(x, 500, 64, 64), whole.read_region(x, 500, 64, 64))


def test_tiling_a_store_onto_itself_adds_a_patch_table_and_keeps_its_pixels(slide: Path, tmp_path: Path) -> None:
    first = wsikit.tile(slide, tmp_path / "a.zarr", mpp=1.0, patch_px=100)
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "a.zarr" / "0").rglob("*") if path.is_file()}
    wsikit.tile(first.folder, tmp_path / "a.zarr", mpp=1.0, patch_px=50)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert SlideStore(tmp_path / "a.zarr").grids() == ["1um_100px", "1um_50px"]
