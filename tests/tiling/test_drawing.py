"""GeoJSON as QuPath and other programs write it: one object that cannot be read never costs the file."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from wsikit.errors import RequestError
from wsikit.tiling.roi import read_regions, read_roi

RING = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}


def feature(geometry: Any = SQUARE, classification: Any = None, **properties: Any) -> dict[str, Any]:
    own = {"objectType": "annotation", **properties}
    if classification is not None:
        own["classification"] = classification
    return {"type": "Feature", "id": "7f", "geometry": geometry, "properties": own}


def write(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}), encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "r.geojson"


@pytest.mark.parametrize(
    ("classification", "label"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "Tumor"),
        ({"name": "Tumor", "colorRGB": -3670016}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [200, 0, 0]}, "Tumor: Positive"),
        ({"name": "Tumor: Positive", "colorRGB": -1}, "Tumor: Positive"),
        ("Tumor", "Tumor"),
    ],
)
def test_a_class_in_every_way_that_qupath_wrote_it(path: Path, classification: Any, label: str) -> None:
    write(path, feature(classification=classification), feature(classification={"name": None}), feature())
    assert [drawn.label for drawn in read_regions(path)] == [label]
    assert read_roi(path, classes=[label]).shape.area == 10_000


@pytest.mark.parametrize(
    "record",
    [
        SQUARE,
        feature(),
        [feature()],
        [SQUARE],
        {"type": "FeatureCollection", "features": [feature()]},
        [{"type": "FeatureCollection", "features": [feature()]}],
        {"type": "GeometryCollection", "geometries": [SQUARE]},
        feature({"type": "GeometryCollection", "geometries": [SQUARE, {"type": "Point", "coordinates": [1, 1]}]}),
        feature({"type": "Polygon", "coordinates": [[[*corner, 0.0] for corner in RING]]}),
        feature({"type": "Polygon", "coordinates": [[[str(x), str(y)] for x, y in RING]]}),
        feature({"type": "Polygon", "coordinates": [RING[:-1]]}),
        feature({"type": "MultiPolygon", "coordinates": [[RING], [RING]]}),
        {"type": "Feature", "geometry": SQUARE},
        {"type": "Feature", "geometry": SQUARE, "properties": None},
    ],
)
def test_an_area_in_every_form_of_a_file(path: Path, record: Any) -> None:
    path.write_text(json.dumps(record), encoding="utf-8")
    assert read_roi(path).shape.area == 10_000


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "feature 2 .* is not used: .*2 corners"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 1], [2, 2]]]}, "feature 2 .*not a number"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [float("inf"), 1], [2, 2]]]}, "feature 2 .*not a number"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1e308, 1], [2, 1e308]]]}, "feature 2 .*not a number"),
        ({"type": "Polygon", "coordinates": "none"}, "feature 2 .*is not used"),
        ({"type": "Polygon"}, "feature 2 .*is not used"),
        ({"type": "Circle", "coordinates": [1, 2]}, "feature 2 .*'Circle'"),
        ({"type": "Polygon", "coordinates": []}, "1 Polygon without area passed over"),
        ({"type": "Point", "coordinates": [1, 2]}, "1 Point passed over"),
        ({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}, "1 LineString passed over"),
        (None, "1 features without geometry passed over"),
    ],
)
def test_a_bad_object_among_good_ones_is_named_and_passed_over(path: Path, bad: Any, said: str) -> None:
    roi = read_roi(write(path, feature(), feature(bad, {"name": "x"})))
    assert roi.shape.area == 10_000
    assert len(roi.notes) == 1
    notes: list[str] = []
    read_regions(write(path, feature(None, {"name": "y"}), feature(SQUARE, {"name": "x"})), on_note=notes.append)
    assert notes == [f"{path}: 1 features without geometry passed over"]
    assert re.search(said, roi.notes[0])


def test_cells_and_detections_are_no_regions(path: Path) -> None:
    cells = [feature(nucleusGeometry=SQUARE) | {"properties": {"objectType": "cell"}} for _ in range(3)]
    old = {"type": "Feature", "id": "PathDetectionObject", "geometry": SQUARE, "properties": {}}
    roi = read_roi(write(path, *cells, old, feature({"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9]]]})))
    assert roi.shape.area == 40.5
    assert roi.notes == (f"{path}: 4 cells, detections or tiles passed over",)
    with pytest.raises(RequestError, match="it has 4 cells, detections or tiles"):
        read_roi(write(path, *cells, old))
    tiles = [feature(classification={"name": "Tumor"}, objectType="tile")]
    assert read_roi(write(path, *tiles), classes=["Tumor"]).shape.area == 10_000  # tiles that were asked for


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("cp1252"),
        lambda text: gzip.compress(text.encode()),
    ],
    ids=["bom", "utf-16", "utf-16-be", "cp1252", "gzip"],
)
def test_other_encodings_and_compressed_files(path: Path, encode: Any) -> None:
    text = json.dumps({"type": "FeatureCollection", "features": [feature(classification="Ödem")]}, ensure_ascii=False)
    path.write_bytes(encode(text))
    assert [drawn.label for drawn in read_regions(path, on_note=lambda note: None)] == ["Ödem"]


def test_a_zip_as_qupath_compresses_it(path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("slide.geojson", json.dumps(feature()))
    path.write_bytes(packed.getvalue())
    assert read_roi(path).shape.area == 10_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<?xml version="1.0"?>\n<ASAP_Annotations>', "annotations of ASAP, not GeoJSON"),
        ('<Annotations MicronsPerPixel="0.5">', "annotations of Aperio ImageScope"),
        ('<?xml version="1.0"?><x/>', "XML, not GeoJSON"),
        ("\0\1\2", "not a text file. Give the regions as GeoJSON"),
        ('"text"', "not GeoJSON"),
        ("3", "not GeoJSON"),
        ('{"type": "Topology", "arcs": []}', "not GeoJSON"),
        ("[" * 100_000, "not GeoJSON"),
    ],
)
def test_files_of_other_programs_are_named(path: Path, text: str, said: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=said):
        read_roi(path)


def test_a_scribble_that_crosses_itself_is_read_at_once(path: Path) -> None:
    corners = np.random.default_rng(1).uniform(0, 5000, (400, 2)).tolist()
    started = time.process_time()
    roi = read_roi(write(path, feature({"type": "Polygon", "coordinates": [[*corners, corners[0]]]})))
    assert time.process_time() - started < 3  # the default method of GEOS needs about a minute
    assert roi.shape.is_valid
    assert roi.shape.area > 0.5 * 5000**2


def test_a_bow_tie_keeps_both_halves(path: Path) -> None:
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
    assert read_roi(write(path, feature(bow))).shape.area == pytest.approx(50)


def test_a_hole_stays_a_hole(path: Path) -> None:
    hole = [[20, 20], [20, 60], [60, 60], [60, 20], [20, 20]]
    assert read_roi(write(path, feature({"type": "Polygon", "coordinates": [RING, hole]}))).shape.area == 8400
    assert shapely.Point(40, 40).disjoint(read_roi(path).shape)


@pytest.mark.parametrize("bad", [5, None, "x", {}, {"type": "Feature", "geometry": 7}])
def test_what_is_no_feature_costs_itself_only(path: Path, bad: Any) -> None:
    roi = read_roi(write(path, feature(), bad, feature()))
    assert roi.shape.area == 10_000
    assert [note for note in roi.notes if "passed over" in note or "feature 2" in note]


def test_an_empty_file_is_named(path: Path) -> None:
    path.write_bytes(b" \n")
    with pytest.raises(RequestError, match="the file is empty"):
        read_roi(path)
