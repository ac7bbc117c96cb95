"""Results never go to another slide: equal names, two runs at once, moved and replaced files."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from wsikit.batch.claims import belongs
from wsikit.batch.entry import SlideEntry
from wsikit.batch.records import DONE, FAILED
from wsikit.batch.run import plan_run, run
from wsikit.batch.run_result import RunResult
from wsikit.cli.main import main
from wsikit.errors import StoreError
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile

Write = Callable[[Path, npt.NDArray[np.uint8]], Path]
NO_PIXELS = ImageParameters(pixels="none")


@pytest.fixture
def two(tmp_path: Path, pixels: npt.NDArray[np.uint8], write_slide: Write) -> tuple[Path, Path]:
    """Two different slides of equal name."""
    for folder, content in (("d1", pixels), ("d2", pixels[:, ::-1])):
        (tmp_path / folder).mkdir()
        write_slide(tmp_path / folder / "x.tiff", content)
    return tmp_path / "d1" / "x.tiff", tmp_path / "d2" / "x.tiff"


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Callable[..., RunResult]:
    def run_it(*slides: object) -> RunResult:
        return run(slides, tmp_path / "out", model=model_folder, workers=1, device="cpu", image=NO_PIXELS)  # type: ignore[arg-type]

    return run_it


def table(out: Path) -> dict[str, str]:
    """Path by slide id."""
    with open(out / "slides.csv", encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row["path"] for row in csv.DictReader(file)}


def check_stores(out: Path, *slides: Path) -> None:
    """Each slide has one row, with the store of its own content."""
    paths = table(out)
    assert sorted(paths.values()) == sorted(map(str, slides))
    for slide_id, path in paths.items():
        record = SlideStore.read_record(out / "slides" / f"{slide_id}.zarr")
        assert record["source"]["fingerprint"] == fingerprint(path)
        assert (out / "results" / slide_id / "map.png").is_file()


def test_two_processes_at_once_keep_slides_of_equal_name_apart(
    two: tuple[Path, Path], tmp_path: Path, model_folder: Path
) -> None:
    command = [sys.executable, "-m", "wsikit.cli.main", "run", "-o", str(tmp_path / "out"), "--model"]
    command += [str(model_folder), "--pixels", "none", "--workers", "1", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    begun = [subprocess.Popen([*command, str(slide)], env=environment, stdout=subprocess.DEVNULL) for slide in two]
    assert [process.wait(timeout=400) for process in begun] == [0, 0]
    check_stores(tmp_path / "out", *two)


def test_threads_keep_slides_of_equal_name_apart(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path
) -> None:
    found: dict[Path, RunResult] = {}
    threads = [threading.Thread(target=lambda slide=slide: found.update({slide: start(slide)})) for slide in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[slide][0].status for slide in two] == [DONE, DONE]
    check_stores(tmp_path / "out", *two)


def test_one_after_the_other_keeps_both_and_a_rerun_finds_both_finished(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = start(two[0])[0].slide_id, start(two[1])[0].slide_id
    assert first == "x"
    assert second.startswith("x-")
    assert (start(two[0])[0].slide_id, start(two[1])[0].slide_id) == (first, second)
    check_stores(tmp_path / "out", *two)


def test_an_interrupted_slide_without_a_row_keeps_its_id(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path
) -> None:
    start(two[0])
    shutil.rmtree(tmp_path / "out" / "results")
    assert start(two[1])[0].slide_id != "x"
    (tmp_path / "out" / "slides" / ".x.slide.json").unlink()  # as earlier versions leave it
    assert not belongs(tmp_path / "out", "x", str(two[1]))
    assert belongs(tmp_path / "out", "x", str(two[0]))


def test_a_requested_id_of_another_slide_fails_and_nothing_is_replaced(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path, model_folder: Path
) -> None:
    out = tmp_path / "out"
    start(SlideEntry("case-1", str(two[0])))
    before = (out / "results" / "case-1" / "row.json").read_bytes()
    other = SlideEntry("case-1", str(two[1]))
    planned = plan_run(other, out, model=model_folder, image=NO_PIXELS).slides[0]
    assert "belongs to" in planned.fault
    row = start(other)[0]
    assert row.status == FAILED
    assert row.error is not None
    assert str(two[0]) in row.error
    assert "delete" in row.error
    assert (out / "results" / "case-1" / "row.json").read_bytes() == before
    source = SlideStore.read_record(out / "slides" / "case-1.zarr")["source"]
    assert source["fingerprint"] == fingerprint(two[0])


def test_a_moved_slide_keeps_its_id_and_its_results(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path
) -> None:
    start(two[0])
    out, elsewhere = tmp_path / "out", tmp_path / "archive" / "x.tiff"
    made = {path: path.stat().st_mtime_ns for path in (out / "slides" / "x.zarr" / "patches").rglob("c/**/*")}
    elsewhere.parent.mkdir()
    two[0].rename(elsewhere)
    row = start(elsewhere)[0]
    assert (row.slide_id, row.path) == ("x", str(elsewhere))
    assert {path: path.stat().st_mtime_ns for path in made} == made
    shutil.copy(elsewhere, tmp_path / "d1" / "x.tiff")
    assert start(tmp_path / "d1" / "x.tiff")[0].slide_id != "x", "a copy is another slide"


def test_a_file_replaced_under_its_name_is_made_again(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path
) -> None:
    start(two[0])
    shutil.copy(two[1], two[0])
    assert start(two[0])[0].slide_id == "x"
    check_stores(tmp_path / "out", two[0])


def test_a_store_of_another_slide_is_not_replaced_by_tile(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    tile(two[0], folder, mpp=1.0)
    before = (folder / "zarr.json").read_bytes()
    with pytest.raises(StoreError, match="holds another slide, x.tiff.*-o, or delete"):
        tile(two[1], folder, mpp=1.0)
    with pytest.raises(SystemExit) as ended:
        main(["tile", str(two[1]), "-o", str(folder)])
    assert ended.value.code == 1
    assert (folder / "zarr.json").read_bytes() == before
    two[1].replace(two[0])
    tile(two[0], folder, mpp=1.0)
    assert SlideStore.read_record(folder)["source"]["fingerprint"] == fingerprint(two[0])


def test_a_moved_slide_keeps_its_store(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    tile(two[0], folder, mpp=1.0)
    moved = two[0].rename(tmp_path / "moved.tiff")
    shard = next(path for path in (folder / "0").rglob("c/0/*/*"))
    written = shard.stat().st_mtime_ns
    tile(moved, folder, mpp=1.0)
    assert shard.stat().st_mtime_ns == written
    shutil.copy(two[1], moved)
    tile(moved, folder, mpp=1.0)
    assert SlideStore.read_record(folder)["source"]["fingerprint"] == fingerprint(two[1])


def test_an_unfinished_store_of_another_slide_is_not_continued(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsikit.tiling import zarr_metadata

    folder = tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr(zarr_metadata, "write_root", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tile(two[0], folder, mpp=1.0)
    with pytest.raises(StoreError, match="another slide"):
        tile(two[1], folder, mpp=1.0)
    tile(two[0], folder, mpp=1.0)


def test_a_store_of_an_earlier_version_is_compared_by_name_and_content(two: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "s.zarr"
    tile(two[0], folder, mpp=1.0)
    record = json.loads((folder / "zarr.json").read_text())
    del record["attributes"]["wsikit"]["source"]["place"]
    (folder / "zarr.json").write_text(json.dumps(record))
    other = two[1].rename(tmp_path / "other.tiff")
    with pytest.raises(StoreError, match="another slide"):
        tile(other, folder, mpp=1.0)


def test_temporary_files_of_a_kill_are_removed(
    start: Callable[..., RunResult], two: tuple[Path, Path], tmp_path: Path
) -> None:
    out, name = tmp_path / "out", f"{'0' * 32}.partial"
    left = [out / f"slides.csv.{name}", out / "results" / "x" / f"map.png.{name}"]
    left += [out / "slides" / f".{other}.slide.json.{name}" for other in ("x", "y")]
    left += [out / f"index.html.{name}", out / "failures" / f"x.txt.{name}"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    in_use = [out / f"patients.csv.{name}", out / "slides" / f".z.slide.json.{name}"]
    for path in in_use:
        path.write_bytes(b"half")
    with FileLock(out / "slides" / ".z.lock"):
        start(two[0])
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in in_use), "another run may be writing them now"
