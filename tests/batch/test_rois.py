"""Regions of interest: the file of each slide, and a run that analyses only the regions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wsikit.batch.manifest import SlideEntry
from wsikit.batch.rois import with_rois
from wsikit.batch.run import run
from wsikit.errors import RequestError
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters


def test_files_of_a_folder_find_their_slides(tmp_path):
    for name in ("case__one.geojson", "two.json", "three.tiff.geojson"):
        (tmp_path / name).write_text("{}")
    entries = [
        SlideEntry("case__one", "x/case/one.svs"),
        SlideEntry("b__two", "b/two.svs"),
        SlideEntry("3", "three.tiff"),
    ]
    found = [Path(entry.roi or "").name for entry in with_rois(entries, tmp_path)]
    assert found == ["case__one.geojson", "two.json", "three.tiff.geojson"]
    with pytest.raises(RequestError, match="one file of regions for 3 slides"):
        with_rois(entries, tmp_path / "two.json")
    with pytest.raises(RequestError, match="no such file"):
        with_rois(entries, tmp_path / "nowhere")


def test_a_run_predicts_and_votes_only_inside_the_regions(slide_path, model_folder, tmp_path):
    ring = [[0, 0], [650, 0], [650, 1100], [0, 1100], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "disc.geojson").write_text(json.dumps(feature))
    entries = with_rois([SlideEntry("disc", str(slide_path))], tmp_path / "disc.geojson")
    settings = {"model": model_folder, "image": ImageParameters(pixels="none"), "min_roi": 1.0, "device": "cpu"}
    (row,) = run(entries, tmp_path / "out", **settings).rows
    assert row.status == "done", row.error
    table = SlideStore(tmp_path / "out" / "slides" / "disc.zarr").patches()
    assert 0 < len(table) == row.n_patches
    assert (table.coords[:, 0] + 128 <= 650).all()
    assert (table.read("roi") == 1).all()
    assert len(table.read("probability")) == len(table)
    assert "only the regions in disc.geojson are analysed" in row.notes
    assert StoredResults(SlideStore(tmp_path / "out" / "slides" / "disc.zarr")).class_map.regions_only
    (tmp_path / "disc.geojson").write_text("{}")
    (row,) = run(entries, tmp_path / "out", **settings).rows
    assert row.status == "failed"
    assert "disc.geojson" in (row.error or "")
