"""A slide in which an earlier process died is done in a process of its own, so that it can end only that one.

The process that dies with it leaves the mark of the slide (`wsikit.batch.begun`): further runs do it apart too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from wsikit.batch import records, stalled
from wsikit.batch.attempt import Later, attempt, in_words, keep_traceback
from wsikit.batch.begun import Begun, clear_begun, lock_of, read_begun
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Job, Resources, Stopped
from wsikit.batch.log import RunLog
from wsikit.batch.records import SlideRow
from wsikit.errors import WsikitError
from wsikit.progress import SILENT
from wsikit.worker import Answer, PipeError
from wsikit.worker_pool import WorkerProcess, packed


@dataclass(frozen=True)
class _Task:
    entry: SlideEntry
    request: str | None
    out: str
    settings: Mapping[str, Any]
    """Arguments of `wsikit.batch.prepare.prepare`."""

    def __str__(self) -> str:
        return self.entry.path


def pack_slide(
    entry: SlideEntry, *, request: str | None, out: str | os.PathLike[str], settings: Mapping[str, Any]
) -> bytes | None:
    """One slide of a run, as work for another process; None if its model or captioner cannot be sent to one."""
    return packed(_process_slide, _Task(entry, request, os.fspath(out), settings))


def _process_slide(task: _Task) -> SlideRow | Later:
    """Process the slide, in the other process."""
    from wsikit._lazy import Once, make_ahead
    from wsikit.batch.prepare import prepare
    from wsikit.worker_pool import shared_pool

    stalled.end_process_when_stalled()
    prepared = prepare([task.entry], task.out, **task.settings)
    shared = prepared.shared()
    shared.captioner.load()
    job = Job([task.entry], {task.entry.slide_id: task.request}, shared, SILENT, RunLog(prepared.out))
    with shared_pool():
        return attempt(task.entry, job, Resources(Once(partial(make_ahead, shared.model.load))), also_died=True)


def attempt_apart(found: Later, job: Job, resources: Resources) -> SlideRow | Later:
    """Process a slide in a process of its own; a process that dies makes one failed row.

    Where that is not possible (a model of a notebook cannot be sent), it is processed here.

    Raises
    ------
    WsikitError
        The model or the captioner cannot be loaded there.
    """
    entry, out = found.entry, job.shared.out
    stage = (read_begun(out, entry.slide_id) or Begun("unknown")).stage
    work = None if job.apart is None or entry.fault else job.apart(entry)
    if work is None:
        return attempt(entry, job, resources, also_died=True)
    job.note(f"{entry.slide_id}: an earlier process died in it ({stage}); it is done in a process of its own")
    progress = job.progress.for_slide(entry.slide_id)
    progress.start("all stages, apart", 1, "slide")
    process = WorkerProcess(one_thread=False)
    try:
        resources.on_stop(process.hang_up)
        answer = process.ask(work)
        progress.advance()
    except PipeError:
        process.close()
        if resources.stopping.is_set():
            _clear(job, entry)
            raise Stopped from None
        return _died(entry, job, process.how_it_ended())
    finally:
        progress.finish()
        process.close()
    return _row_of(answer, entry, job, resources)


def _row_of(answer: Answer, entry: SlideEntry, job: Job, resources: Resources) -> SlideRow | Later:
    if answer.not_possible:
        return attempt(entry, job, resources, also_died=True)
    if isinstance(answer.error, WsikitError):
        raise answer.error
    if answer.error is not None:
        error = answer.error if isinstance(answer.error, Exception) else RuntimeError(repr(answer.error))
        return _failed(entry, job, in_words(entry, error), answer.trace)
    row: SlideRow | Later = answer.result
    return row


def _died(entry: SlideEntry, job: Job, how: str) -> SlideRow:
    """The row of a slide whose process died; its mark stays."""
    stage = (read_begun(job.shared.out, entry.slide_id) or Begun("opening")).stage
    advice = "Copy the file again from its source, or try another reader (column reader of a manifest)."
    if "SIGKILL" in how:
        advice = "Perhaps the memory of this machine is too small: use fewer workers (--workers)."
    text = f"{entry.path}: the process that worked on it ended by {how} in the stage {stage}. {advice}"
    if "SIGALRM" in how:
        text = f"{entry.path}: no progress for {stalled.minutes():g} minutes in the stage {stage}: it hangs. {advice}"
    return _failed(entry, job, text, text)


def _failed(entry: SlideEntry, job: Job, error: str, trace: str) -> SlideRow:
    row = SlideRow(entry.slide_id, entry.path, records.FAILED, label=entry.label, error=error)
    keep_traceback(job.shared.out, entry, trace)
    with contextlib.suppress(OSError):  # it is in the result of the run
        records.write_row(job.shared.out, row)
    return row


def _clear(job: Job, entry: SlideEntry) -> None:
    """Remove the mark of a slide whose process was ended here, on purpose."""
    with lock_of(job.shared.out, entry.slide_id):
        clear_begun(job.shared.out, entry.slide_id)
