"""Slides without progress are named, and do not hold up the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from wsikit.batch import stalled
from wsikit.batch.records import DONE, FAILED, read_rows

TOYS = Path(__file__).parent
needs_signal = pytest.mark.skipif(stalled.SIGNAL is None, reason="needs SIGALRM")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a second without progress is too long."""
    monkeypatch.setenv(stalled.VARIABLE, f"{0.2 / 60}")


def test_a_slide_without_progress_is_reported_once(soon: None) -> None:
    called, heard = threading.Event(), []

    def on_stall(minutes: float) -> None:
        heard.append(minutes)
        called.set()

    with stalled.Watch(on_stall).reading():
        assert called.wait(30)
        threading.Event().wait(0.4)
    assert heard == [pytest.approx(0.2 / 60)]


def test_progress_is_no_stall_and_outside_of_reading_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stalled.VARIABLE, f"{2 / 60}")
    heard: list[float] = []
    watch = stalled.Watch(heard.append)
    with watch.reading():
        for _ in range(30):
            threading.Event().wait(0.1)
            watch.beat()
    monkeypatch.setenv(stalled.VARIABLE, "0")
    never = stalled.Watch(heard.append)
    with never.reading():
        threading.Event().wait(0.3)
    assert heard == []


@pytest.mark.parametrize(("text", "expected"), [("5", 5.0), ("0", 0.0), ("-3", 0.0), ("soon", stalled.DEFAULT_MIN)])
def test_minutes_are_read_from_the_environment(text: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stalled.VARIABLE, text)
    assert stalled.minutes() == expected


def test_a_process_of_the_user_is_never_ended(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    stalled.report("a", "pixels", 30, said.append, may_end=False)
    assert "a: no progress for 30 minutes in the stage pixels" in said[0]
    assert "another reader" in said[0]


@needs_signal
def test_a_process_that_was_started_for_slides_ends_itself() -> None:
    code = """
from wsikit.batch import stalled
stalled.end_process_when_stalled()
stalled.report("a", "pixels", 30, print, may_end=False)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert ended.returncode == -signal.SIGALRM


@needs_signal
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a run is started again on Linux")
def test_a_slide_that_hangs_is_one_failed_row_and_the_others_are_done(tmp_path: Path, model_folder: Path) -> None:
    info = tmp_path / "site" / "deadly-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[wsikit.readers]\ndeadly = deadly_reader:DeadlySlide\n")
    slides = [tmp_path / f"{name}.svs" for name in "abc"]
    for path, how in zip(slides, (0, -1, 0)):
        path.write_text(f"DEADLY {how}")
    environment = {
        **os.environ,
        "PYTHONPATH": ":".join([str(tmp_path / "site"), str(TOYS), *filter(None, sys.path)]),
        stalled.VARIABLE: "0.4",
    }
    out = tmp_path / "out"
    command = [sys.executable, "-m", "wsikit.cli.main", "run", *map(str, slides), "-o", str(out)]
    command += ["--model", str(model_folder), "--device", "cpu", "--workers", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == 1, ended.stderr
    assert {row.slide_id: row.status for row in read_rows(out)} == {"a": DONE, "b": FAILED, "c": DONE}
    (error,) = [row.error for row in read_rows(out) if row.slide_id == "b"]
    assert error is not None
    assert "no progress for 0.4 minutes" in error
    assert "b: no progress for 0.4 minutes" in ended.stdout
