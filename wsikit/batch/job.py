"""What the threads of a run share: the slides to do, three resources, and the order to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsikit._lazy import Once
from wsikit.batch.entry import SlideEntry
from wsikit.batch.log import RunLog
from wsikit.batch.records import SlideRow
from wsikit.batch.slide_work import Shared
from wsikit.batch.stages import Where
from wsikit.progress import Progress

logger = logging.getLogger(__name__)


class Stopped(BaseException):
    """Raised in a slide's thread when the run is being stopped; files written so far are kept."""


@dataclass(frozen=True)
class Job:
    """Input of the scheduler."""

    entries: Sequence[SlideEntry]
    """Slides that are not finished."""
    requests: Mapping[str, str | None]
    """Digest of each slide's request by slide id."""
    shared: Shared
    progress: Progress
    log: RunLog
    on_start: Callable[[SlideEntry], None] | None = None
    on_slide: Callable[[SlideRow], None] | None = None
    on_note: Callable[[str], None] | None = None
    apart: Callable[[SlideEntry], bytes | None] | None = None
    """Work of `wsikit.batch.apart` for a process of its own; None if the slide cannot be sent to one."""
    fail_fast: bool = False
    """Whether the first slide that fails stops the run."""
    may_end_process: bool = False
    """Whether this process may be ended if a slide stalls (`wsikit.batch.stalled`): another goes on with the slides."""

    def note(self, text: str) -> None:
        """Report what happens to the run as a whole."""
        self.log.write("note", text=text)
        if self.on_note:
            call_listener("on_note", self.on_note, text)


class Resources:
    """Each resource processes one slide at a time; `stop` stops all slides, `ahead` begins to load the model."""

    def __init__(self, ahead: Callable[[], object] | None = None) -> None:
        self.ahead: Callable[[], object] = ahead or Once(lambda: None)
        self.stopping = threading.Event()
        self._on_stop: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._locks: dict[Where, threading.Lock] = {
            where: threading.Lock() for where in ("workers", "device", "driver")
        }

    def take(self, where: Where) -> threading.Lock:
        """Acquire the lock of a resource; Stopped if the run is being stopped."""
        lock = self._locks[where]
        while not lock.acquire(timeout=0.2):
            if self.stopping.is_set():
                raise Stopped
        if self.stopping.is_set():
            lock.release()
            raise Stopped
        return lock

    def stop(self) -> None:
        """Stop all slides at their next step, and the processes that work on some."""
        with self._lock:
            self.stopping.set()
            interrupts = list(self._on_stop)
        for interrupt in interrupts:
            interrupt()

    def on_stop(self, interrupt: Callable[[], None]) -> None:
        """Call `interrupt` when the run is being stopped, at once if it is already."""
        with self._lock:
            self._on_stop.append(interrupt)
            if not self.stopping.is_set():
                return
        interrupt()

    def wait(self, seconds: float) -> None:
        """Wait; Stopped if the run is being stopped."""
        if self.stopping.wait(seconds):
            raise Stopped


def call_listener(name: str, function: Callable[[Any], None], argument: object) -> None:
    """Call a function of the caller; its error does not affect the slides."""
    try:
        function(argument)
    except Exception:
        logger.exception("%s, a function of the caller, failed; the slides are not affected", name)
