"""Carries out a run that was prepared: its folder, run.json, the slides that are not finished, and its result."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.batch import claims, records
from wsikit.batch.begun import read_begun
from wsikit.batch.entry import SlideEntry
from wsikit.batch.plan import RUN_FILE, PlannedSlide
from wsikit.batch.prepare import PreparedRun
from wsikit.batch.records import FAILED, SlideRow
from wsikit.batch.run_result import RunResult
from wsikit.batch.timing import RunTime
from wsikit.errors import RequestError
from wsikit.progress import SILENT, Progress
from wsikit.store.atomic import remove_old_partials, write_json

if TYPE_CHECKING:
    from wsikit.batch.job import Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the caller of a run wants to hear, and whether the first failure ends it."""

    progress: Progress = SILENT
    on_slide: Callable[[SlideRow], None] | None = None
    on_start: Callable[[SlideEntry], None] | None = None
    on_note: Callable[[str], None] | None = None
    on_event: Callable[[Mapping[str, Any]], None] | None = None
    fail_fast: bool = False


def carry_out_run(
    prepared: PreparedRun,
    todo: Sequence[SlideEntry],
    finished: Mapping[str, SlideRow],
    wanted: Wanted,
    apart: Callable[[SlideEntry], bytes | None] | None = None,
    on_cluster: Callable[[Job], list[SlideRow | None]] | None = None,
) -> RunResult:
    """Carry out the slides `todo` that are not finished. `apart`: see `wsikit.batch.job.Job`.

    `on_cluster`: carries out the slides in place of `wsikit.batch.scheduler.carry_out_slides`.

    Raises
    ------
    RequestError
        The output folder cannot be written to.
    WsikitError
        The model or the captioner cannot be loaded.
    """
    folder = prepared.out
    new = [entry for entry in todo if entry.slide_id not in finished]
    shared = prepared.shared() if new else None
    if shared is not None and on_cluster is None:
        shared.captioner.load()  # a missing captioner is reported before any slide is processed
    _make_folder(folder)
    plan = prepared.plan([PlannedSlide(entry, finished=entry.slide_id in finished) for entry in prepared.entries])
    earlier = records.read_patients(folder)
    record = plan.to_json() | {"patients": prepared.patients()}
    _write_record(folder, record)
    for note in prepared.notes:
        if wanted.on_note:
            wanted.on_note(note)
    wanted.progress.slides(len(todo))
    kept = [_with_label(folder, finished[entry.slide_id], entry) for entry in todo if entry.slide_id in finished]
    if wanted.on_slide:
        for row in kept:
            wanted.on_slide(row)
    rows: dict[str, SlideRow | None] = {row.slide_id: row for row in kept}
    """By the id under which the slide was requested."""
    seconds: RunTime | None = None
    if shared is not None:
        from wsikit.batch.job import Job
        from wsikit.batch.log import RunLog
        from wsikit.batch.scheduler import carry_out_slides
        from wsikit.batch.timing import Stopwatch

        remove_old_partials(folder)
        watch = Stopwatch()

        def hear(event: Mapping[str, Any]) -> None:
            watch.add(event)
            if wanted.on_event:
                wanted.on_event(event)

        log = RunLog(folder, hear)
        log.write(
            "run",
            slides=len(todo),
            finished=len(kept),
            model=prepared.model.info.name,
            changes=list(plan.changes),
            notes=list(plan.notes),
        )
        job = Job(
            new,
            prepared.requests,
            shared,
            wanted.progress,
            log,
            wanted.on_start,
            wanted.on_slide,
            wanted.on_note,
            apart,
            wanted.fail_fast,
        )
        done = (on_cluster or carry_out_slides)(job)
        rows |= {entry.slide_id: row for entry, row in zip(new, done, strict=True)}
        seconds = watch.read()
        states = [row.status for row in rows.values() if row is not None]
        log.write("summary", done=states.count(records.DONE), slides=len(todo), **seconds.to_json())
        patients = _corrected_patients(record["patients"], new, done, earlier)
        try:
            _write_record(folder, record | {"patients": patients, "time": seconds.to_json()})
        except OSError as error:  # the plan is there, without the time
            logger.error("%s: the time could not be recorded (%s)", folder / RUN_FILE, error.strerror or error)
    elif not (folder / "slides.csv").is_file() or not (folder / "index.html").is_file():
        from wsikit.batch.reporter import write_tables

        write_tables(folder)
    found = (rows.get(entry.slide_id) for entry in todo)
    return RunResult(folder, tuple(row for row in found if row is not None), plan.changes, plan.notes, seconds)


def _write_record(out: Path, record: Mapping[str, Any]) -> None:
    with records.tables_lock(out):
        write_json(out / RUN_FILE, record)


def failed_before(out: Path, entries: Sequence[SlideEntry]) -> list[SlideEntry]:
    """The slides that failed in the last run that tried them, or in which a process died."""

    def failed(entry: SlideEntry) -> bool:
        for slide_id in (entry.slide_id, claims.with_other_id(entry).slide_id):
            row = records.read_row(out, slide_id)
            if row is not None and row.path == entry.path and row.status == FAILED:
                return True
        return read_begun(out, entry.slide_id) is not None

    return [entry for entry in entries if failed(entry)]


def nothing_failed(prepared: PreparedRun, wanted: Wanted) -> RunResult:
    """The result of a run of the failed slides where there are none."""
    note = f"no slide failed in {prepared.out}: there is nothing to run again"
    if wanted.on_note:
        wanted.on_note(note)
    return RunResult(prepared.out, (), notes=(*prepared.notes, note))


def _with_label(out: Path, row: SlideRow, entry: SlideEntry) -> SlideRow:
    """The row of a finished slide, with the label of this request: results do not depend on it."""
    if row.label == entry.label:
        return row
    changed = replace(row, label=entry.label)
    records.write_row(out, changed)
    (out / "slides.csv").unlink(missing_ok=True)  # written again with the new label
    return changed


def _corrected_patients(
    patients: Mapping[str, str],
    entries: Sequence[SlideEntry],
    rows: Sequence[SlideRow | None],
    earlier: Mapping[str, str],
) -> dict[str, str]:
    """The patients of run.json, where an id belonged to another slide, so that its slide got another id."""
    found = {**patients}
    for entry, row in zip(entries, rows, strict=True):
        if row is None or entry.slide_id == row.slide_id:
            continue
        if entry.patient:
            found.pop(entry.slide_id, None)
            found[row.slide_id] = entry.patient
        if entry.slide_id in earlier:
            found[entry.slide_id] = earlier[entry.slide_id]
    return found


def _make_folder(folder: Path) -> None:
    """Make the output folder; RequestError with the reason if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"{folder}: cannot be created ({error.strerror or error}). Give a writable folder with -o."
        ) from error
    if not os.access(folder, os.W_OK):
        raise RequestError(f"{folder}: not writable. Give another folder with -o, or change its permissions.")
