"""Independent tasks on threads, processes or a running Dask cluster. Independent of slides.

Tasks and results are small and picklable, without pixels. An error stops the other tasks and is raised at once.
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
    """Number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


@dataclass(frozen=True)
class Executor:
    """Where and how tasks run.

    Attributes
    ----------
    scheduler
        "threads", "processes", or the address of a running Dask scheduler such as "tcp://10.0.0.5:8786".
    workers
        Number of threads or processes; None: one per CPU. A running cluster has its own workers.

    Raises
    ------
    RequestError
        The scheduler or the number of workers is not possible.

    Examples
    --------
    >>> Executor(workers=2).map(abs, [-1, -2, 3])
    [1, 2, 3]
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
        """Results of `function` in the order of `tasks`. `on_done` is called at the end of each task."""
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
            # released before the workers stop, or the scheduler would compute them again
            client.cancel(futures)
        return [results[index] for index in range(len(tasks))]


def _check_workers(client: Any, scheduler: str) -> None:
    """RequestError if workers have no wsikit: they would drop every task, and the run would wait forever."""
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

    # the index is the argument, not the task: Dask would traverse a task that is a dataclass.
    # The graph is built directly: dask.delayed would cost a millisecond per task
    graph = {("task", index): (carry_out, index) for index in range(len(tasks))}
    return list(get(graph, list(graph), num_workers=workers))


def _ignore(task: Any) -> None:
    return None
