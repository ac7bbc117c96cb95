"""Carries out a plan: several slides at the same time, each in another stage.

Three resources work in parallel: the workers (tiling, quality, measured captions), the device (generated captions,
predictions), and the driver (vote, map, report). Each processes one slide at a time. So while the model works on one
slide, the next is opened, masked, tiled and described. If a slide fails, the others continue.

While the first new slide is tiled and described, the model is loaded, torch with it, and then what draws the results.
If the model cannot be loaded, the run ends at the next step of any slide. Worker processes that measure captions start
even before (`wsikit.batch.workers`).
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from wsikit._lazy import Once, make_ahead
from wsikit.batch import claims, records
from wsikit.batch.finished import mark_finished, unmark
from wsikit.batch.index import write_index
from wsikit.batch.log import RunLog
from wsikit.batch.manifest import SlideEntry
from wsikit.batch.records import SlideRow
from wsikit.batch.slide_work import Shared, SlideWork
from wsikit.batch.stages import Where, carry_out, prepare_workers, stage_groups
from wsikit.errors import WsikitError
from wsikit.progress import Progress
from wsikit.store.atomic import remove_partials, write_bytes

if TYPE_CHECKING:
    from wsikit.results.outputs import SlideSummary

logger = logging.getLogger(__name__)

SLIDES_AT_ONCE = 3
"""One per resource: workers, device, driver."""

_TABLE_EVERY_S = 2.0
"""Minimum interval: slides.csv and index.html are made from all rows, too slow after each of 10,000 slides."""


_DRAWING = Once(lambda: import_module("wsikit.results.outputs"))
"""Map and report, with the libraries that draw."""

_CLAIM_WAIT_S = 1.0
"""How long to wait until a run that has just locked an id states its slide."""


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


def carry_out_slides(job: Job) -> list[SlideRow]:
    """Carry out all slides of a job; one row each, in the order of the entries.

    A KeyboardInterrupt stops all slides at their next step and is raised again; a second one does not wait for them.

    Raises
    ------
    WsikitError
        The model or the captioner cannot be loaded: no slide can be done.
    """
    queue = deque(enumerate(job.entries))
    rows: dict[int, SlideRow] = {}
    errors: list[BaseException] = []
    resources = _Resources(ahead=Once(lambda: make_ahead(job.shared.model.load, _DRAWING)))
    reporter = _Reporter(job)

    def work() -> None:
        while not resources.stopping.is_set():
            try:
                index, entry = queue.popleft()
            except IndexError:
                return
            try:
                rows[index] = _attempt(entry, job, resources)
                reporter.report(rows[index])
            except Stopped:
                return
            except BaseException as error:  # raised again by the thread that called the run
                errors.append(error)
                resources.stopping.set()
                return

    threads = [_SlideThread(work, number) for number in range(min(SLIDES_AT_ONCE, len(job.entries)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while not thread.ended.wait(0.2):
                pass
    except BaseException:
        resources.stopping.set()
        for thread in threads:
            thread.wait()
        raise
    finally:
        reporter.write()
    if errors:
        raise errors[0]
    return [rows[index] for index in sorted(rows)]


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


class _Resources:
    """Each resource processes one slide at a time; `stopping` stops all slides, `ahead` begins to load the model."""

    def __init__(self, ahead: Once[threading.Thread]) -> None:
        self.ahead = ahead
        self.stopping = threading.Event()
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


class _Reporter:
    """Calls `on_slide`, one call at a time, and keeps slides.csv and index.html up to date."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._written = time.monotonic()
        self._pending = False

    def report(self, row: SlideRow) -> None:
        with self._lock:
            self._pending = True
            if time.monotonic() - self._written > _TABLE_EVERY_S:
                self._write()
            if self._job.on_slide:
                _call("on_slide", self._job.on_slide, row)

    def write(self) -> None:
        """Write slides.csv and index.html if there are new rows."""
        with self._lock:
            if self._pending:
                self._write()

    def _write(self) -> None:
        out = self._job.shared.out
        self._written = time.monotonic()
        try:
            records.write_table(out)
            write_index(out)
        except Exception as error:  # made of the rows in results/, and tried again; the slides are not affected
            logger.error(
                "%s: slides.csv or index.html could not be written (%s); close programs that use them and run "
                "the same command again",
                out,
                error,
            )
            return
        self._pending = False


def _call(name: str, function: Callable[[Any], None], argument: object) -> None:
    """Call a function of the caller; its error does not affect the slides."""
    try:
        function(argument)
    except Exception:
        logger.exception("%s, a function of the caller, failed; the slides are not affected", name)


class _Cancellable:
    """Progress of one slide: logs each stage, and stops the slide when the run is being stopped, or must end."""

    def __init__(self, progress: Progress, job: Job, slide_id: str, stopping: threading.Event) -> None:
        self._progress, self._log, self._slide_id, self._stopping = progress, job.log, slide_id, stopping
        self._model = job.shared.model.load
        self._stage: tuple[str, int, str, float] | None = None
        self._done = 0

    def start(self, stage: str, total: int, unit: str) -> None:
        self._check()
        self._stage, self._done = (stage, total, unit, time.monotonic()), 0
        self._log.write("start", slide=self._slide_id, stage=stage, total=total, unit=unit)
        self._progress.start(stage, total, unit)

    def advance(self, done: int = 1) -> None:
        self._check()
        self._done += done
        self._progress.advance(done)

    def finish(self) -> None:
        if self._stage is not None:
            stage, total, unit, begun = self._stage
            seconds = round(time.monotonic() - begun, 3)
            counts = {"done": self._done, "total": total, "unit": unit}
            self._log.write("end", slide=self._slide_id, stage=stage, **counts, seconds=seconds)
            self._stage = None
        self._progress.finish()

    def slides(self, total: int) -> None:
        return None

    def for_slide(self, slide_id: str) -> Progress:
        return self

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Stopped
        self._model.check()


