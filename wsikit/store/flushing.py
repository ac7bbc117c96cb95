"""Flushing of many files to the disk: begun as soon as each is written, waited for once.

A flush waits for the disk, and on a journaling file system for its journal too. One after the other, the flushes of a
store's files take longer than writing them; here the disk works while the next files are made, and the journal is
written once for many files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from wsikit.errors import StoreError
from wsikit.store.paths import is_local

_WRITE, _WRITE_AND_WAIT = 2, 1 | 2 | 4
"""Linux's SYNC_FILE_RANGE flags: begin to write what is not yet on the disk; and wait until that is done."""

_ROUND = 16
"""Files that a thread flushes together while others are written. A small slide has fewer: no thread is started."""

_MOST_ROUNDS = 4
"""That may wait for the disk. Files are open until they are flushed, and few systems allow less than 256 of them."""

_THREADS = 8
"""Where the system cannot begin a flush without waiting for it: many flushes at once take about the time of one."""

_File = tuple[Path, int]
"""A file and its descriptor."""


class Flushing:
    """Files that are flushed together. Each must be complete, under its final name. Thread-safe.

    On leaving the context without an error, all of them are on the disk, with their names.

    >>> import tempfile
    >>> from wsikit.store.atomic import write_bytes
    >>> with tempfile.TemporaryDirectory() as folder, Flushing() as flushing:
    ...     write_bytes(f"{folder}/a", b"1", sync=False)
    ...     flushing.add(Path(folder, "a"))
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[_File] = []
        self._rounds: deque[Future[None]] = deque()
        self._thread: ThreadPoolExecutor | None = None

    def add(self, path: Path) -> None:
        """Begin to flush a file. Nothing to do at a URL.

        Raises
        ------
        StoreError
            The disk did not take this file, or one that was added before.
        """
        if not is_local(path):
            return
        descriptor = os.open(path, os.O_RDONLY)
        begin_flush(descriptor)
        late = None
        with self._lock:
            self._open.append((path, descriptor))
            if len(self._open) >= _ROUND:
                self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="wsikit-flush")
                self._rounds.append(self._thread.submit(_flush_all, self._open))
                self._open = []
                late = self._rounds.popleft() if len(self._rounds) > _MOST_ROUNDS else None
        if late is not None:
            late.result()

    def wait(self) -> None:
        """Return when all files are on the disk; StoreError if one could not be written."""
        with self._lock:
            waiting, self._open = self._open, []
            rounds, self._rounds = self._rounds, deque()
        try:
            _flush_all(waiting)
        finally:
            faults = [fault for fault in (done.exception() for done in rounds) if fault is not None]
        if faults:
            raise faults[0]

    def __enter__(self) -> Flushing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            for _, descriptor in self._open:
                os.close(descriptor)
            self._open = []


def begin_flush(descriptor: int) -> None:
    """Let the disk begin to write a file, without waiting, where the system can do that. Errors appear at the flush."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _WRITE)


def _flush_all(files: list[_File]) -> None:
    if not files:
        return
    try:
        if _sync_file_range is None and len(files) > 1:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(_flush_one, files))
            return
        for _, descriptor in files:
            # all content first: the journal is then written once, by the first flush, and not once per file
            if _sync_file_range is not None:
                _sync_file_range(descriptor, 0, 0, _WRITE_AND_WAIT)
        for file in files:
            _flush_one(file)
    finally:
        for _, descriptor in files:
            os.close(descriptor)


def _flush_one(file: _File) -> None:
    path, descriptor = file
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or errno.errorcode.get(error.errno or 0)}). Free disk space "
            "or repair the drive, and run again: what is written is kept."
        ) from error


def _find_sync_file_range() -> Callable[[int, int, int, int], Any] | None:
    """Linux's call, which Python does not offer; None on other systems."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        found = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    found.restype = ctypes.c_int
    call: Callable[[int, int, int, int], Any] = found
    return call


_sync_file_range = _find_sync_file_range()
