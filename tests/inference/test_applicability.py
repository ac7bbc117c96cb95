"""A model classifies only patches of its own size, scale and stain; the error names the next step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

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


@pytest.fixture(scope="module")
def multiplex(tmp_path_factory: pytest.TempPathFactory) -> wsikit.SlideStore:
    """A store of five channels at 0.5 µm/px, with tissue."""
    folder = tmp_path_factory.mktemp("multiplex")
    planes = np.full((5, 500, 500), 100, np.uint16)
    planes[:, 50:450, 50:450] += np.random.default_rng(0).integers(500, 4000, (5, 400, 400)).astype(np.uint16)
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    described = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8", "CD20", "Ki67"]}, **scale}
    path = folder / "slide.ome.tif"
    tifffile.imwrite(path, planes, tile=(128, 128), photometric="minisblack", metadata=described)
    return wsikit.tile(path, folder / "slide.zarr")


def test_models_of_brightfield_refuse_channels_by_name(multiplex: wsikit.SlideStore) -> None:
    with pytest.raises(ModelError, match=r"has 5 fluorescence channels \(DAPI, CD3, CD8, CD20, …\)"):
        wsikit.predict(multiplex)


def test_captions_refuse_channels_by_name(multiplex: wsikit.SlideStore) -> None:
    with pytest.raises(ModelError, match=r"captions describe .*has 5 fluorescence channels \(DAPI, CD3"):
        wsikit.caption(multiplex)
    assert "caption" not in multiplex.patches().columns()


def test_a_model_of_fluorescence_reads_the_composite(multiplex: wsikit.SlideStore) -> None:
    model = replace(wsikit.describe_model(), stain="fluorescence")
    assert why_not_applicable(model, multiplex, multiplex.patches()) is None
