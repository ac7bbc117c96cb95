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
@pytest.mark.parametrize(("while_reading", "status"), [(True, -getattr(signal, "SIGALRM", 0)), (False, 0)])
def test_a_library_that_keeps_pythons_lock_is_cut_off_while_it_reads_only(while_reading: bool, status: int) -> None:
    """No thread of Python can look at the time then."""
    code = f"""
import ctypes
from wsikit.batch import stalled
stalled.end_process_when_stalled()
watch = stalled.Watch(print)
with watch.reading():
    if {while_reading}:
        ctypes.PyDLL(None).sleep(600)
ctypes.PyDLL(None).sleep(2)
"""
    environment = {**os.environ, stalled.VARIABLE: f"{1 / 60}"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=environment)
    assert ended.returncode == status, ended.stderr


@needs_signal
def test_one_slide_that_has_been_read_does_not_end_the_watch_over_another(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    monkeypatch.setattr(stalled.signal, "setitimer", lambda which, seconds: timers.append(seconds))
    first, second = (stalled.Watch(lambda minutes: None, may_end=True) for _ in range(2))
    with first.reading():
        with second.reading():
            pass
        assert 0 not in timers
    assert timers[-1] == 0


@needs_signal
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a run is started again on Linux")
@pytest.mark.parametrize("how", [-1, -2])
def test_a_slide_that_hangs_is_one_failed_row_and_the_others_are_done(
    how: int, tmp_path: Path, model_folder: Path
) -> None:
    """Also one that keeps Python's lock."""
    info = tmp_path / "site" / "deadly-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[wsikit.readers]\ndeadly = deadly_reader:DeadlySlide\n")
    slides = [tmp_path / f"{name}.svs" for name in "abc"]
    for path, end in zip(slides, (0, how, 0)):
        path.write_text(f"DEADLY {end}")
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
    assert how == -2 or "b: no progress for 0.4 minutes" in ended.stdout
