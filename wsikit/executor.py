"""Independent tasks on threads, processes or a running Dask cluster. Independent of slides.

Tasks and results are small and picklable, without pixels. An error stops the other tasks and is raised at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

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
    gpus
        How many of the processes hold one GPU each; work on a device goes to them. The workers of a running cluster
        declare theirs (docs/cluster.md).

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
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.scheduler not in ("threads", "processes") and "://" not in self.scheduler:
            raise RequestError(
                f"scheduler {self.scheduler!r}: expected threads, processes or an address such as tcp://host:8786"
            )
        if self.workers is not None and self.workers < 1:
            raise RequestError(f"{self.workers} workers: expected 1 or more")
        if self.gpus and self.scheduler != "processes":
            raise RequestError(
                f"--gpus {self.gpus} with scheduler {self.scheduler}: it is for --scheduler processes. The workers of "
                "a running cluster declare theirs (dask worker --resources GPU=1)."
            )
        if not 0 <= self.gpus <= (self.workers or available_cpus()):
            raise RequestError(
                f"--gpus {self.gpus}: expected 0 to {self.workers or available_cpus()}, the number of workers, of "
                "which each holds one GPU"
            )

    def map(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        on_done: Callable[[Task], None] | None = None,
    ) -> list[Result]:
        """Results of `function` in the order of `tasks`. `on_done` is called at the end of each task."""
        results: dict[int, Result] = {}

        def keep(index: int, result: Result) -> None:
            results[index] = result
            if on_done is not None:
                on_done(tasks[index])

        self._carry_out(function, tasks, keep)
        return [results[index] for index in range(len(tasks))]

    def each(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        on_result: Callable[[Task, Result], None],
        *,
        python_s: float = 0.0,
    ) -> None:
        """As `map`, but each result is given to `on_result` as soon as it is there, and is not kept.

        `on_result` runs in this process, on threads several calls at a time.

        Parameters
        ----------
        python_s
            About how many seconds of one processor all tasks take, if that is mostly Python: threads would wait for
            each other. Where it pays, worker processes carry the tasks out, and the threads wait for them. Tasks that
            cannot be pickled, and one worker, stay in this process. The results are the same.

        >>> Executor(workers=1).each(abs, [-1, 2], lambda task, result: print(task, result))
        -1 1
        2 2
        """

        def keep(index: int, result: Result) -> None:
            on_result(tasks[index], result)

        workers = self.workers or available_cpus()
        if self.scheduler != "threads" or not tasks or workers == 1 or not python_s:
            self._carry_out(function, tasks, keep)
            return
        from wsikit.worker import load
        from wsikit.worker_pool import packed, shared_pool

        with shared_pool() as pool:
            seconds, work = pool.add_work(python_s), packed(load, (function, tasks[0]))
            processes = 0 if work is None else pool.start(work, seconds, workers)
            if not processes:
                self._carry_out(function, tasks, keep)
                return
            _on_threads(lambda task: pool.call(function, task), tasks, processes, keep, pool.close)

    def get_ready(self, modules: Sequence[str], python_s: float) -> None:
        """Begin to start worker processes for later calls of `each` that take about `python_s`, if they would pay.

        They import `modules`, in the background. For a caller that keeps `wsikit.worker_pool.shared_pool` in use.
        """
        workers = self.workers or available_cpus()
        if self.scheduler == "threads" and workers > 1:
            from wsikit.worker import import_modules
            from wsikit.worker_pool import packed, shared_pool

            work = packed(import_modules, tuple(modules))
            assert work is not None
            with shared_pool() as pool:
                pool.start(work, python_s, workers)

    def _carry_out(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], on_result: Callable[[int, Result], None]
    ) -> None:
        if not tasks:
            return
        if self.scheduler == "threads":
            _on_threads(function, tasks, self.workers or available_cpus(), on_result)
        else:
            self._on_cluster(function, tasks, on_result)

    def _on_cluster(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], on_result: Callable[[int, Result], None]
    ) -> None:
        from wsikit.clusters import carry_out, connected

        with connected(self.scheduler, self.workers or available_cpus(), self.gpus) as client:
            carry_out(client, self.scheduler, function, tasks, on_result)


def _on_threads(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int,
    on_result: Callable[[int, Result], None],
    interrupt: Callable[[], None] = lambda: None,
) -> None:
    """`interrupt` ends tasks that run, when the work is stopped and none of its results will be used."""
    stopped = threading.Event()

    def carry_out(index: int) -> None:
        if stopped.is_set():
            return
        try:
            on_result(index, function(tasks[index]))
        except BaseException:
            stopped.set()  # here: the waiting thread may not run before the other workers have begun further tasks
            raise

    with ThreadPoolExecutor(min(workers, len(tasks)), thread_name_prefix="wsikit-worker") as pool:
        running = [pool.submit(carry_out, index) for index in range(len(tasks))]
        try:
            for ended in wait(running, return_when=FIRST_EXCEPTION).done:
                ended.result()
        except BaseException as error:
            stopped.set()
            if not isinstance(error, Exception):
                interrupt()
            pool.shutdown(wait=False, cancel_futures=True)  # those that run are waited for: they write files
            raise
