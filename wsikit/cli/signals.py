"""SIGINT, SIGTERM and SIGHUP end a verb: the first one at its next safe point, a second one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

_SAME_S = 0.25
"""Signals that follow within this time are one: a scheduler sends them to a process and to its group."""

_DEFAULTS = {"SIGINT": signal.default_int_handler, "SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_DFL}


class Terminated(BaseException):
    """SIGTERM, from a scheduler or the system, or SIGHUP, as a terminal is closed. Ends a verb as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        """Of the signal."""


class _Ending:
    """The handler of all of these signals."""

    def __init__(self) -> None:
        self._first: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise Terminated(number)
        if now - self._first < _SAME_S:
            return
        with contextlib.suppress(OSError):  # not through a stream: the signal may have come while one was written to
            os.write(2, b"wsikit: ended at once. What is complete is kept; run the same command again to continue.\n")
        os._exit(128 + number)


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Within it, these signals end the verb; a signal that has a handler, or is ignored (nohup), stays as it is.

    Nothing changes outside of the main thread.
    """
    ending, replaced = _Ending(), {}
    with contextlib.suppress(ValueError):
        for name, default in _DEFAULTS.items():
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is default:
                signal.signal(number, ending)
                replaced[number] = default
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            for number, default in replaced.items():
                if signal.getsignal(number) is ending:
                    signal.signal(number, default)
