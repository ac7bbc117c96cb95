"""Progress in the terminal: one line per stage, with a rate and a time to go; on a pipe, nothing but results."""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as RichProgress,
)
from rich.text import Text


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text(f"{speed:,.0f} {unit}/s" if speed and speed >= 10 else f"{speed:.1f} {unit}/s" if speed else "")


class TerminalProgress:
    """Listens to the stages (wsikit.progress.Progress) and draws them. A context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description:<16}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._stage: TaskID | None = None
        self._prefix = ""
        self._slides: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def slides(self, total: int) -> None:
        """A batch of `total` slides begins."""
        self._slides = self._bars.add_task("slides", total=total, unit="slides")

    def slide_done(self) -> None:
        """One slide of the batch is over; whatever stage it broke off in is over too."""
        self.finish()
        if self._slides is not None:
            self._bars.advance(self._slides)

    def for_slide(self, slide_id: str) -> TerminalProgress:
        """A listener for one slide of the batch: its stages have bars of their own."""
        child = copy.copy(self)
        child._stage = None
        child._prefix = f"{slide_id[:24]}: " if self._slides is not None else ""
        return child

    def start(self, stage: str, total: int, unit: str) -> None:
        self.finish()
        self._stage = self._bars.add_task(f"{self._prefix}{stage}", total=total, unit=unit)

    def advance(self, done: int = 1) -> None:
        if self._stage is not None:
            self._bars.advance(self._stage, done)

    def finish(self) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None
