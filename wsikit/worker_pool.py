"""Worker processes on this machine, for work that is mostly Python: threads would wait for each other there.

They start when work pays for it, while this process begins the work itself; all slides of a run share them. A task
that cannot be sent (a class of a notebook, an object that cannot be pickled) is carried out in this process. See
decision 22.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, BinaryIO, TypeVar

from wsikit import worker
from wsikit.errors import WsikitError
from wsikit.memory import available_memory
from wsikit.worker import Answer, PipeError, Request

Task = TypeVar("Task")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

WORK_PER_PROCESS_S = 0.6
"""One process is started per so much work, if that makes two: each needs half a second of a processor to start."""

LARGEST_TASK = 16 << 20
"""Bytes of a pickled task. A larger one, such as a captioner with weights, would be copied into each process."""

MEMORY_PER_PROCESS = 300 << 20
"""Of the memory that is free when processes start, they may take half, counted with so many bytes each."""

_ENDS_WITHIN_S = 5.0

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OPENCV_FOR_THREADS_NUM"),
    "1",
)
"""Environment of a worker process: libraries use no threads of their own."""


class _RemoteError(Exception):
    """Traceback of an error in a worker process, as text: the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Pickler(pickle.Pickler):
    """Refuses classes and functions of `__main__`, which a worker process does not have."""

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
            raise pickle.PicklingError(f"{thing.__qualname__} is defined in __main__")
        return NotImplemented


def packed(function: Callable[..., Any], task: object) -> bytes | None:
    """(function, task), pickled for a worker process; None if it cannot be sent to one."""
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump((function, task))
    except Exception as error:  # whatever a captioner's __reduce__ raises
        logger.info("not on worker processes: %s", error)
        return None
    return buffer.getvalue() if buffer.tell() <= LARGEST_TASK else None


def is_possible() -> bool:
    """Whether this Python can be started again: not in a frozen program, nor embedded in another one."""
    name = os.path.basename(sys.executable or "").lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)


