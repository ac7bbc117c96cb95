"""Progress of a run: what stages report, and a listener that ignores it. The terminal's listener is in wsikit.cli."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listens to stages. For one slide, one stage runs at a time; slides may be worked on side by side."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins; it will do `total` of `unit` (shards, patches)."""

    def advance(self, done: int = 1) -> None:
        """`done` more units are finished. May be called from another thread."""

    def finish(self) -> None:
        """The stage is over."""

    def slides(self, total: int) -> None:
        """A batch of `total` slides begins."""

    def for_slide(self, slide_id: str) -> Progress:
        """The listener for the stages of one slide of a batch."""


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
