"""Carries out a plan: several slides at the same time, each in another stage.

Three resources work in parallel: the workers (tiling, quality, measured captions), the device (generated captions,
predictions), and the driver (vote, map, report). Each processes one slide at a time. So while the model works on one
slide, the next is opened, masked, tiled and described. If a slide fails, the others continue.

While the first new slide is tiled and described, the model is loaded, torch with it, and then what draws the results.
If the model cannot be loaded, the run ends at the next step of any slide. Worker processes that measure captions start
even before (`wsikit.batch.workers`).

At the end come the slides in which an earlier process died, each in a process of its own (`wsikit.batch.apart`), and
those that another run had in work: they are waited for, and done here if that run died.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from importlib import import_module

from wsikit._lazy import Once, make_ahead
from wsikit.batch.apart import attempt_apart
from wsikit.batch.attempt import Later, attempt
from wsikit.batch.begun import remove_left_partials
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Job, Resources, Stopped, call_listener
from wsikit.batch.records import FAILED, SlideRow
from wsikit.batch.reporter import Reporter

__all__ = ["SLIDES_AT_ONCE", "Job", "carry_out_slides"]

SLIDES_AT_ONCE = 3
"""One per resource: workers, device, driver."""

_DRAWING = Once(lambda: import_module("wsikit.results.outputs"))
"""Map and report, with the libraries that draw."""

_LOOK_AGAIN_S, _LOOK_AGAIN_MOST_S = 0.2, 5.0
"""Interval at which slides that another run has in work are looked at again; it grows."""


def carry_out_slides(job: Job) -> list[SlideRow | None]:
    """Carry out all slides of a job; one row each, in the order of the entries. None: not tried, as one failed before
    and `fail_fast` is set.

    A KeyboardInterrupt stops all slides at their next step and is raised again; a second one does not wait for them.

    Raises
    ------
    WsikitError
        The model or the captioner cannot be loaded: no slide can be done.
    """
    return _Scheduler(job).carry_out()


class _Scheduler:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.queue = deque(enumerate(job.entries))
        self.later: deque[tuple[int, Later]] = deque()
        self.rows: dict[int, SlideRow] = {}
        self.errors: list[BaseException] = []
        self.resources = Resources(ahead=Once(lambda: make_ahead(job.shared.model.load, _DRAWING)))
        self.reporter = Reporter(job)

    def carry_out(self) -> list[SlideRow | None]:
        remove_left_partials(self.job.shared.out)
        try:
            self._on_threads(self._work, min(SLIDES_AT_ONCE, len(self.job.entries)))
            if self.later and not self.resources.stopping.is_set():
                self._on_threads(self._work_later, 1)
        finally:
            self.reporter.write()
        if self.errors:
            raise self.errors[0]
        return [self.rows.get(index) for index in range(len(self.job.entries))]

    def _on_threads(self, work: Callable[[], None], number: int) -> None:
        threads = [_SlideThread(lambda: self._guarded(work), index) for index in range(number)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while not thread.ended.wait(0.2):
                    pass
        except BaseException:
            self.job.note("stopping: slides in work end at their next step; what is complete is kept")
            self.resources.stop()
            for thread in threads:
                thread.wait()
            raise

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            return
        except BaseException as error:  # raised again by the thread that called the run
            self.errors.append(error)
            self.resources.stop()

    def _work(self) -> None:
        while not self.resources.stopping.is_set():
            try:
                index, entry = self.queue.popleft()
            except IndexError:
                return
            if self.job.on_start:
                call_listener("on_start", self.job.on_start, entry)
            self._keep(index, attempt(entry, self.job, self.resources))

    def _keep(self, index: int, found: SlideRow | Later) -> None:
        if isinstance(found, Later):
            self.later.append((index, found))
            return
        self.rows[index] = found
        self.reporter.report(found)
        if self.job.fail_fast and found.status == FAILED:
            self.resources.stop()

    def _work_later(self) -> None:
        """The slides in which a process died, then those that other runs have in work, until all are done."""
        pause, said = _LOOK_AGAIN_S, False
        while self.later and not self.resources.stopping.is_set():
            for _ in range(len(self.later)):
                index, found = self.later.popleft()
                if found.why == "died":
                    self._keep(index, attempt_apart(found, self.job, self.resources))
                else:
                    self.later.append((index, found))
            waiting = [(index, found) for index, found in self.later if found.why == "locked"]
            if not waiting:
                continue
            if not said:
                said = True
                self.job.note(_waiting_for([found.entry for _, found in waiting]))
            self.resources.wait(pause)
            pause = min(1.5 * pause, _LOOK_AGAIN_MOST_S)
            for index, found in waiting:
                self.later.remove((index, found))
                entry = self.job.entries[index]
                self._keep(index, attempt(entry, self.job, self.resources))


def _waiting_for(entries: list[SlideEntry]) -> str:
    names = ", ".join(entry.slide_id for entry in entries[:5])
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    what = "1 slide" if len(entries) == 1 else f"{len(entries)} slides"
    return f"waiting for {what} that another run is working on ({names}{more})"


class _SlideThread(threading.Thread):
    """A thread that carries out slides. `ended` is set at its end: up to Python 3.12, `Thread.join` that is interrupted
    takes the thread for ended (`is_alive` too), and the process would end while the thread is in compiled code."""

    def __init__(self, work: Callable[[], None], number: int) -> None:
        super().__init__(name=f"wsikit-slide-{number}", daemon=True)
        self._work = work
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            self._work()
        finally:
            self.ended.set()

    def wait(self) -> None:
        """Wait for its end, if it was started."""
        if self.ident is not None:
            self.ended.wait()
