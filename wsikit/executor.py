"""Many independent tasks on threads, processes or a running Dask cluster. Knows nothing of slides.

A task is small and picklable, and carries no pixels; its result is small too. An error stops the rest and comes up
at once.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from wsikit.errors import RequestError

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


@dataclass(frozen=True)
class Executor:
    """Where tasks run.

    Attributes
    ----------
    scheduler
        "threads", "processes", or the address of a running Dask scheduler such as "tcp://10.0.0.5:8786".
    workers
        Threads or processes at once; None for one per CPU. A running cluster has its own number.
    """

    scheduler: str = "threads"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.scheduler not in ("threads", "processes") and "://" not in self.scheduler:
            raise RequestError(
                f"scheduler {self.scheduler!r}: expected threads, processes or an address such as tcp://host:8786"
            )
        if self.workers is not None and self.workers < 1:
            raise RequestError(f"{self.workers} workers: expected 1 or more")

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        on_done: Callable[[Task], None] | None = None,
    ) -> list[Result]:
        """Results in the order of `tasks`; `on_done` is called as each task ends. One Dask task per task."""
        if not tasks:
            return []
        done = on_done or _ignore
        if self.scheduler == "threads":
            return _map_on_threads(function, tasks, self.workers or available_cpus(), done)
        return self._map_on_cluster(function, tasks, done)

    def _map_on_cluster(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Task], None]
    ) -> list[Result]:
        import distributed

        untyped: Any = distributed  # the library has no type hints

        with contextlib.ExitStack() as stack:
            target: Any = self.scheduler
            if self.scheduler == "processes":
                count = self.workers or available_cpus()
                target = stack.enter_context(
                    untyped.LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
                )
            client = stack.enter_context(untyped.Client(target))
            _check_workers(client, self.scheduler)
            futures = client.map(function, tasks, pure=False)
            index_of = {future.key: index for index, future in enumerate(futures)}
            results: dict[int, Result] = {}
            for future, result in untyped.as_completed(futures, with_results=True):
                results[index_of[future.key]] = result
                done(tasks[index_of[future.key]])
            # released before the workers go, or the scheduler would try to compute them again
            client.cancel(futures)
        return [results[index] for index in range(len(tasks))]


def _check_workers(client: Any, scheduler: str) -> None:
    """Workers without wsikit would drop every task unread, and the run would wait for ever."""
    from importlib.util import find_spec

    found = client.run(find_spec, "wsikit")
    without = [address for address, spec in found.items() if spec is None]
    if not found or without:
        what = f"no wsikit on {', '.join(without)}" if without else "it has no workers"
        raise RequestError(f"scheduler {scheduler}: {what}. Start workers in an environment where wsikit is installed.")


def _map_on_threads(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, done: Callable[[Task], None]
) -> list[Result]:
    from dask.threaded import get

    def carry_out(index: int) -> Result:
        result = function(tasks[index])
        done(tasks[index])  # not by Dask's callbacks, which are global: two maps may run in two threads
        return result

    # the index is the argument, not the task: Dask would walk through a task that is a dataclass.
    # Dask's scheduler itself: building the same graph by dask.delayed costs a millisecond per task
    graph = {("task", index): (carry_out, index) for index in range(len(tasks))}
    return list(get(graph, list(graph), num_workers=workers))


def _ignore(task: Any) -> None:
    return None