class WorkerProcess:
    """One worker process.

    Parameters
    ----------
    one_thread
        Whether libraries in it use one thread each, as many processes would else compete for the processors.
    """

    def __init__(self, *, one_thread: bool = True) -> None:
        self.ready = False
        """Whether it has loaded what its tasks need."""
        self._using = threading.Lock()
        self._lifeline: BinaryIO | None = None
        apart: dict[str, Any] = {"start_new_session": True}  # Ctrl-C in a terminal reaches this process only
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        theirs: int | None = None
        if sys.platform == "linux":
            theirs, own = os.pipe()
            self._lifeline = os.fdopen(own, "wb")  # closed with this object, or this process
            apart["pass_fds"] = (theirs,)
        try:
            self.process = subprocess.Popen(
                worker.command(theirs),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **(_ONE_THREAD if one_thread else {})},
                **apart,
            )
        finally:
            if theirs is not None:
                os.close(theirs)

    def ask(self, work: bytes) -> Answer:
        """Send one request and wait for its answer; PipeError if the process has ended."""
        level = min(logging.getLogger(name).getEffectiveLevel() for name in (None, "wsikit"))
        request = Request(work, os.getcwd(), level)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._using:
            try:
                worker.send(self.process.stdin, pickle.dumps(request))  # type: ignore[arg-type]
                answer: Answer = pickle.loads(worker.receive(self.process.stdout))  # type: ignore[arg-type]
            except (OSError, ValueError) as error:  # ValueError: the pipe was closed here
                raise PipeError from error
        return answer

    def hang_up(self) -> None:
        """Ask the process to end; one that computes ends in the middle of it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def close(self) -> None:
        """End the process and wait for its end."""
        self.hang_up()
        assert self.process.stdout is not None
        try:
            self.process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self._lifeline is not None:
            self._lifeline.close()
        if self._using.acquire(timeout=_ENDS_WITHIN_S):
            self.process.stdout.close()
            self._using.release()

    def how_it_ended(self) -> str:
        """In words."""
        status: int = self.process.returncode
        if status >= 0:
            return f"exit status {status}"
        with contextlib.suppress(ValueError):
            return f"signal {-status}, {signal.Signals(-status).name}"
        return f"signal {-status}"


def _is_done(answer: Answer) -> bool:
    if answer.trace:
        logger.info("a worker process cannot do its work: %s", answer.trace)
    return not answer.trace


class WorkerPool:
    """Worker processes, started by and by, and closed together. Threads may share it."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._idle: list[WorkerProcess] = []
        self._all: list[WorkerProcess] = []
        self._starting = 0
        self._closed = self._failed = self._works_here = False
        self._seconds = 0.0
        self._warned: dict[str | tuple[str, type[Warning], int], int] = {}

    def add_work(self, seconds: float) -> float:
        """Seconds of work of this pool so far, with these: one slide may have too few patches, many of them enough."""
        with self._changed:
            self._seconds += seconds
            return self._seconds

    def start(self, work: bytes, seconds: float, most: int) -> int:
        """Begin to start the processes that pay for so many seconds of work; each begins with the task `work`.

        Returns their number, at most `most`, with those that were there; 0: work is better done in this process.
        """
        wanted = min(most, int(seconds / WORK_PER_PROCESS_S))
        with self._changed:
            there = len(self._all) + self._starting
            if wanted < 2 or wanted <= there or self._failed or self._closed or not is_possible():
                return min(there, most)
            new = min(wanted - there, available_memory() // 2 // MEMORY_PER_PROCESS)
            self._starting += new
            threads = [threading.Thread(target=self._start, args=(work,), daemon=True) for _ in range(new)]
            self._threads += threads
        for thread in threads:
            thread.start()
        return there + new

    def _start(self, work: bytes) -> None:
        started, ready = None, False
        try:
            started = WorkerProcess()
            with self._changed:
                self._starting -= 1
                if not self._closed:
                    self._all.append(started)
            ready = started is not None and started in self._all and _is_done(started.ask(work))
        except (OSError, PipeError) as error:
            logger.info("a worker process did not start: %s", error)
        with self._changed:
            self._starting -= started is None
            if started is not None and ready and not self._closed:
                started.ready = True
                self._idle.append(started)
            else:
                self._failed = True
            self._changed.notify_all()
        if started is not None and not ready:
            self._drop(started)

    def call(self, function: Callable[[Task], Result], task: Task) -> Result:
        """The result of a task: of a worker process, or computed here while there is none.

        Raises
        ------
        WsikitError
            The worker process ended before its answer: killed, as by a system without memory, or crashed.
        """
        work = packed(function, task)
        free = self._take() if work is not None else None
        if free is None or work is None:
            try:
                return function(task)
            finally:
                with self._changed:
                    self._works_here = False
                    self._changed.notify_all()
        try:
            answer = free.ask(work)
        except PipeError:
            self._drop(free)
            raise WsikitError(
                f"{task}: the worker process that computed this ended ({free.how_it_ended()}). If the memory of this "
                "machine is too small, use fewer workers (--workers); what is complete is kept, run again to continue."
            ) from None
        except BaseException:
            self._drop(free)  # its answer was not read
            raise
        with self._changed:
            self._idle.append(free)
            self._changed.notify()
        for note in answer.notes:
            self._show(note)
        if answer.not_possible:
            logger.info("not on a worker process: %s", answer.trace)
            return function(task)
        if answer.error is not None:
            if answer.error.__cause__ is None:
                answer.error.__cause__ = _RemoteError(answer.trace)
            raise answer.error
        result: Result = answer.result
        return result

    def _take(self) -> WorkerProcess | None:
        """A process that is free, waited for if necessary; None if this process must do the work.

        While processes start, one thread works here; further ones would only wait for each other.
        """
        with self._changed:
            while self._all or self._starting:
                while self._idle:
                    free = self._idle.pop()
                    if free.process.poll() is None:
                        return free
                    self._all.remove(free)  # it was killed while it had nothing to do
                    free.close()
                if not self._works_here and not any(one.ready for one in self._all):
                    self._works_here = True
                    return None
                self._changed.wait()
        return None

    def _drop(self, ended: WorkerProcess) -> None:
        with self._changed:
            if ended in self._all:
                self._all.remove(ended)
            self._changed.notify_all()
        ended.close()

    def _show(self, note: Any) -> None:
        """A log record or a warning of a worker process, as if it had come up here."""
        if isinstance(note, logging.LogRecord):
            target = logging.getLogger(note.name)
            if target.isEnabledFor(note.levelno):
                target.handle(note)
        else:
            message, category, filename, lineno = note
            warnings.warn_explicit(message, category, filename, lineno, registry=self._warned)

    def close(self) -> None:
        """End all processes; what they compute is lost."""
        if os.getpid() != self.pid:
            return  # this process is a copy of the one that started them
        with self._changed:
            self._closed = True
            ending, self._all, self._idle = self._all, [], []
            self._changed.notify_all()
        for one in ending:
            one.hang_up()
        for one in ending:
            one.close()
        for thread in self._threads:
            thread.join(_ENDS_WITHIN_S)


_lock = threading.Lock()
_pool: WorkerPool | None = None
_users = 0


@contextlib.contextmanager
def shared_pool() -> Iterator[WorkerPool]:
    """The pool of this process, for all that use it at the same time; its processes end with the last use."""
    global _pool, _users
    with _lock:
        if _pool is None or _pool.pid != os.getpid():
            _pool, _users = WorkerPool(), 0
        used = _pool
        _users += 1
    try:
        yield used
    finally:
        with _lock:
            last = _pool is used and _users == 1
            _users -= _pool is used
            if last:
                _pool = None
        if last:
            used.close()


def _close_at_exit() -> None:
    if _pool is not None:
        _pool.close()


atexit.register(_close_at_exit)
