"""The files next to a report: result.json for programs, and the thumbnail."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsikit.results.outputs import FILES, PATCHES, stored_outputs_receipt, write_outputs
from wsikit.slides.store import SlideStore


@pytest.fixture
def record(made: Path) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads((made / "results" / "disc" / "result.json").read_text("utf-8"), parse_constant=refuse)


def test_result_json_has_the_vote_by_class_code(record: dict, made: Path) -> None:
    assert (record["state"], record["subtype"], record["reason"]) == ("called", "PD", "")
    coords = SlideStore(made / "slides" / "disc.zarr").patches().coords
    left = (coords[:, 0] < 700).sum()
    assert record["patches"]["count"] == len(coords)
    assert record["areas"]["area_mm2"]["PD"] == pytest.approx(left * (112 * 0.5e-3) ** 2, rel=0.02)
    assert list(record["probability"]) == ["UD", "PD", "D"]
    assert sum(record["probability"].values()) == pytest.approx(1)
    assert record["interval"] is None  # a slide of a quarter mm² has too few blocks to resample
    assert "blocks" in record["no_interval"]
    assert record["mpp_x"] == 0.5
    assert record["model"] == {"name": "by hand", "version": "1", "fingerprint": "abc"}
    assert "Not for diagnosis" in record["use"]


def test_a_slide_without_predictions_has_a_result_json_too(made: Path, store_path: Path, tmp_path: Path) -> None:
    with SlideStore(store_path) as store:
        write_outputs(store, store.patches(), tmp_path / "result", not_predicted="too coarse")
    record = json.loads((tmp_path / "result" / "result.json").read_text("utf-8"))
    assert (record["state"], record["subtype"], record["reason"]) == ("not predicted", None, "too coarse")
    assert "probability" not in record
    assert all((tmp_path / "result" / name).stat().st_size > 0 for name in FILES)


def test_the_thumbnail_shows_slide_and_map_side_by_side(made: Path) -> None:
    picture = np.asarray(Image.open(made / "results" / "disc" / "thumbnail.jpg")).astype(int)
    width = (picture.shape[1] - 6) // 2
    slide, drawn_map = picture[:, :width], picture[:, -width:]
    assert picture.shape[0] <= 150
    assert width <= 200
    middle = (slice(60, 90), slice(width // 2 - 20, width // 2 - 5))
    assert slide[middle][..., 0].mean() - slide[middle][..., 1].mean() > 30  # pink tissue
    assert drawn_map[middle][..., 1].mean() - drawn_map[middle][..., 2].mean() > 30  # yellow on grey


@pytest.mark.parametrize("loss", ["a file", "the folder"])
def test_data_of_patches_next_to_a_report_are_made_again_where_they_are_lost(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    monkeypatch.setattr("wsikit.exporters.patchdata.MOST_NUMBERS", 1)
    store, folder = SlideStore(made / "slides" / "disc.zarr"), tmp_path / "disc"
    write_outputs(store, store.patches(), folder)
    (tile,) = (folder / PATCHES).iterdir()
    assert stored_outputs_receipt(folder) is not None
    page = (folder / "report.html").stat().st_mtime_ns
    write_outputs(store, store.patches(), folder)
    assert (folder / "report.html").stat().st_mtime_ns == page, "nothing to do"
    tile.unlink()
    if loss == "the folder":
        (folder / PATCHES).rmdir()
    assert stored_outputs_receipt(folder) is None
    write_outputs(store, store.patches(), folder)
    assert tile.is_file()
