"""Runs over many slides: each is attempted, kept and recorded."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from filelock import FileLock

from wsikit.batch import stages
from wsikit.batch.records import DONE, FAILED, read_rows
from wsikit.batch.run import run
from wsikit.batch.run_result import RunResult
from wsikit.cli.main import main
from wsikit.errors import ModelError
from wsikit.results import outputs
from wsikit.slides.store import SlideStore
from wsikit.tiling import columns

OUTPUTS = ("map.png", "subtype.geojson", "report.html")


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Callable[..., RunResult]:
    """Runs slides into tmp_path/out with the tiny model."""

    def run_it(*slides: Path, assume_mpp: float | None = None, **changes: Any) -> RunResult:
        return run(slides, tmp_path / "out", model=model_folder, mpp=assume_mpp, workers=2, device="cpu", **changes)

    return run_it


def table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "slides.csv", encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file)}


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_one_bad_slide_never_stops_the_others(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path
) -> None:
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(slide_path, tmp_path / "in" / folder / "same.tiff")
    (tmp_path / "in" / "a" / "broken.svs").write_bytes(b"II*\0" + b"\1" * 500)
    summary = start(tmp_path / "in")
    out = tmp_path / "out"
    assert summary.exit_status == 1
    rows = table(out)
    assert {slide_id: row["status"] for slide_id, row in rows.items()} == {
        "a__broken": FAILED,
        "a__same": DONE,
        "b__same": DONE,
    }
    assert "broken.svs" in rows["a__broken"]["error"]
    assert "\n" not in rows["a__broken"]["error"]
    assert "Traceback" in (out / "failures" / "a__broken.txt").read_text()
    for slide_id in ("a__same", "b__same"):
        assert all((out / "results" / slide_id / name).stat().st_size > 0 for name in OUTPUTS)
        assert len(SlideStore(out / "slides" / f"{slide_id}.zarr").patches()) == int(rows[slide_id]["n_patches"])
    record = json.loads((out / "run.json").read_text())
    assert record["versions"]["wsikit"]
    assert record["configuration"]["captioner"] == "morphometry"


def test_running_again_changes_nothing_that_is_done_and_retries_what_failed(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path
) -> None:
    late = tmp_path / "late.tiff"
    late.write_bytes(b"II*\0" + b"\1" * 500)
    assert start(slide_path, late).exit_status == 1
    done = [tmp_path / "out" / "slides" / "disc.zarr", tmp_path / "out" / "results" / "disc"]
    before = {**stamps(done[0]), **{path: time for path, time in stamps(done[1]).items() if "row.json" not in path}}
    shutil.copy(slide_path, late)
    assert start(slide_path, late).exit_status == 0
    after = {**stamps(done[0]), **stamps(done[1])}
    assert {path: after[path] for path in before} == before
    assert not (tmp_path / "out" / "failures" / "late.txt").exists()
    assert table(tmp_path / "out")["late"]["status"] == DONE


@pytest.mark.parametrize("stage", ["caption_stage", "predict_stage", "vote", "write_outputs"])
def test_a_run_interrupted_in_any_stage_is_finished_by_the_next(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def break_off(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(outputs if stage == "write_outputs" else stages, stage, break_off)
        with pytest.raises(KeyboardInterrupt):
            start(slide_path)
    pixels = stamps(tmp_path / "out" / "slides" / "disc.zarr" / "0")
    assert start(slide_path).exit_status == 0
    assert stamps(tmp_path / "out" / "slides" / "disc.zarr" / "0") == pixels
    assert all((tmp_path / "out" / "results" / "disc" / name).is_file() for name in OUTPUTS)


def test_quality_and_captions_come_from_one_pass_over_the_patches(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    real = columns.read_patches

    def counted(slide: Any, grid: Any, coords: npt.NDArray[np.int64]) -> Any:
        read.append(len(coords))
        return real(slide, grid, coords)

    monkeypatch.setattr(columns, "read_patches", counted)
    start(slide_path)
    patches = SlideStore(tmp_path / "out" / "slides" / "disc.zarr").patches()
    assert sum(read) == len(patches)
    assert {"readable", "caption", "caption_facts"} <= set(patches.columns())


def test_other_settings_redo_what_depends_on_them_only(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path
) -> None:
    start(slide_path, min_tissue=0.1)
    store = tmp_path / "out" / "slides" / "disc.zarr"
    pixels, many = stamps(store / "0"), len(SlideStore(store).patches())
    report = (tmp_path / "out" / "results" / "disc" / "report.html").read_bytes()
    start(slide_path, min_tissue=0.95)
    assert len(SlideStore(store).patches()) < many
    assert stamps(store / "0") == pixels
    assert (tmp_path / "out" / "results" / "disc" / "report.html").read_bytes() != report


def test_a_missing_scale_is_refused_with_three_ways_and_an_assumed_one_is_recorded(
    start: Callable[..., RunResult], tmp_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    path = tmp_path / "noscale.tiff"
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", metadata=None)
    error = start(path).rows[0].error or ""
    assert all(way in error for way in ("manifest", "--assume-mpp", "noscale.tiff.json"))
    row = start(path, assume_mpp=0.5).rows[0]
    assert (row.status, row.mpp_x, row.mpp_source) == (DONE, 0.5, "assumed (--assume-mpp)")


def test_an_assumed_scale_does_not_override_a_stated_one(start: Callable[..., RunResult], slide_path: Path) -> None:
    row = start(slide_path, assume_mpp=0.25).rows[0]
    assert row.mpp_x == pytest.approx(0.5)
    assert row.mpp_source == "TIFF XResolution"


def test_a_slide_too_coarse_for_the_model_is_done_without_a_subtype(
    start: Callable[..., RunResult], tmp_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    path = tmp_path / "coarse.tiff"
    resolution = (1e4 / 8.0, 1e4 / 8.0)
    tifffile.imwrite(
        path, pixels, tile=(128, 128), photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER"
    )
    row = start(path).rows[0]
    assert (row.status, row.subtype, row.abstained) == (DONE, None, True)
    assert "too coarse" in (row.reason or "")
    assert "too coarse" in (tmp_path / "out" / "results" / "coarse" / "report.html").read_text()
    assert "probability" not in SlideStore(tmp_path / "out" / "slides" / "coarse.zarr").patches().columns()


def test_a_fluorescence_slide_gets_no_subtype(
    start: Callable[..., RunResult], tmp_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    path = tmp_path / "dapi.tiff"
    resolution = (1e4 / 0.5, 1e4 / 0.5)
    glow = np.where(pixels.min(axis=2) > 220, 3, 255 - pixels.min(axis=2))
    dark = np.stack([glow // 20, glow // 10, glow], axis=2)
    tifffile.imwrite(
        path,
        dark.astype(np.uint8),
        tile=(128, 128),
        photometric="rgb",
        resolution=resolution,
        resolutionunit="CENTIMETER",
    )
    row = start(path).rows[0]
    assert (row.status, row.subtype) == (DONE, None)
    assert "fluorescence" in (row.reason or "")


def test_a_slide_of_several_channels_is_tiled_and_neither_described_nor_classified(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    path = tmp_path / "multiplex.ome.tif"
    glow = (255 - pixels.min(axis=2)).astype(np.uint16) * 20
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    described = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD8"]}, **scale}
    planes = np.stack([glow, glow // 2, glow[::-1]])
    tifffile.imwrite(path, planes, tile=(128, 128), photometric="minisblack", metadata=described)
    found = start(path, slide_path)
    assert found.exit_status == 0
    row, other = sorted(found.rows, key=lambda row: row.slide_id == "disc")
    assert (other.slide_id, other.status) == ("disc", DONE)
    assert (row.status, row.subtype) == (DONE, None)
    assert row.reason == "it reads H&E, this slide has 3 fluorescence channels (DAPI, CD3, CD8)"
    store = SlideStore(tmp_path / "out" / "slides" / f"{row.slide_id}.zarr")
    assert "readable" in store.patches().columns()
    assert not {"caption", "probability"} & set(store.patches().columns())
    assert (store.read_channels(300, 200, 400, 300) == planes[:, 200:500, 300:700]).all()
    report = (tmp_path / "out" / "results" / row.slide_id / "report.html").read_text()
    assert "3 fluorescence channels" in report
    before = stamps(tmp_path / "out" / "slides")
    assert start(path, slide_path).exit_status == 0
    assert stamps(tmp_path / "out" / "slides") == before


def test_unreadable_tiles_are_counted_and_not_classified(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path, damage_tile: Callable[..., None]
) -> None:
    damage_tile(slide_path, 5, 4)
    damage_tile(slide_path, 2, 2, page=1)  # the model's scale is read from this level
    row = start(slide_path).rows[0]
    assert row.status == DONE
    assert 0 < (row.unreadable_fraction or 0) < 0.5
    patches = SlideStore(tmp_path / "out" / "slides" / "disc.zarr").patches()
    unreadable = patches.read("readable") == 0
    assert unreadable.any()
    assert np.isnan(patches.read("probability")[unreadable]).all()
    assert np.isfinite(patches.read("probability")[~unreadable]).all()
    assert set(patches.read("caption")[unreadable]) == {""}


def test_a_slide_in_work_by_another_run_is_waited_for_after_the_others(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path
) -> None:
    second = shutil.copy(slide_path, tmp_path / "second.tiff")
    (tmp_path / "out" / "slides").mkdir(parents=True)
    lock = FileLock(tmp_path / "out" / "slides" / ".disc.lock", thread_local=False)
    said: list[tuple[str, dict[str, str]]] = []

    def hear(note: str) -> None:
        said.append((note, {row.slide_id: row.status for row in read_rows(tmp_path / "out")}))
        lock.release()

    lock.acquire()
    summary = start(slide_path, second, on_note=hear)
    assert [row.status for row in summary] == [DONE, DONE]
    assert said == [("waiting for 1 slide that another run is working on (disc)", {"second": DONE})]
    assert start(slide_path, second).exit_status == 0, "no lock is left behind"


def test_a_missing_model_stops_the_run_before_any_slide(tmp_path: Path, slide_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        run(slide_path, tmp_path / "out", model="no-such-model")
    assert not (tmp_path / "out").exists()


def test_the_map_uses_the_predictions_own_coordinates(
    start: Callable[..., RunResult], tmp_path: Path, slide_path: Path
) -> None:
    from shapely.geometry import shape
    from shapely.ops import unary_union

    start(slide_path)
    patches = SlideStore(tmp_path / "out" / "slides" / "disc.zarr").patches()
    features = json.loads((tmp_path / "out" / "results" / "disc" / "subtype.geojson").read_text())["features"]
    covered = unary_union([shape(feature["geometry"]) for feature in features])
    side = patches.grid.side[0]
    assert covered.area == pytest.approx(len(patches) * side**2, rel=0.02)
    assert covered.bounds[0] == patches.coords[:, 0].min()
    assert covered.bounds[1] == patches.coords[:, 1].min()


def test_the_exit_status_is_2_for_a_wrong_request_and_nothing_is_written(
    tmp_path: Path, slide_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    wrong = {
        "no slide found": [tmp_path / "empty", "--model", model_folder],
        "no-such-model": [slide_path, "--model", "no-such-model"],
        "0 workers": [slide_path, "--model", model_folder, "--workers", "0"],
        "positive number": [slide_path, "--model", model_folder, "--assume-mpp", "-1"],
    }
    for message, arguments in wrong.items():
        with pytest.raises(SystemExit) as ended:
            main(["run", *map(str, arguments), "-o", str(tmp_path / "out")])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_exit_status_is_1_if_a_slide_failed_and_0_if_all_are_done(
    tmp_path: Path, slide_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"II*\0" + b"\1" * 500)
    arguments = ["-o", str(tmp_path / "out"), "--model", str(model_folder), "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        main(["run", str(slide_path), str(broken), *arguments])
    assert ended.value.code == 1
    with pytest.raises(SystemExit) as ended:
        main(["run", str(slide_path), *arguments])
    assert ended.value.code == 0
    assert "1 of 1 slides done" in capsys.readouterr().out
