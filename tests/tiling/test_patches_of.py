"""`wsikit.patches`: the patches of a slide or a store, read without writing anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsikit.errors import RequestError, ScaleError
from wsikit.slides.registry import open_slide
from wsikit.tiling.patches_of import patches
from wsikit.tiling.tile import tile


@pytest.mark.parametrize("given", ["path", "slide", "store", "store path"])
def test_they_are_the_patches_that_tile_would_store(slide_path: Path, tmp_path: Path, given: str) -> None:
    store = tile(slide_path, tmp_path / "s.zarr", patch_px=96, overlap_px=16, min_tissue=0.4)
    table = store.patches()
    sources = {"path": slide_path, "slide": open_slide(slide_path), "store": store, "store path": store.folder}
    found = patches(sources[given], patch_px=96, overlap_px=16, min_tissue=0.4)
    assert len(found) == len(table)
    np.testing.assert_array_equal(found.coords, table.coords)
    np.testing.assert_array_equal(found.tissue, table.read("tissue"))
    assert [(patch.x, patch.y) for patch in found] == [tuple(corner) for corner in table.coords.tolist()]


def test_images_are_the_slide_at_the_patches(slide_path: Path) -> None:
    slide = open_slide(slide_path)
    for patch in patches(slide, mpp=1.0, patch_px=100):
        expected = slide.read_region(patch.x, patch.y, 100, 100, mpp=1.0)
        np.testing.assert_array_equal(patch.image, expected)
        assert patch.readable


def test_a_loop_may_be_repeated_and_nothing_is_written(slide_path: Path) -> None:
    before = sorted(slide_path.parent.iterdir())
    found = patches(slide_path)
    assert [patch.x for patch in found] == [patch.x for patch in found]
    assert sorted(slide_path.parent.iterdir()) == before


def test_patches_that_cannot_be_read_are_marked(slide_path: Path, damage_tile: Callable[..., None]) -> None:
    damage_tile(slide_path, 5, 4)
    found = list(patches(slide_path, patch_px=128))
    unreadable = [patch for patch in found if not patch.readable]
    assert {(patch.x, patch.y) for patch in unreadable} == {(640, 512)}
    assert not unreadable[0].image.any()


@pytest.mark.parametrize("call", [patches, tile])
def test_a_geojson_file_limits_the_patches(slide_path: Path, tmp_path: Path, call: Callable[..., object]) -> None:
    square = [[[600, 500], [1000, 500], [1000, 800], [600, 800], [600, 500]]]
    drawn = tmp_path / "roi.geojson"
    drawn.write_text(json.dumps({"type": "Feature", "geometry": {"type": "Polygon", "coordinates": square}}))
    where = () if call is patches else (tmp_path / "s.zarr",)
    found = call(slide_path, *where, patch_px=100, roi=drawn)
    coords = found.coords if call is patches else found.patches().coords  # type: ignore[attr-defined]
    assert len(coords) == 12
    assert (coords >= (600, 500)).all()
    assert (coords < (1000, 800)).all()


def test_impossible_requests_are_refused(slide_path: Path) -> None:
    with pytest.raises(RequestError, match="min_tissue"):
        patches(slide_path, min_tissue=2)
    with pytest.raises(ScaleError):
        patches(slide_path, mpp=0.1)
