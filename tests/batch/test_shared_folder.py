"""Two runs on one output folder share the work: both exit 0, and what a run that died had in work is taken over."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from wsikit.batch.log import read_log
from wsikit.batch.records import DONE, read_rows

_RUN = "import sys; from wsikit.cli.main import main; main(sys.argv[1:])"


def begin(slides: list[Path], out: Path, model: Path) -> subprocess.Popen[str]:
    command = ["run", *map(str, slides), "-o", str(out), "--model", str(model), "--device", "cpu", "--workers", "1"]
    return subprocess.Popen([sys.executable, "-c", _RUN, *command], stdout=subprocess.PIPE, text=True)


def copies(slide: Path, number: int) -> list[Path]:
    return [Path(shutil.copy(slide, slide.with_name(f"s{index}.tiff"))) for index in range(number)]


def wait_until_in_work(out: Path, *others: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not list((out / "slides").glob(".*.begun.json")) and time.monotonic() < until:
        assert all(process.poll() is None for process in others)
        time.sleep(0.005)


def test_two_runs_at_once_do_each_slide_once_and_both_exit_with_0(
    slide_path: Path, tmp_path: Path, model_folder: Path
) -> None:
    out, slides = tmp_path / "out", copies(slide_path, 4)
    both = [begin(slides, out, model_folder) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert {row.slide_id: row.status for row in read_rows(out)} == {f"s{index}": DONE for index in range(4)}
    assert all("4 of 4 slides done" in text for text in said)
    votes = [event["slide"] for event in read_log(out) if (event["event"], event.get("stage")) == ("end", "vote")]
    assert sorted(votes) == ["s0", "s1", "s2", "s3"], "no slide was done twice"
    assert not list((out / "slides").glob(".*.begun.json"))


def test_the_slides_of_a_run_that_is_killed_are_taken_over_by_the_one_that_waits(
    slide_path: Path, tmp_path: Path, model_folder: Path
) -> None:
    out, slides = tmp_path / "out", copies(slide_path, 1)
    first = begin(slides, out, model_folder)
    wait_until_in_work(out, first)
    first.send_signal(signal.SIGSTOP)  # it holds the slide, and does nothing
    assert first.poll() is None
    second = begin(slides, out, model_folder)
    assert second.stdout is not None
    while "waiting for 1 slide that another run is working on (s0)" not in second.stdout.readline():
        assert second.poll() is None
    first.kill()
    first.wait()
    assert second.wait(200) == 0
    assert [row.status for row in read_rows(out)] == [DONE]
    notes = [event["text"] for event in read_log(out) if event["event"] == "note"]
    assert any("an earlier process died in it" in note for note in notes)
    assert json.loads((out / "run.json").read_text())["slides"][0]["slide_id"] == "s0"