def _attempt(entry: SlideEntry, job: Job, resources: _Resources) -> SlideRow:
    """Process one slide; its row, done or failed, is written into the folder of its results.

    An id that belongs to another slide is never used: the slide gets another one, or fails if it was requested.
    """
    out, own = job.shared.out, entry
    if job.on_start:
        _call("on_start", job.on_start, entry)
    waited_until = time.monotonic() + _CLAIM_WAIT_S
    while True:
        row = SlideRow(entry.slide_id, entry.path, records.FAILED)
        try:
            with _lock_of(out, entry):
                if claims.belongs(out, entry.slide_id, entry.path):
                    claims.write_claim(out, entry)
                    return _process(entry, own, job, resources)
        except Timeout:
            found = claims.holder(out, entry.slide_id, in_work=True)
            if found is None and time.monotonic() < waited_until:
                time.sleep(0.05)  # the other run has the lock, and will state its slide next
                continue
            if found is None or found.is_of(entry.path):
                return replace(row, status=records.LOCKED, error="another run is working on this slide")
        except Exception as error:  # its lock or its row could not be written
            if isinstance(error, WsikitError) and job.shared.is_fatal(error):
                raise
            logger.debug("%s: lock or row", entry.path, exc_info=True)
            return replace(row, status=records.FAILED, error=_words(entry, error))
        other = claims.with_other_id(entry)
        if entry is not own or entry.id_requested:
            return _refuse(replace(row, slide_id=other.slide_id, error=claims.conflict(out, entry)), out)
        entry = other


def _refuse(row: SlideRow, out: Path) -> SlideRow:
    """Record a slide that may not have its id, under another one."""
    try:
        records.write_row(out, row)
    except OSError as error:
        logger.error("%s: its row could not be written (%s)", row.path, error)
    return row


def _process(entry: SlideEntry, own: SlideEntry, job: Job, resources: _Resources) -> SlideRow:
    """Process a slide whose lock is held. `own` is the entry with the id under which it was requested."""
    out = job.shared.out
    started = time.monotonic()
    row = SlideRow(entry.slide_id, entry.path, records.FAILED)
    try:
        unmark(out, entry.slide_id)
        remove_partials(out / "results" / entry.slide_id)
        row = _run_slide(entry, job, resources)
        records.clear_failure(out, entry.slide_id)
    except Exception as error:  # any error of one slide is reported; the batch continues
        if isinstance(error, WsikitError) and job.shared.is_fatal(error):
            raise
        row = replace(row, status=records.FAILED, error=_words(entry, error))
        _keep_traceback(out, entry)
    row = replace(row, seconds=round(time.monotonic() - started, 1))
    try:
        records.write_row(out, row)
        request = job.requests.get(own.slide_id)
        if row.status == records.DONE and request is not None:
            mark_finished(out, entry, request)
    except Exception as error:  # its row could not be written
        logger.debug("%s: row", entry.path, exc_info=True)
        return replace(row, status=records.FAILED, error=row.error or _words(entry, error))
    return row


def _lock_of(out: Path, entry: SlideEntry) -> FileLock:
    """The slide's lock. The operating system releases it when its process ends: a lock is never stale."""
    path = out / "slides" / f".{entry.slide_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, blocking=False)


def _words(entry: SlideEntry, error: Exception) -> str:
    return str(error) if isinstance(error, WsikitError) else f"{entry.path}: unexpected {type(error).__name__}: {error}"


def _run_slide(entry: SlideEntry, job: Job, resources: _Resources) -> SlideRow:
    progress = _Cancellable(job.progress.for_slide(entry.slide_id), job, entry.slide_id, resources.stopping)
    work: SlideWork | None = None
    try:
        for where, stages in stage_groups(job.shared):
            taken = resources.take(where)
            try:
                if work is None:
                    work = SlideWork(entry, entry.open(), job.shared)
                    prepare_workers(work)
                    if work.is_new_to_the_model():
                        resources.ahead()
                carry_out(stages, work, progress)
            finally:
                taken.release()
        assert work is not None
        assert work.summary is not None
        return _row(entry, work, work.summary)
    finally:
        progress.finish()
        if work is not None:
            work.close()


def _keep_traceback(out: Path, entry: SlideEntry) -> None:
    logger.debug("%s failed", entry.path, exc_info=True)
    text = f"{entry.path}\n\n{traceback.format_exc()}"
    try:
        write_bytes(records.failure_path(out, entry.slide_id), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        logger.error("%s: its traceback could not be kept (%s)", entry.path, error)


def _row(entry: SlideEntry, work: SlideWork, summary: SlideSummary) -> SlideRow:
    store = work.store
    tissue = store.tissue_record()
    return SlideRow(
        slide_id=entry.slide_id,
        path=entry.path,
        status=records.DONE,
        subtype=summary.subtype,
        probability=summary.probability,
        margin=summary.margin,
        abstained=summary.abstained,
        reason=summary.reason,
        n_patches=len(work.table),
        tissue_mm2=round(tissue["area_mm2"], 4),
        unreadable_fraction=summary.unreadable_fraction,
        mpp_x=float(f"{store.mpp[0]:.6g}"),
        mpp_y=float(f"{store.mpp[1]:.6g}"),
        mpp_source=store.mpp_source,
        notes=work.notes,
    )
