"""Worker processes: the same results and errors as in this process, and none of them is left behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from wsikit import worker_pool
from wsikit.captions.morphometry import Morphometry
from wsikit.errors import ReadError, WsikitError
from wsikit.executor import Executor
from wsikit.inference.caption import caption, caption_stage
from wsikit.store import table as table_module
from wsikit.tiling import columns
from wsikit.tiling.columns import fill_columns
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.worker import load
from wsikit.worker_pool import WorkerPool, shared_pool

TASKS_OF_TESTS = '''
import ctypes, logging, os, signal, sys, time, warnings
import numpy as np
from wsikit.errors import ReadError


class Odd(Exception):
    """Pickled, it cannot be loaded: its arguments are not those of its constructor."""
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def place(number):
    """The process and its `__main__`."""
    return number, os.getpid(), getattr(sys.modules["__main__"], "__file__", None)

def fail(kind):
    if kind == "read":
        raise ReadError("slide.svs", 0, (1, 2, 3, 4), "damaged")
    raise Odd("one", "two")

def end(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return "here"

def remark(number):
    print("printed")
    logging.getLogger("wsikit.remarks").error("number %d", number)
    warnings.warn("a remark", UserWarning)
    return number

def unusual(number):
    return lambda: number

def slow(number):
    time.sleep(1000 if os.getpid() != int(os.environ["PARENT"]) else 0.01)

def hang(number):
    """Keeps Python's lock: no other thread of the process can do anything."""
    if os.getpid() != int(os.environ["PARENT"]):
        ctypes.PyDLL(None).sleep(600)

def threads(number):
    import cv2
    return cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"]

class Ends:
    """A captioner whose worker process is killed."""
    name, fact_names, parallel, mostly_python = "ends", (), True, True

    def __init__(self, parent):
        self.parent = parent

    def fingerprint(self):
        return {"captioner": self.name}

    def caption(self, images, *, mpp):
        end(self.parent)
        from wsikit.captions.base import Caption
        return [Caption("round nuclei")] * len(images)
