"""One slide of a run as one task of a cluster: all of its stages, in a worker process, with its lock and records.

The row goes back to the driver, with the events of the log; progress is sent while the slide is in work.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wsikit.batch.apart import attempt_apart, pack_slide
from wsikit.batch.attempt import Later, attempt
from wsikit.batch.cluster_blocks import Spread, TaskResources
from wsikit.batch.cluster_request import Held, held_request
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Job, Stopped
from wsikit.batch.log import RunLog
from wsikit.batch.records import SlideRow
from wsikit.executor import Executor
from wsikit.progress import Progress

_PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True)
class SlideTask:
    """One slide of a run whose request the worker holds."""

    digest: str
    """Of the request of the run."""
    entry: SlideEntry
    request: str | None
    """Digest of the request of this slide (`wsikit.batch.finished.slide_request`)."""
    cut: bool = False
    """Whether other workers help with it, if it has enough patches."""


@dataclass(frozen=True)
class Outcome:
    """What became of a slide."""

    found: SlideRow | Later | None
    """None: the run was stopped."""
    events: tuple[tuple[float, str, Mapping[str, Any]], ...] = ()
    """Events of the log: how many seconds before the end of the slide, which, and with which values."""


def topic_of(digest: str) -> str:
    """Under which the scheduler passes on the progress of a run's slides."""
    return f"wsikit-{digest[:16]}"


def carry_out_slide(task: SlideTask) -> Outcome:
    """Carry out all stages of a slide, in a worker process.

    A slide in which a worker died before is done in a process of its own, so that it can end only that one.

    Raises
    ------
    WsikitError
        The model, the captioner or an encoder cannot be loaded here: no slide can be done.
    """
    held = held_request(task.digest)
    if held is None or held.resources.stopping.is_set():
        return Outcome(None)
    log = _EventList(Path(held.request.out))
    report = _Reports(topic_of(task.digest), task.entry.slide_id)
    report.send("begin")
    resources = TaskResources(held.resources)
    job = _job(task, held, Spread(task.digest, held.request, resources, cut=task.cut), log, report)
    try:
        found = attempt(task.entry, job, resources)
        if isinstance(found, Later) and found.why == "died":
            found = attempt_apart(found, job, resources)
    except Stopped:
        return Outcome(None, log.with_age())
    return Outcome(found, log.with_age())


def _job(task: SlideTask, held: Held, spread: Spread, log: _EventList, report: _Reports) -> Job:
    entry, request = task.entry, held.request
    settings = {**request.settings, "executor": Executor(workers=held.threads)}
    apart = partial(pack_slide, request=task.request, out=request.out, settings=settings)
    shared = replace(held.shared_for(entry), spread=spread)
    # a slide that is cut waits for other workers, perhaps for long
    may_end = not task.cut
    return Job([entry], {entry.slide_id: task.request}, shared, report, log, apart=apart, may_end_process=may_end)


class _EventList(RunLog):
    """Keeps the events of a slide; the driver writes them, as several machines would overwrite each other's lines."""

    def __init__(self, out: Path) -> None:
        super().__init__(out)
        self._events: list[tuple[float, str, Mapping[str, Any]]] = []

    def write(self, event: str, *, ago_s: float = 0.0, **values: Any) -> None:
        self._events.append((time.monotonic() - ago_s, event, values))

    def with_age(self) -> tuple[tuple[float, str, Mapping[str, Any]], ...]:
        """The events, with the number of seconds since each."""
        now = time.monotonic()
        return tuple((now - at, event, values) for at, event, values in self._events)


class _Reports(Progress):
    """Sends the progress of a slide to the driver, at most every half second."""

    def __init__(self, topic: str, slide_id: str) -> None:
        import distributed

        untyped: Any = distributed
        self._worker: Any = untyped.get_worker()
        self._topic, self._slide_id = topic, slide_id
        self._sent, self._waiting = 0.0, 0

    def send(self, what: str, *values: Any) -> None:
        """Send one step. One that is lost is not missed: the row comes with the result."""
        self._worker.log_event(self._topic, [self._slide_id, what, *values])

    def start(self, stage: str, total: int, unit: str) -> None:
        self._sent, self._waiting = time.monotonic(), 0
        self.send("start", stage, total, unit)

    def advance(self, done: int = 1) -> None:
        self._waiting += done
        if time.monotonic() - self._sent >= _PROGRESS_EVERY_S:
            self._flush()

    def finish(self) -> None:
        self._flush()
        self.send("finish")

    def slides(self, total: int) -> None:
        return None

    def for_slide(self, slide_id: str) -> Progress:
        return self

    def _flush(self) -> None:
        if self._waiting:
            self._sent, waiting, self._waiting = time.monotonic(), self._waiting, 0
            self.send("advance", waiting)
