"""A worker process: carries out tasks that arrive on a pipe. `wsikit.worker_pool` starts it.

It is a new Python without the user's `__main__`. It ends as soon as the pipe does, so that it never outlives the
process that started it, however that one ended. Log records and warnings go back with each answer.
"""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TextIO

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Request:
    """A task."""

    work: bytes
    """(function, task), pickled."""
    folder: str
    """Working folder of the process that asks: paths in tasks may be relative."""
    log_level: int


@dataclass(frozen=True)
class Answer:
    """What became of a request."""

    result: Any = None
    error: BaseException | None = None
    trace: str = ""
    """The error's traceback, as text."""
    not_possible: bool = False
    """This task cannot be loaded here, or its result or error cannot be sent: the process that asks must do it."""
    notes: list[Any] = field(default_factory=list)
    """Log records, and the arguments of `warnings.warn_explicit`."""


class PipeError(Exception):
    """The pipe ended within a message, or before one."""


def send(pipe: BinaryIO, message: bytes) -> None:
    """Write one message."""
    pipe.write(_LENGTH.pack(len(message)) + message)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes:
    """Read one message; PipeError if the other side has ended."""
    return _exactly(pipe, _LENGTH.unpack(_exactly(pipe, _LENGTH.size))[0])


def _exactly(pipe: BinaryIO, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise PipeError
    return data


def serve(lifeline: int | None = None) -> None:
    """Answer requests until the pipe ends. `lifeline`: see `end_with`."""
    if lifeline is not None:
        end_with(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides what Ctrl-C means
    requests, answers = _own_pipes()
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                waiting.put(receive(requests))
            except (PipeError, OSError):
                os._exit(0)  # also in the middle of a task: nothing is written by this process

    threading.Thread(target=listen, name="wsikit-listen", daemon=True).start()
    notes = _Notes()
    while True:
        answer = _answer(pickle.loads(waiting.get()), notes)
        try:
            send(answers, answer)
        except OSError:
            os._exit(0)


def end_with(pipe: int) -> None:
    """The system ends this process when the other end of a pipe is closed, into which nothing is written.

    For the end of the process that asks: the thread that listens cannot notice it while a library that hangs keeps
    Python's lock. Linux only.
    """
    if sys.platform == "linux":
        import fcntl

        signal.signal(signal.SIGIO, signal.SIG_DFL)  # ends the process
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes of requests and answers, as copies: what a library prints must not get between the answers."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2 if _is_open(2) else nothing, 1)
    os.close(nothing)
    return requests, answers


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


class _Notes(logging.Handler):
    """Keeps log records and warnings, for the process that asks to show or to ignore."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []
        logging.getLogger().addHandler(self)
        warnings.simplefilter("always")
        warnings.showwarning = self._warned

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        record.exc_info = None
        self._kept.append(record)

    def _warned(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        self._kept.append((message, category, filename, lineno))

    def taken(self) -> list[Any]:
        """What was kept since the last call."""
        kept, self._kept = self._kept, []
        return kept


def _answer(request: Request, notes: _Notes) -> bytes:
    logging.getLogger().setLevel(request.log_level)
    if os.getcwd() != request.folder:
        os.chdir(request.folder)
    try:
        function, task = pickle.loads(request.work)
    except Exception:
        notes.taken()
        return pickle.dumps(Answer(not_possible=True, trace=traceback.format_exc()))
    try:
        answer = Answer(function(task), notes=notes.taken())
    except BaseException as error:
        answer = Answer(error=error, trace=traceback.format_exc(), notes=notes.taken())
    try:
        packed = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
        if answer.error is not None and not _alike(pickle.loads(packed).error, answer.error):
            raise pickle.PicklingError(str(answer.error))
    except Exception:
        return pickle.dumps(Answer(not_possible=True, trace=traceback.format_exc()))
    return packed


def _alike(one: BaseException, other: BaseException) -> bool:
    return type(one) is type(other) and str(one) == str(other)


def load(what: object) -> None:
    """A task that only loads what it is pickled from."""


def import_modules(names: Iterable[str]) -> None:
    """A task that imports modules for later ones."""
    for name in names:
        importlib.import_module(name)


def command(lifeline: int | None = None) -> list[str]:
    """The command line of a worker process with the options, warnings and module path of this one."""
    import subprocess

    options: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    path = [entry for entry in sys.path if isinstance(entry, str)]
    code = f"import sys; sys.path[:] = {path!r}; from wsikit.worker import serve; serve({lifeline})"
    return [sys.executable, *options, "-c", code]
