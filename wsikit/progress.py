"""How far a run is: what stages tell, and a listener that says nothing. The terminal's listener is in wsikit.cli."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by the stages what they do. One stage runs at a time."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """A stage begins; it will do `total` of `unit` (shards, patches)."""

    def advance(self, done: int = 1) -> None:
        """So many more are done. May be called from another thread."""

    def finish(self) -> None:
        """The stage is over."""


class Silent:
    """Progress that nobody watches."""

    def start(self, stage: str, total: int, unit: str) -> None:
        return None

    def advance(self, done: int = 1) -> None:
        return None

    def finish(self) -> None:
        return None


SILENT: Progress = Silent()
