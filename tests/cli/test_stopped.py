"""A verb that is stopped from the keyboard ends at once with status 130, also while torch is being loaded."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import wsikit

_STOPPED_WHILE_LOADING = """
import sys, threading, time, types
from wsikit.cli import main as entry

def stop(*_, **__):
    sys.modules["torch"] = types.ModuleType("torch")
    threading.Thread(target=time.sleep, args=(60,)).start()
    raise KeyboardInterrupt

entry.cli.main = stop
entry.main([])
"""


def test_a_model_that_is_being_loaded_is_not_waited_for() -> None:
    ended = subprocess.run([sys.executable, "-c", _STOPPED_WHILE_LOADING], capture_output=True, text=True, timeout=30)
    assert ended.returncode == 130
    assert ended.stderr.startswith("wsikit: stopped.")
    assert len(ended.stderr.splitlines()) == 1


_RUN = """
import signal, sys
from wsikit.cli.main import main
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
main(["run", *sys.argv[1:], "--device", "cpu"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows gets no SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_stopped_by_a_signal_leaves_what_is_complete(tmp_path: Path, number: signal.Signals) -> None:
    slide, out = tmp_path / "s.tiff", tmp_path / "out"
    wsikit.make_phantom(slide, size_px=(1024, 1024))
    call = [sys.executable, "-c", _RUN, str(slide), "-o", str(out)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, until = out / "log.jsonl", time.monotonic() + 120
    while not (log.is_file() and "captions" in log.read_text()) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    shown, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "stopping: slides in work end at their next step" in shown
    assert [line for line in said.splitlines() if "wsikit:" in line] == said.splitlines()[-1:]
    name = signal.Signals(number).name
    by = "" if number == signal.SIGINT else f" by {name}"
    assert said.splitlines()[-1].startswith(f"wsikit: stopped{by}. Finished work is kept")
    assert "Traceback" not in said
    assert not (out / "failures").exists() or not any((out / "failures").iterdir())
    assert not list((out / "slides").glob(".*.begun.json")), "it has not died"
    plan = wsikit.plan_run(slide, out)
    states = {stage.name: stage.state for stage in plan.slides[0].stages}
    assert (states["pixels"], states["tissue"], states["patches"]) == ("done", "done", "done")
    assert states["map and report"] == "missing"


_TWICE = """
import os, signal, sys, time
from wsikit.cli import main as entry

def work(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
        print("the same signal, at once again, is one", flush=True)
        time.sleep(float(sys.argv[1]))
        os.kill(os.getpid(), int(sys.argv[2]))
        time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
entry.cli.main = work
entry.main([])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once(number: signal.Signals) -> None:
    command = [sys.executable, "-c", _TWICE, "0.5", str(int(number))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 128 + number
    assert ended.stdout == "the same signal, at once again, is one\n"
    assert ended.stderr.startswith("wsikit: ended at once.")


def test_the_handler_of_a_caller_is_kept_and_the_own_one_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    from wsikit.cli import main as entry

    seen: list[object] = []
    monkeypatch.setattr(entry.cli, "main", lambda **_: seen.append(signal.getsignal(signal.SIGTERM)))
    before = signal.getsignal(signal.SIGTERM)
    try:
        for handler in (signal.SIG_IGN, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, handler)
            with pytest.raises(SystemExit):
                entry.main([])
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen[0] is signal.SIG_IGN
    assert type(seen[1]).__name__ == "_Ending"
