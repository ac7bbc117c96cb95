"""A batch goes on, whatever its input is and whatever cannot be written for one slide."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsikit.batch import records, reporter
from wsikit.batch.records import DONE, FAILED, SlideRow
from wsikit.batch.run import run
from wsikit.batch.run_result import RunResult
from wsikit.tiling.plan import ImageParameters

Start = Callable[..., RunResult]


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Start:
    """Runs slides into tmp_path/out with the tiny model, without storing pixels."""

    def run_it(*slides: Any, **changes: Any) -> RunResult:
        image = ImageParameters(pixels="none")
        return run(slides, tmp_path / "out", model=model_folder, image=image, workers=2, device="cpu", **changes)

    return run_it


def glass(path: Path, width: int = 300, height: int = 200) -> Path:
    """An empty slide of 1 µm/px."""
    path.parent.mkdir(parents=True, exist_ok=True)
    empty: npt.NDArray[np.uint8] = np.full((height, width, 3), 243, np.uint8)
    options = {"photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, empty, resolution=(1e4, 1e4), **options)
    return path


def test_odd_names_and_empty_slides_are_done_and_a_broken_one_fails_alone(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    glass(folder / "blank.tif")
    glass(folder / "pixel.tif", 1, 1)
    os.rename(glass(folder / "x.tif"), os.fsencode(folder) + b"/n\xff.tif")
    os.rename(glass(folder / "x.tif"), folder / "line\nbreak.tif")
    (folder / ("b" * 240 + ".tif")).write_bytes(b"no slide")
    result = start(folder)
    assert [row.status for row in result] == [FAILED, DONE, DONE, DONE, DONE]
    assert all(row.n_patches == 0 and row.tissue_mm2 == 0 for row in result if row.status == DONE)
    out = tmp_path / "out"
    with open(out / "slides.csv", encoding="utf-8", newline="") as file:
        assert {row["slide_id"] for row in csv.DictReader(file)} == {row.slide_id for row in result}
    for row in result:
        if row.status == DONE:
            assert (out / "results" / row.slide_id / "map.png").is_file()
    assert len(list((out / "failures").iterdir())) == 1
    assert len([row for row in start(folder) if row.status == DONE]) == 4  # and again, from the records


def test_what_cannot_be_written_for_one_slide_does_not_end_the_batch(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_row = records.write_row

    def refuse(out: Path, row: SlideRow) -> None:
        if row.slide_id == "a":
            raise PermissionError(13, "Permission denied")
        write_row(out, row)

    def fail(*_: Any) -> None:
        raise PermissionError(13, "open in another program")

    monkeypatch.setattr(records, "write_row", refuse)
    monkeypatch.setattr(reporter, "write_index", fail)
    result = start(glass(tmp_path / "a.tif"), glass(tmp_path / "b.tif"), on_slide=fail, on_start=fail)
    assert [row.status for row in result] == [FAILED, DONE]
    assert "Permission denied" in (result["a"].error or "")


def test_a_missing_file_of_a_manifest_is_one_failed_row(start: Start, tmp_path: Path) -> None:
    glass(tmp_path / "a.tif")
    (tmp_path / "m.csv").write_text("Path,Slide ID,MPP,stain\na.tif,s1,1.0,HE\ngone.tif,s2,1.0,HE\n")
    notes: list[str] = []
    result = start(tmp_path / "m.csv", on_note=notes.append)
    assert [(row.slide_id, row.status) for row in result] == [("s1", DONE), ("s2", FAILED)]
    assert "line 3" in (result["s2"].error or "")
    assert result.exit_status == 1
    assert notes == [f"{tmp_path / 'm.csv'}: columns not used: stain"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["notes"] == notes


def test_a_damaged_row_is_a_slide_that_is_not_finished(start: Start, tmp_path: Path) -> None:
    slides = glass(tmp_path / "a.tif"), glass(tmp_path / "b.tif")
    start(*slides)
    (tmp_path / "out" / "results" / "a" / "row.json").write_text('{"slide_id": "a", "pa')
    assert [row.status for row in start(*slides)] == [DONE, DONE]
