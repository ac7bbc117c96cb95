"""Dask clusters: worker processes of this machine, or a running scheduler. Independent of slides.

What is lost with the scheduler is an error, never a result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

from wsikit._version import __version__
from wsikit.errors import RequestError, UnreachableError, WsikitError
from wsikit.memory import available_memory

Task = TypeVar("Task")
Result = TypeVar("Result")

_CONNECT_S = 20.0
"""A scheduler that does not answer within this time is not there."""

_CLOSE_S = 5.0

MEMORY_OF_WORKERS = 0.9
"""Share of the free memory that local workers get, in equal parts."""

LEAST_MEMORY = 1 << 30
"""Bytes that a worker needs for the libraries, a small model and the patches in hand."""

GPU = "GPU"
"""Name of the resource that workers with a GPU declare, as in `dask worker --resources GPU=1`."""

_seceded = threading.local()


@contextlib.contextmanager
def connected(scheduler: str, workers: int, gpus: int = 0) -> Iterator[Any]:
    """A `distributed.Client` of a running scheduler, or of `workers` processes that are started here.

    Within a task of that cluster it is the client of the task's worker, and the task no longer counts as one that the
    worker carries out: it may wait for other tasks without keeping a worker from them.

    Parameters
    ----------
    scheduler
        "processes", or the address of a running scheduler.
    workers, gpus
        Number of processes, and how many of them hold one GPU each; for "processes" only.

    Raises
    ------
    RequestError
        There are no workers, or wsikit is not installed there, or in another version.
    UnreachableError
        No scheduler answers at the address.
    """
    import distributed

    untyped: Any = distributed  # the library has no type hints
    inside = _worker_of_this_task(untyped)
    if inside is not None and scheduler != "processes":
        if getattr(_seceded, "task", None) != inside.get_current_task():
            untyped.secede()
            _seceded.task = inside.get_current_task()
        yield untyped.get_client()
        return
    with contextlib.ExitStack() as stack:
        target: Any = scheduler
        if scheduler == "processes":
            target = stack.enter_context(_local(untyped, workers, gpus))
        stack.enter_context(_quiet())
        client = _client(untyped, target, scheduler)
        stack.callback(_close, client)
        _check_workers(client, scheduler)
        yield client


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client's own words on a scheduler that is gone are left out: the error of the caller says it."""
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _worker_of_this_task(distributed: Any) -> Any:
    """The worker that carries out the calling task; None outside of tasks."""
    try:
        return distributed.get_worker()
    except ValueError:
        return None


