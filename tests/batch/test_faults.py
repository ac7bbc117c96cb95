"""A full disk, a read-only folder, a slide that vanishes or changes, a clock that goes back: one clear line, and the
same command goes on when the cause is gone."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.batch.log import read_log
from wsikit.batch.records import DONE, FAILED, read_rows
from wsikit.batch.run import run
from wsikit.batch.run_result import RunResult
from wsikit.tiling.plan import ImageParameters

RESULTS = ("map.png", "subtype.geojson", "result.json")


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Callable[..., RunResult]:
    def run_it(*slides: Path, out: str = "out", **changes: Any) -> RunResult:
        return run(slides, tmp_path / out, model=model_folder, workers=1, device="cpu", **changes)

    return run_it


@pytest.fixture
def no_room() -> Iterator[Callable[[int | None], None]]:
    """From now on the system refuses to write files larger than so many bytes, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def results(folder: Path, slide_id: str = "disc") -> list[bytes]:
    return [(folder / "results" / slide_id / name).read_bytes() for name in RESULTS]


def when(stage: str, then: Callable[[], object]) -> Callable[[Mapping[str, Any]], None]:
    """Do something once, when a stage begins."""
    left = [then]

    def hear(event: Mapping[str, Any]) -> None:
        if left and event["event"] == "start" and event["stage"] == stage:
            left.pop()()

    return hear


@pytest.mark.parametrize(("stage", "size"), [("quality and captions", 400), ("vote", 400), ("map and report", 60)])
def test_a_full_disk_costs_the_slides_a_clear_line_and_the_next_run_continues(
    start: Callable[..., RunResult],
    slide_path: Path,
    tmp_path: Path,
    no_room: Callable[[int | None], None],
    stage: str,
    size: int,
) -> None:
    second = shutil.copy(slide_path, tmp_path / "second.tiff")
    start(slide_path, out="whole")
    result = start(slide_path, second, on_event=when(stage, lambda: no_room(size)))
    no_room(None)
    assert [row.status for row in result] == [FAILED, FAILED]
    for row in result:
        assert "cannot be written (File too large)" in (row.error or "")
        assert row.path in (row.error or "")
        assert "Free disk space" in (row.error or "")
        assert ".partial" not in (row.error or "")
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert [row.status for row in start(slide_path, second)] == [DONE, DONE]
    assert results(tmp_path / "out") == results(tmp_path / "whole")


_SMALL_DISK = """
import shutil, subprocess, sys
from pathlib import Path
slide, model, out = sys.argv[1:]
mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", out], capture_output=True)
if mounted.returncode:
    sys.exit(77)
from wsikit.batch.run import run
second = shutil.copy(slide, Path(slide).with_name("second.tiff"))
result = run([slide, second], out, model=model, workers=1, device="cpu")
print([row.status for row in result], *[row.error for row in result], sep="\\n")
subprocess.run(["mount", "-o", "remount,size=64m", out], check=True)
print(run([slide, second], out, model=model, workers=1, device="cpu").exit_status)
subprocess.run(["mount", "-o", "remount,ro", out], check=True)
from wsikit.cli.main import main
main(["run", slide, "-o", out, "--model", model, "--device", "cpu", "--min-tissue", "0.9"])
"""


def test_a_disk_that_is_full_and_then_read_only(slide_path: Path, tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "disk").mkdir()
    command = [sys.executable, "-c", _SMALL_DISK, str(slide_path), str(model_folder), str(tmp_path / "disk")]
    ended = subprocess.run(["unshare", "-rm", *command], capture_output=True, text=True, timeout=200)
    if ended.returncode == 77 or "unshare" in ended.stderr:
        pytest.skip("no file system may be mounted here")
    states, first, second, status = ended.stdout.splitlines()[:4]
    assert states == "['failed', 'failed']", ended.stderr
    assert all("No space left on device" in line and "Free disk space" in line for line in (first, second))
    assert status == "0", "with room, the same command finishes"
    assert ended.returncode == 2
    assert f"{tmp_path / 'disk'}: not writable" in ended.stderr


def test_an_output_folder_that_cannot_be_made_is_a_wrong_request(
    slide_path: Path, tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from wsikit.cli.main import main

    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        main(["run", str(slide_path), "-o", str(tmp_path / "file" / "out"), "--model", str(model_folder)])
    assert ended.value.code == 2
    assert "cannot be created" in capsys.readouterr().err


def _delete(slide: Path, other: Path) -> None:
    slide.unlink()


def _truncate(slide: Path, other: Path) -> None:
    os.truncate(slide, slide.stat().st_size // 2)


def _replace(slide: Path, other: Path) -> None:
    os.replace(shutil.copy(other, other.with_name("copy.tiff")), slide)


def _overwrite(slide: Path, other: Path) -> None:
    slide.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [_delete, _truncate, _replace, _overwrite])
@pytest.mark.parametrize("pixels_kept", [True, False])
@pytest.mark.parametrize("stage", ["pixels", "tissue", "quality and captions", "predictions"])
def test_a_slide_that_changes_during_its_run_is_never_half_old_and_half_new(
    start: Callable[..., RunResult],
    slide_path: Path,
    tmp_path: Path,
    pixels: np.ndarray,
    write_slide: Callable[..., Path],
    change: Callable[[Path, Path], None],
    pixels_kept: bool,
    stage: str,
) -> None:
    if stage == "pixels" and not pixels_kept:
        pytest.skip("there is no such stage")
    image = ImageParameters(pixels="keep" if pixels_kept else "none")
    other = write_slide(tmp_path / "other.tiff", pixels[::-1])
    kept = shutil.copy2(slide_path, tmp_path / "kept.tiff")
    start(slide_path, out="whole", image=image)
    row = start(slide_path, image=image, on_event=when(stage, lambda: change(slide_path, other)))[0]
    if row.status == DONE:
        # its pixels were in the store already, or its file was still open
        assert results(tmp_path / "out") == results(tmp_path / "whole")
        assert row.unreadable_fraction == 0
    else:
        assert row.status == FAILED
        assert str(slide_path) in (row.error or "")
        assert not (tmp_path / "out" / "results" / "disc" / "finished.json").exists()
    shutil.copy2(kept, slide_path)
    assert start(slide_path, image=image).exit_status == 0
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_a_clock_that_goes_back_makes_nothing_again(
    start: Callable[..., RunResult], slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = shutil.copy(slide_path, tmp_path / "second.tiff")
    start(slide_path)
    now = time.time()
    for path in (tmp_path / "out").rglob("*"):
        os.utime(path, (now + 86400, now + 86400))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "slides").rglob("*") if path.is_file()}
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3 * 86400)
    assert start(slide_path).exit_status == 0
    assert start(slide_path, second).exit_status == 0
    after = {path: path.stat().st_mtime_ns for path in before}
    assert after == before
    assert {row.slide_id for row in read_rows(tmp_path / "out")} == {"disc", "second"}
    assert all(event["t"] >= 0 for event in read_log(tmp_path / "out"))
