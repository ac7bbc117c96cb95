"""One slide of a run: takes its lock, carries out its stages, and records what became of it."""

from __future__ import annotations

import errno
import logging
import time
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import Timeout

from wsikit.batch import claims, records, stalled
from wsikit.batch.begun import clear_begun, lock_of, read_begun, write_begun
from wsikit.batch.entry import SlideEntry
from wsikit.batch.finished import finished_row, mark_finished, unmark
from wsikit.batch.job import Job, Resources, Stopped
from wsikit.batch.records import SlideRow
from wsikit.batch.slide_work import SlideWork
from wsikit.batch.stages import Where, carry_out, prepare_workers, stage_groups
from wsikit.batch.transient import RETRY_AFTER_S, is_transient
from wsikit.errors import WsikitError
from wsikit.progress import Progress
from wsikit.store.atomic import remove_partials, without_partial, write_bytes

if TYPE_CHECKING:
    from wsikit.results.outputs import SlideSummary

logger = logging.getLogger(__name__)

_CLAIM_WAIT_S = 1.0
"""How long to wait until a run that has just locked an id states its slide."""


_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@dataclass(frozen=True)
class Later:
    """A slide that is not processed now."""

    why: Literal["locked", "died"]
    """Another run is working on it; or an earlier process died while it worked on it."""
    entry: SlideEntry
    """The slide, with the id under which it was found."""


def attempt(entry: SlideEntry, job: Job, resources: Resources, *, also_died: bool = False) -> SlideRow | Later:
    """Process one slide; its row, done or failed, is written into the folder of its results.

    An id that belongs to another slide is never used: the slide gets another one, or fails if it was requested.
    `also_died`: a slide in which an earlier process died is processed too.
    """
    out, own = job.shared.out, entry
    waited_until = time.monotonic() + _CLAIM_WAIT_S
    while True:
        row = SlideRow(entry.slide_id, entry.path, records.FAILED, label=entry.label)
        try:
            with lock_of(out, entry.slide_id):
                if claims.belongs(out, entry.slide_id, entry.path):
                    request = job.requests.get(own.slide_id)
                    kept = None if request is None else finished_row(out, entry, request)
                    if kept is not None:
                        return kept  # by another run, since this one began
                    if not also_died and read_begun(out, entry.slide_id) is not None:
                        return Later("died", entry)
                    claims.write_claim(out, entry)
                    return _process(entry, request, job, resources)
        except Timeout:
            found = claims.holder(out, entry.slide_id, in_work=True)
            if found is None and time.monotonic() < waited_until:
                time.sleep(0.05)  # the other run has the lock, and will state its slide next
                continue
            if found is None or found.is_of(entry.path):
                return Later("locked", entry)
        except Exception as error:  # its lock or its row could not be written
            if isinstance(error, WsikitError) and job.shared.is_fatal(error):
                raise
            logger.debug("%s: lock or row", entry.path, exc_info=True)
            return replace(row, status=records.FAILED, error=in_words(entry, error))
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


def _process(entry: SlideEntry, request: str | None, job: Job, resources: Resources) -> SlideRow:
    """Process a slide whose lock is held. `request` is the digest of what is asked for."""
    out = job.shared.out
    started = time.monotonic()
    row = SlideRow(entry.slide_id, entry.path, records.FAILED, label=entry.label)
    try:
        write_begun(out, entry.slide_id, "opening")
        unmark(out, entry.slide_id)
        remove_partials(out / "results" / entry.slide_id)
        row = _run_with_retries(entry, job, resources)
        records.clear_failure(out, entry.slide_id)
    except Exception as error:  # any error of one slide is reported; the batch continues
        if isinstance(error, WsikitError) and job.shared.is_fatal(error):
            raise
        row = replace(row, status=records.FAILED, error=in_words(entry, error))
        keep_traceback(out, entry, traceback.format_exc())
    finally:
        clear_begun(out, entry.slide_id)  # before it is marked as finished: a finished slide has no such mark
    row = replace(row, seconds=round(time.monotonic() - started, 1))
    try:
        records.write_row(out, row)
        if row.status == records.DONE and request is not None:
            mark_finished(out, entry, request)
    except Exception as error:  # its row could not be written
        logger.debug("%s: row", entry.path, exc_info=True)
        return replace(row, status=records.FAILED, error=row.error or in_words(entry, error))
    return row


