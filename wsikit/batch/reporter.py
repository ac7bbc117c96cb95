"""Keeps slides.csv and index.html up to date while slides end, and calls the listener of the rows."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from wsikit.batch import records
from wsikit.batch.index import write_index
from wsikit.batch.job import Job, call_listener
from wsikit.batch.records import SlideRow

logger = logging.getLogger(__name__)

_TABLE_EVERY_S, _TIMES_AS_LONG = 2.0, 30.0
"""Minimum interval of slides.csv and index.html, which are made from all rows: 2 s, and so many times as long as it
took to make them, so that they take 3 % of the time however many slides there are."""


class Reporter:
    """Takes the rows of the slides, from several threads."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._written, self._took_s = time.monotonic(), 0.0
        self._pending = False

    def report(self, row: SlideRow) -> None:
        """Record that a slide has ended; what it was is in its row.json."""
        facts = {"error": row.error} if row.error else {"subtype": row.subtype}
        self._job.log.write("slide", slide=row.slide_id, status=row.status, seconds=row.seconds, **facts)
        with self._lock:
            self._pending = True
            if time.monotonic() - self._written > max(_TABLE_EVERY_S, _TIMES_AS_LONG * self._took_s):
                self._write()
            if self._job.on_slide:
                call_listener("on_slide", self._job.on_slide, row)

    def write(self) -> None:
        """Write slides.csv and index.html if there are new rows."""
        with self._lock:
            if self._pending:
                self._write()

    def _write(self) -> None:
        out = self._job.shared.out
        begun = time.monotonic()
        try:
            write_tables(out)
        except Exception as error:  # made of the rows in results/, and tried again; the slides are not affected
            logger.error(
                "%s: slides.csv or index.html could not be written (%s); close programs that use them and run "
                "the same command again",
                out,
                error,
            )
        else:
            self._pending = False
        self._written = time.monotonic()
        self._took_s = self._written - begun


def write_tables(out: Path) -> None:
    """Write slides.csv and index.html from all rows below `out`."""
    rows = records.read_rows(out)
    with records.tables_lock(out):
        records.write_table(out, rows)
        write_index(out, rows)
