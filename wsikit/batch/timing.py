"""What a run spent its time on, and what bound it: from the events of its log."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LITTLE_BUSY = 0.5
"""Fraction of the run below which no resource bound it: it was starting, loading, or waiting."""


@dataclass(frozen=True)
class StageTime:
    """Time of one stage, all slides together."""

    stage: str
    where: str
    """workers, device or driver: each processes one slide at a time."""
    slides: int
    seconds: float
    """Wall time; stages on different resources overlap."""
    done: int
    unit: str
    """What is counted in `done`: shards, patches, slides."""

    def rate(self) -> str:
        """Units per second, as text; empty if there is none."""
        if self.done <= self.slides or not self.seconds:
            return ""  # one per slide: a mask, a vote, a report
        rate = self.done / self.seconds
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"


@dataclass(frozen=True)
class RunTime:
    """Time of a run.

    >>> stages = (StageTime("pixels", "workers", 2, 3.0, 60, "shards"), StageTime("vote", "driver", 2, 0.1, 2, "slide"))
    >>> RunTime(4.0, stages).bound_by()
    'bound by pixels (workers, busy 75 % of 4 s)'
    """

    seconds: float
    """Wall time of the slides, from the first to the last."""
    stages: tuple[StageTime, ...] = field(default_factory=tuple)

    def busy(self) -> dict[str, float]:
        """Fraction of the time that each resource was busy, 0–1."""
        found: dict[str, float] = {}
        for stage in self.stages:
            found[stage.where] = found.get(stage.where, 0.0) + stage.seconds
        return {where: min(1.0, seconds / self.seconds) if self.seconds else 0.0 for where, seconds in found.items()}

    def bound_by(self) -> str:
        """What bound the run, in words: the longest stage on the resource that was busiest."""
        busy = self.busy()
        if not busy:
            return "no stage was carried out in this process"
        where = max(busy, key=lambda name: busy[name])
        longest = max((one for one in self.stages if one.where == where), key=lambda one: one.seconds)
        state = f"busy {100 * busy[where]:.0f} % of {self.seconds:,.0f} s"
        if busy[where] < LITTLE_BUSY:
            return f"bound by starting, loading or waiting; the longest stage was {longest.stage} ({where}, {state})"
        return f"bound by {longest.stage} ({where}, {state})"

    def to_json(self) -> dict[str, Any]:
        """As in run.json: `seconds`, `bound_by`, `busy` by resource, and the stages."""
        stages = [
            {
                "stage": one.stage,
                "where": one.where,
                "slides": one.slides,
                "seconds": round(one.seconds, 3),
                "done": one.done,
                "unit": one.unit,
            }
            for one in self.stages
        ]
        busy = {where: round(fraction, 3) for where, fraction in self.busy().items()}
        return {"seconds": round(self.seconds, 3), "bound_by": self.bound_by(), "busy": busy, "stages": stages}


class Stopwatch:
    """Adds up the ends of stages as they are logged. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self._stages: dict[tuple[str, str], StageTime] = {}

    def add(self, event: Mapping[str, Any]) -> None:
        """Take one event of the log; others than ends of stages are passed over."""
        if event.get("event") != "end":
            return
        stage, where, unit = str(event["stage"]), str(event["where"]), str(event["unit"])
        with self._lock:
            before = self._stages.get((where, stage), StageTime(stage, where, 0, 0.0, 0, unit))
            self._stages[where, stage] = StageTime(
                stage, where, before.slides + 1, before.seconds + event["seconds"], before.done + event["done"], unit
            )

    def read(self) -> RunTime:
        """The time until now."""
        with self._lock:
            stages = sorted(self._stages.values(), key=lambda one: -one.seconds)
            return RunTime(time.monotonic() - self._begun, tuple(stages))
