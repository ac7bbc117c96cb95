"""A slide whose reader ends the process costs one row, not the batch: in the next run, and every run after it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wsikit.batch.begun import read_begun, write_begun
from wsikit.batch.log import read_log
from wsikit.batch.records import DONE, FAILED, read_rows
from wsikit.batch.run import run
from wsikit.models.protocol import ModelInfo

TOYS = Path(__file__).parent


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadly reader is installed here and in processes that are started."""
    info = tmp_path / "site" / "deadly-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[wsikit.readers]\ndeadly = deadly_reader:DeadlySlide\n")
    for folder in (tmp_path / "site", TOYS):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", ":".join([str(tmp_path / "site"), str(TOYS), *filter(None, sys.path)]))


@pytest.fixture
def slides(tmp_path: Path, install: None) -> list[Path]:
    """The second of three slides ends its process by SIGSEGV."""
    found = [tmp_path / f"{name}.svs" for name in ("a", "b", "c")]
    for path, number in zip(found, (0, int(signal.SIGSEGV), 0)):
        path.write_text(f"DEADLY {number}")
    return found


def start(slides: list[Path], out: Path, model: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from wsikit.cli.main import main; main(sys.argv[1:])"
    command = ["run", *map(str, slides), "-o", str(out), "--model", str(model), "--device", "cpu", "--workers", "1"]
    return subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=300)


def states(out: Path) -> dict[str, str]:
    return {row.slide_id: row.status for row in read_rows(out)}


def test_a_slide_that_kills_its_process_is_one_failed_row_and_the_others_are_done(
    slides: list[Path], tmp_path: Path, model_folder: Path
) -> None:
    out = tmp_path / "out"
    assert start(slides, out, model_folder).returncode == -signal.SIGSEGV
    assert read_begun(out, "b") is not None, "the slide that was in work is marked"
    for _ in range(2):
        ended = start(slides, out, model_folder)
        assert ended.returncode == 1, ended.stderr
        assert states(out) == {"a": DONE, "b": FAILED, "c": DONE}
        (row,) = [row for row in read_rows(out) if row.slide_id == "b"]
        assert "ended by signal 11, SIGSEGV in the stage" in (row.error or "")
        assert str(slides[1]) in (row.error or "")
        assert (out / "failures" / "b.txt").is_file()
    slides[1].write_text("DEADLY 0")
    assert start(slides, out, model_folder).returncode == 0, "the file was repaired"
    assert set(states(out).values()) == {DONE}
    assert not list((out / "slides").glob(".*.begun.json"))


def test_a_slide_whose_process_was_killed_from_outside_is_done_with_equal_results(
    slide_path: Path, tmp_path: Path, model_folder: Path
) -> None:
    settings = {"model": model_folder, "device": "cpu", "workers": 1}
    run(slide_path, tmp_path / "whole", **settings)
    out = tmp_path / "out"
    (out / "slides").mkdir(parents=True)
    write_begun(out, "disc", "captions")
    result = run(slide_path, out, **settings)
    assert result[0].status == DONE
    assert read_begun(out, "disc") is None
    assert (out / "slides" / ".disc.begun.json").exists() is False
    for name in ("map.png", "subtype.geojson", "result.json"):
        assert (out / "results" / "disc" / name).read_bytes() == (tmp_path / "whole/results/disc" / name).read_bytes()
    notes = [event["text"] for event in read_log(out) if event["event"] == "note"]
    assert notes == ["disc: an earlier process died in it (captions); it is done in a process of its own"]
    assert json.loads((out / "run.json").read_text())["time"]["seconds"] > 0


class Half:
    """A model that cannot be sent to another process."""

    info = ModelInfo(
        name="half",
        version="1",
        architecture="test",
        classes=("a", "b"),
        class_names=("a", "b"),
        colors=("#d55e00", "#0072b2"),
        background=(),
        mpp=1.0,
        patch_px=64,
        stain="H&E",
        fingerprint="half",
    )

    def __reduce__(self) -> str:
        raise TypeError("not to be sent")

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"probability": np.full((len(images), 2), 0.5, np.float32)}


def test_what_cannot_be_sent_to_another_process_is_done_last_in_this_one(
    slide_path: Path, tmp_path: Path, write_slide: Callable[..., Path], pixels: np.ndarray
) -> None:
    out, second = tmp_path / "out", write_slide(tmp_path / "second.tiff", pixels[::-1])
    (out / "slides").mkdir(parents=True)
    write_begun(out, "disc", "pixels")
    order: list[str] = []
    result = run([slide_path, second], out, model=Half(), workers=1, on_slide=lambda row: order.append(row.slide_id))
    assert [row.status for row in result] == [DONE, DONE]
    assert order == ["second", "disc"]


def test_a_mark_that_is_cut_off_counts_as_a_mark(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / ".x.begun.json").write_text('{"sta')
    found = read_begun(tmp_path, "x")
    assert found is not None
    assert found.stage == "unknown"


def test_the_first_run_from_a_shell_survives_the_crash(slides: list[Path], tmp_path: Path, model_folder: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "wsikit.cli.main", "run", *map(str, slides), "-o", str(out)]
    command += ["--model", str(model_folder), "--device", "cpu", "--workers", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1, ended.stderr
    assert "the process ended by SIGSEGV" in ended.stderr
    assert states(out) == {"a": DONE, "b": FAILED, "c": DONE}


@pytest.mark.skipif(sys.platform != "linux", reason="a crash is explained on Linux")
@pytest.mark.parametrize("verb", ["tile", "doctor"])
def test_other_verbs_end_with_a_line_that_says_what_crashed(verb: str, slides: list[Path], tmp_path: Path) -> None:
    options = ["-o", str(tmp_path / "stores"), "--workers", "1"] if verb == "tile" else ["--folder", str(tmp_path)]
    command = [sys.executable, "-m", "wsikit.cli.main", verb, str(slides[1]), *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 128 + signal.SIGSEGV
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("wsikit: the process ended by SIGSEGV")]
    assert "--reader" in line


_GUARDED = """
import os, signal, sys, time
from wsikit.cli import main as entry

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored

def work(*_, **__):
    print(os.getpid(), flush=True)
    time.sleep(60)

entry.cli.main = work
sys.argv = ["wsikit", "run"]
entry.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a crash is survived on Linux")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_ends_the_parent_ends_the_process_that_works(number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _GUARDED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert child != parent.pid
    parent.send_signal(number)
    expected = -number if number == signal.SIGKILL else 128 + number
    assert parent.wait(30) == expected
    assert parent.stdout.read() == b"", "the process that works has ended: its output is closed"


@pytest.mark.skipif(sys.platform != "linux", reason="a crash is survived on Linux")
def test_a_process_that_is_killed_is_not_started_again() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _GUARDED], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout is not None
    os.kill(int(parent.stdout.readline()), signal.SIGKILL)
    _, said = parent.communicate(timeout=30)
    assert parent.returncode == 137
    assert b"ended by SIGKILL" in said
    assert b"use fewer workers" in said