def _run_with_retries(entry: SlideEntry, job: Job, resources: Resources) -> SlideRow:
    """An error of the network is waited for, some times; others are raised at once."""
    for seconds in RETRY_AFTER_S:
        try:
            return _run_slide(entry, job, resources)
        except Exception as error:
            if not is_transient(error) or (isinstance(error, WsikitError) and job.shared.is_fatal(error)):
                raise
            logger.warning("%s: %s; tried again in %g s", entry.path, error, seconds)
            job.log.write("retry", slide=entry.slide_id, error=in_words(entry, error), seconds=seconds)
        resources.wait(seconds)
    return _run_slide(entry, job, resources)


def in_words(entry: SlideEntry, error: Exception) -> str:
    """The error of a slide in one line, with its path."""
    if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
        where = without_partial(str(error.filename)) if error.filename else "a file of this run"
        return (
            f"{where}: cannot be written ({error.strerror}); the slide is {entry.path}. Free disk space or check the "
            "drive, and run again: files written so far are kept."
        )
    return str(error) if isinstance(error, WsikitError) else f"{entry.path}: unexpected {type(error).__name__}: {error}"


def _run_slide(entry: SlideEntry, job: Job, resources: Resources) -> SlideRow:
    progress = _Watched(job.progress.for_slide(entry.slide_id), job, entry.slide_id, resources)
    work: SlideWork | None = None
    try:
        for where, stages in stage_groups(job.shared):
            taken = resources.take(where)
            progress.where = where
            try:
                with progress.watched():
                    if work is None:
                        begun = time.monotonic()
                        work = SlideWork(entry, entry.open(), job.shared)
                        prepare_workers(work)
                        progress.ended("opening", 1, 1, "slide", begun)
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


class _Watched:
    """Progress of one slide: logs and marks each stage, and stops the slide when the run is being stopped."""

    def __init__(self, progress: Progress, job: Job, slide_id: str, resources: Resources) -> None:
        self._progress, self._log, self._slide_id, self._stopping = progress, job.log, slide_id, resources.stopping
        self._out, self._model = job.shared.out, job.shared.model.load
        self._stage: tuple[str, int, str, float] | None = None
        self._done = 0
        self.where: Where = "workers"
        """The resource that the slide holds."""
        self._watch = stalled.Watch(
            lambda after: stalled.report(slide_id, self._name, after, job.note, may_end=job.may_end_process),
            may_end=job.may_end_process,
        )

    @property
    def _name(self) -> str:
        return self._stage[0] if self._stage else "opening"

    def watched(self) -> AbstractContextManager[None]:
        """While the slide is read, it must make progress; a model or a report may take its time."""
        return self._watch.reading() if self.where == "workers" else nullcontext()

    def start(self, stage: str, total: int, unit: str) -> None:
        self._check()
        self._watch.beat()
        write_begun(self._out, self._slide_id, stage)
        self._stage, self._done = (stage, total, unit, time.monotonic()), 0
        self._log.write("start", slide=self._slide_id, stage=stage, total=total, unit=unit)
        self._progress.start(stage, total, unit)

    def advance(self, done: int = 1) -> None:
        self._check()
        self._watch.beat()
        self._done += done
        self._progress.advance(done)

    def finish(self) -> None:
        self._watch.beat()
        if self._stage is not None:
            stage, total, unit, begun = self._stage
            self.ended(stage, self._done, total, unit, begun)
            self._stage = None
        self._progress.finish()

    def ended(self, stage: str, done: int, total: int, unit: str, begun: float) -> None:
        """Log the end of a stage."""
        counts: dict[str, Any] = {
            "done": done,
            "total": total,
            "unit": unit,
            "seconds": round(time.monotonic() - begun, 3),
        }
        self._log.write("end", slide=self._slide_id, stage=stage, where=self.where, **counts)

    def slides(self, total: int) -> None:
        return None

    def for_slide(self, slide_id: str) -> Progress:
        return self

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Stopped
        self._model.check()


def keep_traceback(out: Path, entry: SlideEntry, trace: str) -> None:
    """Write failures/ID.txt."""
    logger.debug("%s failed", entry.path, exc_info=True)
    text = f"{entry.path}\n\n{trace}"
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
        label=entry.label,
        subtype=summary.subtype,
        probability=summary.probability,
        margin=summary.margin,
        value=None if summary.value is None else summary.value.value,
        value_kind=None if summary.value is None else summary.value.kind,
        value_unit=None if summary.value is None else summary.value.unit,
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
