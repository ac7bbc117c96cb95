"""The columns roi, reader and label of a manifest."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.batch.manifest import find_slides
from wsikit.batch.records import FAILED, SlideRow, read_row, write_row, write_table
from wsikit.batch.run import run
from wsikit.errors import RequestError
from wsikit.slides.store import SlideStore

SQUARE = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "properties": {"classification": {"name": "Tumor"}},
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[500, 400], [900, 400], [900, 800], [500, 800], [500, 400]]],
            },
        }
    ],
}


def manifest(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "slides.csv"
    path.write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def second(write_slide: Callable[..., Path], tmp_path: Path, pixels: np.ndarray) -> Path:
    return write_slide(tmp_path / "second.tiff", pixels[::-1])


def test_each_slide_has_its_regions_its_reader_and_its_label(
    slide_path: Path, second: Path, tmp_path: Path, model_folder: Path
) -> None:
    (tmp_path / "regions").mkdir()
    (tmp_path / "regions" / "a.geojson").write_text(json.dumps(SQUARE))
    rows = ("disc.tiff,regions/a.geojson,tiffslide,PD", "second.tiff,,auto,-")
    settings: dict[str, Any] = {"model": model_folder, "device": "cpu", "workers": 1}
    path = manifest(tmp_path, "path,roi,reader,label", *rows)
    result = run(path, tmp_path / "out", **settings)
    assert [row.status for row in result] == ["done", "done"]
    with open(tmp_path / "out" / "slides.csv", encoding="utf-8", newline="") as file:
        assert {row["slide_id"]: row["label"] for row in csv.DictReader(file)} == {"disc": "PD", "second": ""}
    assert 0 < len(result.store(0).patches()) < len(result.store(1).patches())
    readers = [SlideStore.read_record(result.store(number).folder)["source"]["reader"] for number in (0, 1)]
    assert readers == ["tiffslide", "tiff"]
    changed = manifest(tmp_path, "path,roi,reader,label", rows[0].replace("PD", "UD"), rows[1])
    again = run(changed, tmp_path / "out", **settings)
    assert again.time is None, "the results do not depend on the label"
    assert again["disc"].label == "UD"
    with open(tmp_path / "out" / "slides.csv", encoding="utf-8", newline="") as file:
        assert {row["slide_id"]: row["label"] for row in csv.DictReader(file)} == {"disc": "UD", "second": ""}


def test_another_reader_makes_the_slide_again(slide_path: Path, tmp_path: Path, model_folder: Path) -> None:
    settings: dict[str, Any] = {"model": model_folder, "device": "cpu", "workers": 1}
    run(manifest(tmp_path, "path,reader", "disc.tiff,"), tmp_path / "out", **settings)
    run(manifest(tmp_path, "path,reader", "disc.tiff,tiffslide"), tmp_path / "out", **settings)
    record = SlideStore.read_record(tmp_path / "out" / "slides" / "disc.zarr")
    assert record["source"]["reader"] == "tiffslide"


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (
            "path,roi",
            "disc.tiff,none.geojson",
            "line 2: the column roi names .*none.geojson, and there is no such file",
        ),
        ("path,reader", "disc.tiff,tif", "line 2: there is no reader 'tif'; expected auto or one of tiff, "),
    ],
)
def test_a_cell_that_is_wrong_is_a_fault_of_its_row(
    slide_path: Path, second: Path, tmp_path: Path, header: str, row: str, message: str
) -> None:
    found = find_slides([], manifests=[manifest(tmp_path, header, row, "second.tiff,")])
    with pytest.raises(RequestError, match=message):
        raise RequestError(found.entries[0].fault)
    assert found.entries[1].fault == ""


@pytest.mark.parametrize("column", ["roi", "reader", "label"])
def test_two_rows_that_contradict_each_other_are_a_fault(
    slide_path: Path, second: Path, tmp_path: Path, column: str
) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(SQUARE))
    value = {"roi": "a.geojson", "reader": "tiff", "label": "PD"}[column]
    rows = (f"disc.tiff,{value}", "disc.tiff,", "second.tiff,")
    found = find_slides([], manifests=[manifest(tmp_path, f"path,{column}", *rows)])
    assert f"with another {column}" in found.entries[0].fault


def test_regions_of_the_manifest_come_before_those_of_the_option(
    slide_path: Path, second: Path, tmp_path: Path
) -> None:
    from wsikit.batch.rois import with_rois

    for name in ("own.geojson", "all.geojson"):
        (tmp_path / name).write_text(json.dumps(SQUARE))
    rows = ("disc.tiff,own.geojson", "second.tiff,")
    found = find_slides([], manifests=[manifest(tmp_path, "path,roi", *rows)])
    entries = with_rois(found.entries, tmp_path / "all.geojson")
    assert [Path(entry.roi or "").name for entry in entries] == ["own.geojson", "all.geojson"]


def test_text_that_a_spreadsheet_would_evaluate_is_written_as_text(tmp_path: Path) -> None:
    row = SlideRow("-1", "=cmd|x.svs", FAILED, label="@SUM(1)", error="+1", margin=-0.5)
    write_row(tmp_path, row)
    write_table(tmp_path)
    with open(tmp_path / "slides.csv", encoding="utf-8", newline="") as file:
        (written,) = csv.DictReader(file)
    assert [written[name] for name in ("slide_id", "path", "label", "error")] == [
        "-1",  # a negative number
        "'=cmd|x.svs",
        "'@SUM(1)",
        "'+1",
    ]
    assert written["margin"] == "-0.5", "a number is no formula"
    assert read_row(tmp_path, "-1") == row
