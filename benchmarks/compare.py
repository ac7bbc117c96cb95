"""Benchmark results side by side: this build, the other one and the aims; or two results, and which ratios got worse.

    python benchmarks/compare.py RESULTS/all.json
    python benchmarks/compare.py OLD.json NEW.json [--tolerance 0.1]

The first prints the figures of one run of `run_all.py`, in which both builds were measured in turns. The second takes
two results of one script, or of `run_all.py`.

Prints every number that both hold, old → new. Only ratios are judged, as seconds depend on the machine and on who else
uses it: a number whose name says `ratio` or `against`, or one of a group `share` or `times as fast`. More is better,
unless the name speaks of bytes or memory.
Exit status 1 if a ratio got worse by more than the tolerance (0.1: by a tenth), or is gone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATIO_WORDS = ("ratio", "against")
LESS_IS_BETTER = ("bytes", "rss", "memory")
RATIO_GROUPS = re.compile(r"(^|\.)(share|times as fast)(\.[^.]+)?\.(wall|cpu|least_cpu)_s$")
"""Ratios of `features.py`, by kind of time, in `share` or by name in `times as fast`."""


@dataclass(frozen=True)
class Change:
    """One number, before and after."""

    name: str
    """Its place in the JSON, with dots."""
    old: float
    new: float | None
    """None: it is gone."""

    @property
    def judged(self) -> bool:
        """Whether it is a ratio."""
        named = any(word in self.name.rsplit(".", 1)[-1] for word in RATIO_WORDS)
        return named or RATIO_GROUPS.search(self.name) is not None

    @property
    def gain(self) -> float:
        """New in units of old, above 1 where it got better."""
        if self.new is None:
            return 0.0
        less = any(word in self.name.rsplit(".", 1)[-1] for word in LESS_IS_BETTER)
        above, below = (self.old, self.new) if less else (self.new, self.old)
        return above / below if below else 1.0 if above == below else float("inf")

    def worse(self, tolerance: float) -> bool:
        """Whether it is a ratio that got worse by more than `tolerance`."""
        return self.judged and self.gain < 1 - tolerance


def numbers(record: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a JSON value, with its place. Lists of numbers are single measurements and left out."""
    if isinstance(record, dict):
        for key, value in record.items():
            yield from numbers(value, f"{place}.{key}" if place else str(key))
    elif isinstance(record, list):
        for index, value in enumerate(record):
            if isinstance(value, dict):
                yield from numbers(value, f"{place}.{value.get('slide', index)}")
    elif isinstance(record, int | float) and not isinstance(record, bool):
        yield place, float(record)


def changes(old: Any, new: Any) -> list[Change]:
    """Every number of `old`, and what it is in `new`; of those that are gone only the ratios."""
    now = dict(numbers(new))
    found = [Change(name, value, now.get(name)) for name, value in numbers(old)]
    return [change for change in found if change.new is not None or change.judged]


def print_table(record: dict[str, Any]) -> None:
    """The figures of `run_all.py` in columns."""
    from figures import table

    print(f"base {record.get('base', '–')}, here {record.get('build', '–')}, {record.get('machine', {})}")
    rows = table(record)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    missed = sum(row[-1] == "NO" for row in rows)
    print(f"{sum(row[-1] == 'yes' for row in rows)} aims reached, {missed} not")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", help="left out: OLD is from run_all.py, and is shown by itself")
    parser.add_argument("--tolerance", type=float, default=0.1)
    given = parser.parse_args(arguments)
    if given.new is None:
        print_table(json.loads(given.old.read_text(encoding="utf-8")))
        return 0
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (given.old, given.new))
    found = changes(old, new)
    worse = [change for change in found if change.worse(given.tolerance)]
    for change in found:
        now = "gone" if change.new is None else f"{change.new:g}"
        times = f"  ×{change.new / change.old:.2f}" if change.new is not None and change.old else ""
        print(f"{'WORSE' if change in worse else '     '}  {change.name}: {change.old:g} → {now}{times}")
    print(f"{sum(change.judged for change in found)} ratios, {len(worse)} worse by more than {given.tolerance:g}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
