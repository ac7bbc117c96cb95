"""Tasks on threads, on processes and on a running Dask cluster."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import wait
from operator import attrgetter
from typing import Any

import pytest

from wsikit import clusters, executor
from wsikit.errors import RequestError, UnreachableError
from wsikit.executor import Executor
from wsikit.geometry import PatchGrid

TASKS = [PatchGrid((100, 100), (1.0, 1.0), side, 1.0) for side in range(1, 8)]


def side_of(grid: PatchGrid) -> int:
    return grid.patch_px


def fail_on_three(grid: PatchGrid) -> int:
    if grid.patch_px == 3:
        raise ValueError("three")
    return grid.patch_px


def process_of(_: PatchGrid) -> int:
    return os.getpid()


def test_results_keep_the_order_of_the_tasks_and_each_end_is_reported() -> None:
    ended: list[int] = []
    results = Executor(workers=3).map(side_of, TASKS, on_done=lambda task: ended.append(task.patch_px))
    assert results == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(ended) == results


def test_an_error_is_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="three"):
        Executor(workers=2).map(fail_on_three, TASKS)


def test_after_an_error_no_further_task_begins_and_none_is_running() -> None:
    begun: list[int] = []
    running: set[int] = set()

    def work(number: int) -> None:
        begun.append(number)
        running.add(number)
        try:
            threading.Event().wait(0.02)
            if number == 1:
                raise ValueError("one")
        finally:
            running.remove(number)

    with pytest.raises(ValueError, match="one"):
        Executor(workers=2).map(work, range(100))
    assert len(begun) < 20
    assert running == set()


def test_no_worker_begins_a_task_before_the_waiting_thread_hears_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    both, third = threading.Barrier(2, timeout=20), threading.Event()

    def late(*futures: Any, **options: Any) -> Any:
        threading.Event().wait(0.1)  # as on a busy machine
        return wait(*futures, **options)

    monkeypatch.setattr(executor, "wait", late)

    def work(number: int) -> None:
        begun.append(number)
        if number < 2:
            both.wait()
        if number == 0:
            raise ValueError("zero")
        if number == 1:
            third.wait(0.3)
        if number > 1:
            third.set()

    with pytest.raises(ValueError, match="zero"):
        Executor(workers=2).map(work, range(9))
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_each_gives_every_result_with_its_task_as_soon_as_it_is_there(scheduler: str) -> None:
    found: dict[int, int] = {}
    Executor(scheduler, workers=2).each(abs, [-3, -2, -1], found.__setitem__)
    assert found == {-3: 3, -2: 2, -1: 1}


def test_no_tasks_give_no_results() -> None:
    assert Executor("tcp://nowhere:1").map(side_of, []) == []


def test_a_running_cluster_takes_the_tasks() -> None:
    from distributed import LocalCluster

    # functions that the workers can import: this module is not there for them
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        cluster_executor = Executor(cluster.scheduler_address)
        assert cluster_executor.map(attrgetter("patch_px"), TASKS) == [1, 2, 3, 4, 5, 6, 7]
        with pytest.raises(AttributeError, match="no_such_thing"):
            cluster_executor.map(attrgetter("no_such_thing"), TASKS)


def test_a_cluster_without_workers_is_refused_instead_of_waited_for() -> None:
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, processes=True, dashboard_address=None) as cluster,
        pytest.raises(RequestError, match="no workers"),
    ):
        Executor(cluster.scheduler_address).map(side_of, TASKS)


def test_a_cancelled_future_is_an_error_and_no_result() -> None:
    """Its `result()` does not raise where futures come with results: it is the error itself."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        future = client.submit(time.sleep, 0.2)
        future.cancel()
        with pytest.raises(UnreachableError, match="tcp://host:1: gone"):
            clusters.check_future(future, "tcp://host:1", "a task")


@pytest.mark.parametrize(
    ("scheduler", "workers", "gpus"),
    [("thread", None, 0), ("threads", 0, 0), ("threads", 2, 1), ("tcp://host:1", None, 1), ("processes", 2, 3)],
)
def test_an_impossible_executor_is_refused(scheduler: str, workers: int | None, gpus: int) -> None:
    with pytest.raises(RequestError):
        Executor(scheduler, workers, gpus)


def test_workers_without_a_gpu_see_none_that_another_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    found = [clusters._device_of(number, clusters._visible_devices(2)) for number in range(3)]
    assert [options["env"]["CUDA_VISIBLE_DEVICES"] for options in found] == ["4", "7", ""]
    assert [options.get("resources") for options in found] == [{"GPU": 1}, {"GPU": 1}, None]
    assert clusters._device_of(0, clusters._visible_devices(0)) == {}


def test_threads_share_this_process() -> None:
    assert set(Executor(workers=2).map(process_of, TASKS)) == {os.getpid()}
    assert threading.active_count() >= 1
