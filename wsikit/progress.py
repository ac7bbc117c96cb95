"""Progress of a run: the interface that stages call, and a version that shows nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of stages. Each slide runs one stage at a time; several slides may run in parallel."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage starts; it has `total` units, such as shards or patches."""

    def advance(self, done: int = 1) -> None:
        """`done` more units are complete. May be called from another thread."""

    def finish(self) -> None:
        """The stage has ended."""

    def slides(self, total: int) -> None:
        """A run of `total` slides starts."""

    def for_slide(self, slide_id: str) -> Progress:
        """The progress of the stages of one slide."""


class Silent:
    """Progress that is not shown."""

    def start(self, stage: str, total: int, unit: str) -> None:
        return None

    def advance(self, done: int = 1) -> None:
        return None

    def finish(self) -> None:
        return None

    def slides(self, total: int) -> None:
        return None

    def for_slide(self, slide_id: str) -> Progress:
        return self


SILENT: Progress = Silent()