'''


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module that this process and worker processes can import."""
    (tmp_path / "tasks_of_tests.py").write_text(TASKS_OF_TESTS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import tasks_of_tests  # type: ignore[import-not-found]

    yield tasks_of_tests
    del sys.modules["tasks_of_tests"]


def begun(pool: WorkerPool, function: Callable[[Any], Any], part: object = None, processes: int = 2) -> list[int]:
    """Process ids of a pool, once all of its processes are ready."""
    work = worker_pool.packed(load, (function, part))
    assert work is not None
    assert pool.start(work, 1000.0, processes) == processes
    for _ in range(600):
        if len(pool._idle) == processes:
            return [one.process.pid for one in pool._all]
        time.sleep(0.05)
    raise AssertionError("the processes did not start")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def results(function: Callable[[Any], Any], tasks: list[Any], workers: int = 2) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    Executor(workers=workers).each(function, tasks, found.__setitem__, python_s=1000.0)
    return found


def test_tasks_are_carried_out_by_worker_processes_which_end_with_the_pool(tasks: ModuleType) -> None:
    with shared_pool() as pool:
        pids = begun(pool, tasks.place)
        found = results(tasks.place, list(range(20)))
        assert {number for number, _, _ in found.values()} == set(range(20))
        assert {pid for _, pid, _ in found.values()} <= set(pids)
        assert {main for _, _, main in found.values()} == {None}, "the main module is not imported"
        assert [one.process.pid for one in pool._all] == pids, "they are used again"
    assert not any(is_alive(pid) for pid in pids)


def test_until_processes_are_ready_this_one_does_the_work(tasks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()
    real = worker_pool.WorkerProcess

    def late() -> Any:
        ready.wait(20)
        return real()

    monkeypatch.setattr(worker_pool, "WorkerProcess", late)
    with shared_pool():
        assert {pid for _, pid, _ in results(tasks.place, list(range(5))).values()} == {os.getpid()}
        ready.set()


def test_errors_come_back_unchanged(tasks: ModuleType) -> None:
    with shared_pool() as pool:
        begun(pool, tasks.fail)
        with pytest.raises(ReadError, match="level 0, x=1 y=2 3×4 px") as read:
            results(tasks.fail, ["read"])
        assert read.value.box == (1, 2, 3, 4)
        assert "in fail" in str(read.value.__cause__), "the traceback of the other process"
        with pytest.raises(tasks.Odd, match="one and two"):
            results(tasks.fail, ["odd"])


def test_a_process_that_is_killed_is_named_with_its_task_and_replaced(tasks: ModuleType) -> None:
    with shared_pool() as pool:
        begun(pool, tasks.end)
        with pytest.raises(WsikitError, match=rf"^{os.getpid()}: .*SIGKILL.*--workers"):
            results(tasks.end, [os.getpid()])
        begun(pool, tasks.place)
        assert len(results(tasks.place, [1, 2, 3])) == 3


def test_a_process_that_was_killed_while_it_had_nothing_to_do_is_left_out(tasks: ModuleType) -> None:
    with shared_pool() as pool:
        pids = begun(pool, tasks.place)
        os.kill(pids[0], signal.SIGKILL)
        pool._all[0].process.wait()
        assert {pid for _, pid, _ in results(tasks.place, [1, 2, 3]).values()} <= set(pids[1:]) | {os.getpid()}


def test_what_cannot_be_sent_is_done_here(tasks: ModuleType) -> None:
    with shared_pool() as pool:
        numbers: list[int] = []
        results(numbers.append, [lambda: 1])
        assert len(numbers) == 1
        assert pool._all == []
        begun(pool, tasks.unusual)
        assert results(tasks.unusual, [7])[7]() == 7, "its result cannot be sent"


def test_logs_and_warnings_come_up_here(tasks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with shared_pool() as pool:
        begun(pool, tasks.remark)
        with pytest.warns(UserWarning, match="a remark") as warned:
            assert results(tasks.remark, [5]) == {5: 5}, "what is printed is not taken for an answer"
    assert Path(warned[0].filename).name == "tasks_of_tests.py"
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("wsikit.remarks", "number 5")]
    assert caplog.records[0].levelno == logging.ERROR


def test_libraries_use_no_threads_in_a_worker_process(tasks: ModuleType) -> None:
    with shared_pool() as pool:
        begun(pool, tasks.threads)
        assert results(tasks.threads, [1]) == {1: (1, "1")}


@pytest.mark.parametrize("workers", [1, 8])
def test_little_work_or_one_worker_starts_no_process(
    workers: int, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "WorkerProcess", lambda: pytest.fail("a process was started"))
    if workers == 1:
        monkeypatch.setattr(worker_pool, "WORK_PER_PROCESS_S", 1e-6)
    store = tile(slide_path, tmp_path / "s.zarr", image=ImageParameters(tile_px=64), patch_px=96)
    with shared_pool() as pool:
        caption(store, executor=Executor(workers=workers))
        assert pool._threads == []


def test_captions_are_the_same_bit_for_bit(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "ROWS_PER_CHUNK", 25)
    store = tile(slide_path, tmp_path / "s.zarr", image=ImageParameters(tile_px=64), patch_px=64)
    table = caption(store, executor=Executor(workers=1))
    alone = table.read("caption"), table.read("caption_facts")
    for name in ("caption", "caption_facts"):
        table.drop(name)
    monkeypatch.setattr(columns, "_LEAST_ROWS", 4)
    monkeypatch.setattr(columns, "_PYTHON_S_PER_PIXEL", 1.0)
    with shared_pool() as pool:
        begun(pool, columns._compute_rows, Morphometry())
        monkeypatch.setattr(Morphometry, "caption", lambda *_, **__: pytest.fail("computed here"))
        table = caption(store, executor=Executor(workers=2))
    assert len(table) > 80
    assert np.array_equal(table.read("caption"), alone[0])
    assert np.array_equal(table.read("caption_facts"), alone[1], equal_nan=True)


def test_a_captioner_whose_process_is_killed_is_one_line_that_names_store_and_patches(
    tasks: ModuleType, slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tile(slide_path, tmp_path / "s.zarr", image=ImageParameters(tile_px=64), patch_px=96)
    table = store.patches()
    monkeypatch.setattr(columns, "_PYTHON_S_PER_PIXEL", 1.0)
    stage = caption_stage(store, table, tasks.Ends(os.getpid()))
    with shared_pool() as pool:
        begun(pool, columns._compute_rows, stage)
        with pytest.raises(WsikitError, match=r"s\.zarr: patches \d+ to \d+ of .*SIGKILL") as raised:
            fill_columns(store, table, [stage], Executor(workers=2))
    assert "\n" not in str(raised.value)
    assert "caption" not in table.columns()


SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell runs in the background
from wsikit.executor import Executor
from wsikit.worker import load
from wsikit.worker_pool import packed, shared_pool
print("ran", flush=True)
os.environ["PARENT"] = str(os.getpid())
sys.path.insert(0, {folder!r})
import tasks_of_tests as tasks

def own(number):
    return os.getpid()

pids = []
with shared_pool() as pool:
    Executor(workers=2).each(own, [1, 2, 3], lambda task, pid: pids.append(pid), python_s=1000.0)
    assert set(pids) == {{os.getpid()}} and not pool._all
    pool.start(packed(load, tasks.{function}), 1000.0, 2)
    while len(pool._idle) < 2:
        time.sleep(0.01)
    print(*(one.process.pid for one in pool._all), flush=True)
    Executor(workers=2).each(tasks.{function}, range(2), lambda task, _: print(task), python_s=1000.0)
"""


def script(tmp_path: Path, function: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A script without `if __name__ == "__main__"`, and its worker processes."""
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(tmp_path), function=function), encoding="utf-8")
    running = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ran\n"
    return running, [int(pid) for pid in running.stdout.readline().split()]


def gone(pids: list[int]) -> bool:
    for _ in range(100):
        if not any(is_alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def test_a_script_without_a_guard_runs_once_and_what_it_defines_is_done_in_its_own_process(
    tasks: ModuleType, tmp_path: Path
) -> None:
    running, pids = script(tmp_path, "place")
    out, err = running.communicate(timeout=30)
    assert (sorted("".join(out.split())), err, running.returncode) == (["0", "1"], "", 0)  # two write at once
    assert gone(pids)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(tasks: ModuleType, tmp_path: Path, stop: signal.Signals) -> None:
    running, pids = script(tmp_path, "slow")
    assert len(pids) == 2
    assert all(is_alive(pid) for pid in pids)
    time.sleep(0.2)
    running.send_signal(stop)
    _, err = running.communicate(timeout=30)
    assert gone(pids)
    if stop == signal.SIGINT:
        assert "KeyboardInterrupt" in err
        assert "wsikit.worker" not in err, "the worker processes end silently"


@pytest.mark.skipif(sys.platform != "linux", reason="by signals of Linux")
def test_nor_does_one_that_hangs_in_a_library_that_keeps_pythons_lock(tasks: ModuleType, tmp_path: Path) -> None:
    running, pids = script(tmp_path, "hang")
    time.sleep(0.5)
    assert all(is_alive(pid) for pid in pids)
    running.kill()
    running.communicate(timeout=30)
    assert gone(pids)
