"""Slides without progress: a reader that hangs in a library would hold up a batch for ever.

Watched are the stages that read the slide; a model or a captioner may think for long. A slide that stalls is named.
Where this process was started by wsikit, it ends itself by `SIGNAL`: a process that hangs in C cannot be interrupted
otherwise. Its slides are then done as those of a process that crashed (`wsikit.batch.begun`, `wsikit.batch.apart`).
A library that keeps Python's lock stops the thread that watches, too: then a timer of the system ends the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

VARIABLE = "WSIKIT_STALLED_AFTER"
"""Environment variable: minutes; 0: never."""

DEFAULT_MIN = 30.0
"""A step of reading takes seconds: a shard of pixels, the captions of some hundred patches."""

SIGNAL = getattr(signal, "SIGALRM", None)
"""Ends a process that does not handle it, and no crash uses it. Windows has none: there, slides are only named."""

_ends_itself = False


class _Alarm:
    """Ends this process by `SIGNAL` unless it is put off in time; one for all slides that are read."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0

    def begin(self, seconds: float) -> None:
        with self._lock:
            self._users += 1
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def put_off(self, seconds: float) -> None:
        """No change after the last `end`."""
        with self._lock:
            if self._users:
                signal.setitimer(signal.ITIMER_REAL, seconds)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                signal.setitimer(signal.ITIMER_REAL, 0)


_alarm = _Alarm()


def minutes() -> float:
    """Minutes without progress after which a slide counts as stalled; 0: never."""
    try:
        return max(0.0, float(os.environ.get(VARIABLE, DEFAULT_MIN)))
    except ValueError:
        return DEFAULT_MIN


def end_process_when_stalled() -> None:
    """State that this process may end itself: it was started for slides only, and another one goes on with them."""
    global _ends_itself
    _ends_itself = True


class Watch:
    """Calls `on_stall` once, with the number of minutes, when there was no `beat` for that long within `reading`.

    `may_end`: this process may be ended by `SIGNAL` if it cannot even do that.
    """

    def __init__(self, on_stall: Callable[[float], None], *, may_end: bool = False) -> None:
        self._on_stall, self._may_end = on_stall, may_end
        self._minutes = minutes()
        self._last = time.monotonic()

    def beat(self) -> None:
        """There is progress."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """A slide is read within the context."""
        if not self._minutes:
            yield
            return
        self.beat()
        limit, has_alarm = 60 * self._minutes, SIGNAL is not None and (self._may_end or _ends_itself)
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended, limit), name="wsikit-stalled", daemon=True)
        if has_alarm:
            _alarm.begin(limit)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            if has_alarm:
                _alarm.end()

    def _watch(self, ended: threading.Event, limit: float) -> None:
        while not ended.wait(min(5.0, limit / 4)):
            _alarm.put_off(limit)
            if time.monotonic() - self._last > limit:
                self._on_stall(self._minutes)
                return


def report(slide_id: str, stage: str, after_min: float, note: Callable[[str], None], *, may_end: bool) -> None:
    """Name a slide that stalls, and end this process if it may."""
    text = f"{slide_id}: no progress for {after_min:g} minutes in the stage {stage}: its reader seems to hang"
    if SIGNAL is None or not (may_end or _ends_itself):
        note(f"{text}. Stop the run, and run it again without this slide, or with another reader")
        return
    note(f"{text}; the process is ended, and slides in work are done last, each in a process of its own")
    os.kill(os.getpid(), SIGNAL)
