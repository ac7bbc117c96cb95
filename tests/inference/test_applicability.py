"""A model classifies only patches of its own size, scale and stain; the error names the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

import wsikit
from wsikit.errors import ModelError
from wsikit.inference.applicability import why_not_applicable
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.tile import add_patches


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> wsikit.SlideStore:
    folder = tmp_path_factory.mktemp("applicability")
    wsikit.make_phantom(folder / "slide.tiff", size_px=(900, 900))
    return wsikit.tile(folder / "slide.tiff", folder / "slide.zarr")


@pytest.mark.parametrize(
    ("mpp", "applies"), [(0.5, True), (0.504, True), (0.496, True), (0.506, False), (0.494, False)]
)
def test_a_scale_off_by_more_than_one_per_cent_is_refused(store: wsikit.SlideStore, mpp: float, applies: bool) -> None:
    add_patches(store, patches=PatchParameters(mpp, 224), stages=())
    table = store.patches(PatchParameters(mpp, 224).grid(store).name)
    fault = why_not_applicable(wsikit.describe_model(), store, table)
    assert (fault is None) == applies


def test_predict_refuses_another_scale_and_names_the_options_of_tile(store: wsikit.SlideStore, tmp_path: Path) -> None:
    add_patches(store, patches=PatchParameters(1.0, 224), stages=())
    grid = PatchParameters(1.0, 224).grid(store).name
    with pytest.raises(ModelError, match=r"these are 224 px at 1 µm/px\. Tile .* --patch-size 224 --mpp 0\.5"):
        wsikit.predict(store, grid=grid)


def test_another_patch_size_is_refused(store: wsikit.SlideStore) -> None:
    add_patches(store, patches=PatchParameters(0.5, 256), stages=())
    with pytest.raises(ModelError, match="reads patches of 224 px"):
        wsikit.predict(store, grid=PatchParameters(0.5, 256).grid(store).name)
