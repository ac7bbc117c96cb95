"""A run leaves what examples/qupath/import_results.groovy looks for, in the layout of GeoJSON that QuPath documents."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import wsikit

SCRIPT = Path(__file__).parents[2] / "examples" / "qupath" / "import_results.groovy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qupath")
    wsikit.make_phantom(folder / "a.tif", size_px=(1000, 1000))
    assert wsikit.run(folder / "a.tif", folder / "out").exit_status == 0
    return folder


@pytest.fixture(scope="module")
def features(folder: Path) -> list[dict[str, Any]]:
    document = json.loads((folder / "out" / "results" / "a" / "subtype.geojson").read_text("utf-8"))
    assert document["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = document["features"]
    assert found
    return found


def test_the_record_of_a_run_leads_from_the_image_to_its_results(folder: Path) -> None:
    record = json.loads((folder / "out" / "slides" / ".a.slide.json").read_text("utf-8"))
    assert Path(record["path"]).samefile(folder / "a.tif")
    assert (folder / "out" / "results" / "a" / "subtype.geojson").is_file()


def test_features_have_what_qupath_reads(features: list[dict[str, Any]]) -> None:
    for feature in features:
        properties = feature["properties"]
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] in {"Polygon", "MultiPolygon"}
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", feature["id"])  # QuPath keeps it if a UUID
        assert properties["objectType"] == "annotation"
        assert properties["classification"]["name"]
        assert all(0 <= value <= 255 for value in properties["classification"]["color"])
        assert len(properties["classification"]["color"]) == 3
        assert all(isinstance(value, int | float) for value in properties["measurements"].values())
        assert all(isinstance(value, str) for value in properties["metadata"].values())


def test_rings_are_closed(features: list[dict[str, Any]]) -> None:
    for feature in features:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        assert all(ring[0] == ring[-1] and len(ring) >= 4 for polygon in polygons for ring in polygon)


def test_the_metadata_by_which_the_script_knows_our_regions_are_written(features: list[dict[str, Any]]) -> None:
    keys = re.findall(r'containsKey\("(\w+)"\)', SCRIPT.read_text("utf-8"))
    assert keys
    assert all(key in feature["properties"]["metadata"] for feature in features for key in keys)
