"""Progress of the verbs: on a terminal one bar per stage; in a pipe or a log file whole lines on standard error.

A stage shows its rate over its whole duration, the elapsed time and the time left. In a pipe it writes one line when it
starts, one when it ends, and one every 30 s between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_EVERY_S = 30.0
"""Seconds between two lines of a running stage in a pipe."""


def format_seconds(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> format_seconds(193.4), format_seconds(3725)
    ('3:13', '1:02:05')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def format_rate(done: float, elapsed_s: float, unit: str) -> str:
    """Mean rate since the start of the stage; empty until something is done.

    >>> format_rate(770, 70, "patches"), format_rate(3, 60, "slides"), format_rate(0, 60, "slides")
    ('11 patches/s', '3.0 slides/min', '')
    """
    if done <= 0 or elapsed_s <= 0:
        return ""
    per_s = done / elapsed_s
    if per_s >= 10:
        return f"{per_s:,.0f} {unit}/s"
    return f"{per_s:.1f} {unit}/s" if per_s >= 1 else f"{per_s * 60:.1f} {unit}/min"


def format_times(done: float, total: float | None, elapsed_s: float) -> str:
    """Elapsed time and the estimate of the time left, from the mean rate.

    >>> format_times(193, 255, 193)
    'elapsed 3:13 · left 1:02'
    >>> format_times(0, 255, 5)
    'elapsed 0:05 · left –'
    """
    left = format_seconds((total - done) * elapsed_s / done) if done > 0 and total is not None else "–"
    return f"elapsed {format_seconds(elapsed_s)} · left {left}"


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(format_rate(task.completed, task.elapsed or 0, task.fields["unit"]))


class _Times(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(format_times(task.completed, task.total, task.elapsed or 0))


class StageProgress:
    """The stages of one slide, one after the other (a wsikit.progress.Progress). Made by `TerminalProgress`."""

    def __init__(
        self, bars: RichProgress | None, write: Callable[[str], None], label: str, clock: Callable[[], float]
    ) -> None:
        self._bars, self._write, self._label, self._clock = bars, write, label, clock
        self._lock = threading.Lock()
        self._task: TaskID | None = None
        self._name: str | None = None
        self._total, self._done, self._unit = 0, 0, ""
        self._started = self._written = 0.0

    def start(self, stage: str, total: int, unit: str) -> None:
        self.finish()
        with self._lock:
            self._name = f"{self._label}: {stage}" if self._label else stage
            self._total, self._done, self._unit = total, 0, unit
            self._started = self._written = self._clock()
            if self._bars is not None:
                self._task = self._bars.add_task(self._name, total=total, unit=unit)
            else:
                self._write(f"{self._name}: started" + (f", {total} {unit}" if total != 1 else ""))

    def advance(self, done: int = 1) -> None:
        with self._lock:
            if self._name is None:
                return
            self._done += done
            if self._bars is not None and self._task is not None:
                self._bars.advance(self._task, done)
            elif self._done < self._total and self._clock() - self._written >= LINE_EVERY_S:
                self._written = self._clock()
                self._write(self._state())

    def finish(self) -> None:
        with self._lock:
            if self._name is None:
                return
            if self._bars is not None and self._task is not None:
                self._bars.remove_task(self._task)
            else:
                elapsed = self._clock() - self._started
                ended = "finished" if self._done >= self._total else "stopped"
                rate = format_rate(self._done, elapsed, self._unit)
                counts = f", {self._done} of {self._total} {self._unit}"
                if self._total == 1 and self._done:  # one model or slide has no rate
                    counts = rate = ""
                self._write(
                    f"{self._name}: {ended}{counts} in {format_seconds(elapsed)}" + (f", {rate}" if rate else "")
                )
            self._name = self._task = None

    def slides(self, total: int) -> None:
        """A slide has no slides."""

    def for_slide(self, slide_id: str) -> StageProgress:
        return self

    def _state(self) -> str:
        elapsed = self._clock() - self._started
        rate = format_rate(self._done, elapsed, self._unit)
        return ", ".join(
            part
            for part in (
                f"{self._name}: {self._done} of {self._total} {self._unit}",
                rate,
                format_times(self._done, self._total, elapsed),
            )
            if part
        )


class TerminalProgress:
    """Shows the stages of a verb (a wsikit.progress.Progress). A context manager.

    Parameters
    ----------
    console
        Where the bars are drawn. If it is not a terminal, lines are written to standard error instead.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._bars: RichProgress | None = None
        if console.is_terminal:
            self._bars = RichProgress(
                SpinnerColumn(),
                TextColumn("{task.description:<16.40}"),
                BarColumn(24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                _Rate(),
                _Times(),
                console=console,
                transient=True,
            )
        self._in_batch = False
        self._batch: TaskID | None = None
        self._stages = self.for_slide("")

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def slides(self, total: int) -> None:
        self._in_batch = True
        if self._bars is not None:
            self._batch = self._bars.add_task("slides", total=total, unit="slides")

    def for_slide(self, slide_id: str) -> StageProgress:
        """The listener for one slide of a batch: its stages have their own bar, or lines that begin with its id."""
        return StageProgress(self._bars, _write_line, slide_id if self._in_batch else "", self._clock)

    def slide_done(self) -> None:
        """One slide of the batch is finished or has failed. Its last stage is over too."""
        self.finish()
        if self._bars is not None and self._batch is not None:
            self._bars.advance(self._batch)

    def start(self, stage: str, total: int, unit: str) -> None:
        self._stages.start(stage, total, unit)

    def advance(self, done: int = 1) -> None:
        self._stages.advance(done)

    def finish(self) -> None:
        self._stages.finish()


def _write_line(line: str) -> None:
    click.echo(line, err=True)