def _client(distributed: Any, target: Any, scheduler: str) -> Any:
    try:
        return distributed.Client(target, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise UnreachableError(
            f"scheduler {scheduler}: no answer within {_CONNECT_S:g} s. Start it (dask scheduler), or give the address "
            "of one that runs."
        ) from error


def ask(client: Any, call: Callable[..., object], *arguments: Any, **options: Any) -> None:
    """Call a method of a client at the end of its work; a scheduler that is gone by then is not waited for."""
    if client.status == "running":
        with contextlib.suppress(Exception):
            call(*arguments, **options)


def _close(client: Any) -> None:
    with contextlib.suppress(Exception):  # its scheduler may be gone; nothing is left to be done with it
        client.close(timeout=_CLOSE_S)


def _local(distributed: Any, workers: int, gpus: int) -> Any:
    """Worker processes on this machine, each with one thread and a part of the memory; the first ones hold a GPU."""
    free = available_memory()
    limit = int(MEMORY_OF_WORKERS * free / workers) if free < 1 << 60 else 0  # 0: unknown, no limit
    if limit and limit < LEAST_MEMORY:
        raise RequestError(
            f"{workers} workers: {free / 1e9:.1f} GB of memory are free, {limit / 1e9:.1f} GB for each; a worker needs "
            f"{LEAST_MEMORY / 1e9:.1f} GB. Give fewer workers (--workers)."
        )
    devices = _visible_devices(gpus)
    options = {
        "nthreads": 1,
        "memory_limit": limit,
        "dashboard": False,
        "dashboard_address": None,
        "host": "127.0.0.1",
        "local_directory": tempfile.gettempdir(),
        "silence_logs": logging.CRITICAL,
    }
    return distributed.SpecCluster(
        scheduler={
            "cls": distributed.Scheduler,
            "options": {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": None},
        },
        workers={
            number: {"cls": distributed.Nanny, "options": options | _device_of(number, devices)}
            for number in range(workers)
        },
        name="wsikit",
        silence_logs=logging.CRITICAL,
    )


def _visible_devices(gpus: int) -> list[str]:
    """Names of the GPUs that `gpus` workers get, one each: of those that this process may see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return [names[number] if number < len(names) else str(number) for number in range(gpus)]


def _device_of(number: int, devices: Sequence[str]) -> dict[str, Any]:
    """Options of a worker that concern its GPU: workers without one must not use one that others hold."""
    if not devices:
        return {}
    if number >= len(devices):
        return {"env": {"CUDA_VISIBLE_DEVICES": ""}}
    return {"resources": {GPU: 1}, "env": {"CUDA_VISIBLE_DEVICES": devices[number]}}


def own_version() -> str:
    """Version of wsikit in the process that is asked."""
    return __version__


def _check_workers(client: Any, scheduler: str) -> None:
    """RequestError if workers have no wsikit, or another one: they would drop every task, and the run would wait."""
    found = client.run(find_spec, "wsikit")
    if not found:
        raise RequestError(f"scheduler {scheduler}: it has no workers. Start some (dask worker {scheduler}).")
    without = [address for address, spec in found.items() if spec is None]
    versions = client.run(own_version, on_error="return") if not without else {}
    other = [address for address, version in versions.items() if version != __version__]
    if without or other:
        what = f"no wsikit on {', '.join(without)}" if without else f"not wsikit {__version__} on {', '.join(other)}"
        raise RequestError(
            f"scheduler {scheduler}: {what}. Start workers in an environment where wsikit {__version__} is installed."
        )


def carry_out(
    client: Any,
    scheduler: str,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    on_result: Callable[[int, Result], None],
    **options: Any,
) -> None:
    """Carry out tasks on a cluster; `on_result` is called with the index and the result of each as it is there.

    Parameters
    ----------
    options
        For `Client.map`, such as the resources that each task asks for.

    Raises
    ------
    UnreachableError
        The scheduler is gone, or was restarted.
    Exception
        The first error of a task; those that were not begun are not carried out.
    """
    import distributed

    untyped: Any = distributed
    futures = client.map(function, tasks, pure=False, **options)
    index_of = {future.key: index for index, future in enumerate(futures)}
    try:
        for future in untyped.as_completed(futures, loop=client.loop):
            index = index_of[future.key]
            check_future(future, scheduler, tasks[index])
            on_result(index, future.result())
    finally:
        # released before the workers stop, or the scheduler would compute them again
        ask(client, client.cancel, futures)


def check_future(future: Any, scheduler: str, what: object) -> None:
    """Raise what ended a future that has no result.

    Raises
    ------
    UnreachableError
        It was cancelled: the scheduler is gone, or was restarted.
    WsikitError
        The workers that worked on it died.
    Exception
        Of the task, unchanged.
    """
    import distributed

    if future.status == "finished":
        return
    if future.status != "error":
        raise gone(scheduler)
    error = future.exception()
    if isinstance(error, distributed.KilledWorker):
        raise WsikitError(f"{what}: the workers that worked on it died. Perhaps their memory is too small.") from error
    raise error


def gone(scheduler: str) -> UnreachableError:
    """The error of a scheduler that was there and is there no longer."""
    where = "the local scheduler process" if scheduler == "processes" else f"scheduler {scheduler}"
    return UnreachableError(
        f"{where}: gone, or restarted, while it worked. What is complete is kept: start it again with its workers and "
        "run the same command again."
    )
