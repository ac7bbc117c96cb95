"""Patches without prediction have a name and a colour of their own in every output that has colours of classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import wsikit
from wsikit.exporters.palette import UNPREDICTED_COLOR, UNPREDICTED_NAME
from wsikit.results.export import export
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.store.table import ColumnSpec
from wsikit.voting import VoteParameters


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 16 patches: PD, two of them without prediction."""
    folder = tmp_path_factory.mktemp("unpredicted")
    wsikit.make_phantom(folder / "s.tiff", size_px=(896, 896), seed=2, tissue_fraction=0.9)
    table = wsikit.predict(wsikit.tile(folder / "s.tiff", folder / "s.zarr", min_tissue=0.05))
    probs = table.read("probability")
    probs[:], probs[:, 1] = 0.02, 0.94
    probs[:2] = np.nan
    receipt = table.receipt("probability")
    assert receipt is not None
    spec = ColumnSpec("probability", "float32", probs.shape[1], table.attributes("probability"))
    table.drop("probability")
    for rows in table.prepare([spec], receipt):
        table.write("probability", rows, probs[rows])
    wsikit.vote(folder / "s.zarr", parameters=VoteParameters(min_patches=1))
    return folder / "s.zarr"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> SlideStore:
    return SlideStore(Path(shutil.copytree(made, tmp_path / "s.zarr")))


def test_geojson_has_their_region_and_patches(store: SlideStore, tmp_path: Path):
    export(store, "geojson", tmp_path / "g.geojson", patches=True)
    features = json.loads((tmp_path / "g.geojson").read_text())["features"]
    own = [one for one in features if one["properties"]["classification"]["name"] == UNPREDICTED_NAME]
    region, *patches = (one["properties"] for one in own)
    assert region["classification"]["color"] == list(UNPREDICTED_COLOR)
    assert region["measurements"]["n_patches"] == len(patches) == 2
    assert "mean_probability" not in region["measurements"]


def test_a_region_of_words_has_no_class_for_the_rest(store: SlideStore, tmp_path: Path):
    export(store, "geojson", tmp_path / "g.geojson", column="tissue", threshold=0.99)
    names = {
        one["properties"]["classification"]["name"]
        for one in json.loads((tmp_path / "g.geojson").read_text())["features"]
    }
    assert UNPREDICTED_NAME not in names


def test_the_label_image_and_the_overlay_name_them(store: SlideStore, tmp_path: Path):
    export(store, "ome-tiff", tmp_path / "o.ome.tiff")
    with tifffile.TiffFile(tmp_path / "o.ome.tiff") as file:
        assert f"{UNPREDICTED_NAME} (hatched): rgb{UNPREDICTED_COLOR}" in str(file.ome_metadata)
    export(store, "ngff-labels", tmp_path / "maps.zarr")
    label: dict[str, Any] = json.loads((tmp_path / "maps.zarr" / "labels" / "subtype" / "zarr.json").read_text())
    colors = label["attributes"]["ome"]["image-label"]["colors"]
    assert [*UNPREDICTED_COLOR, 255] in [one["rgba"] for one in colors]


@pytest.mark.parametrize("kind", ["dicom-seg", "dicom-ann"])
def test_dicom_has_a_segment_and_a_group_for_them(store: SlideStore, tmp_path: Path, kind: str):
    pytest.importorskip("highdicom")
    pydicom = pytest.importorskip("pydicom")
    export(store, kind, tmp_path / "d.dcm", on_note=lambda note: None)
    found = pydicom.dcmread(tmp_path / "d.dcm")
    parts = found.SegmentSequence if kind == "dicom-seg" else found.AnnotationGroupSequence
    names = [part.SegmentLabel if kind == "dicom-seg" else part.AnnotationGroupLabel for part in parts]
    assert UNPREDICTED_NAME in names
    if kind == "dicom-seg":
        number = len(StoredResults(store).class_map.classes) + 1
        assert number in np.unique(found.pixel_array)


def test_a_map_whose_patches_all_have_a_class_is_unchanged(store: SlideStore):
    class_map = StoredResults(store).class_map
    assert class_map.with_unpredicted().classes[-1] == "no_prediction"
    assert class_map.with_unpredicted().voting == class_map.voting
    assert class_map.with_unpredicted().with_unpredicted().classes == class_map.with_unpredicted().classes
