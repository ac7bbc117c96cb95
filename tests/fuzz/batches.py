"""Many damaged slides in one folder, through one `wsikit tile` and one `wsikit run`, as a laboratory would send them.

Says of each slide what the command said of it; of the command, what must not happen to a batch.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsikit.batch.records import DONE, read_rows

SILENT_SECONDS = 240
"""Without a line, on a machine that others use too: the command is ended, and counts as hanging."""
STALLED_MINUTES = "1"
"""A slide of so few pixels that makes no progress for so long hangs: wsikit ends its process (docs/reliability.md)."""
ADDRESS_SPACE = 16 << 30
"""Bytes that a process may map. A run of undamaged slides maps some 5 GB."""

_OPTIONS = ("--codec", "zstd", "--assume-mpp", "0.5", "--min-tissue", "0", "--workers", "1")
_ADDED = {"tile": (), "run": ("--device", "cpu")}
_BY_NAME_ONLY = (".png", ".jpg", ".webp", ".jp2")
"""Pictures in a folder are not taken for slides."""
_UNEXPECTED = re.compile(r": (?:unexpected )?[A-Z]\w*(?:Error|Exception|Warning|Interrupt): ")


@dataclass
class Outcome:
    """What one command made of a folder."""

    slides: dict[str, dict[str, Any]]
    """By path: {"store": folder} or {"error": line}; of `run` also the fraction that is unreadable and the seconds."""
    wrong: list[str] = field(default_factory=list)
    """What must not happen to a batch: "hang", "crash", "traceback", "several lines", "lost"."""
    largest_mb: float = 0.0
    """Resident memory of its largest process."""
    seconds: float = 0.0
    said: str = ""
    """The end of what it printed."""


def carry_out(verb: str, folder: Path, mutants: Sequence[Path], out: Path) -> Outcome:
    """`wsikit tile` or `wsikit run` on all mutants in `folder`."""
    named = [str(path) for path in mutants if path.suffix in _BY_NAME_ONLY]
    command = [sys.executable, "-m", "wsikit.cli.main", verb, str(folder), *named, "-o", str(out)]
    environment = {**os.environ, "WSIKIT_STALLED_AFTER": STALLED_MINUTES}
    outputs = [out.with_name(f"{out.name}.{name}") for name in ("out", "err")]
    begun, hangs = time.monotonic(), False
    with open(outputs[0], "wb") as stdout, open(outputs[1], "wb") as stderr:
        process = subprocess.Popen(
            [*command, *_OPTIONS, *_ADDED[verb]],
            stdout=stdout,
            stderr=stderr,
            env=environment,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
        )
        size, since = 0, begun
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            now = sum(path.stat().st_size for path in outputs)
            size, since = (now, time.monotonic()) if now != size else (size, since)
            if not hangs and time.monotonic() - since > SILENT_SECONDS:
                hangs = True
                process.kill()  # the process that works ends with it
            time.sleep(0.2)
        process.returncode = os.waitstatus_to_exitcode(status)
    printed, errors = (path.read_text(encoding="utf-8", errors="replace") for path in outputs)
    slides = _of_tile(printed, errors, mutants) if verb == "tile" else _of_run(out, mutants)
    found = Outcome(slides, largest_mb=used.ru_maxrss / 1024, seconds=time.monotonic() - begun)
    found.said = (printed + errors)[-2000:]
    found.wrong += ["hang"] * hangs
    if not hangs and (process.returncode not in (0, 1) or "a crash in a library" in errors):
        found.wrong.append("crash")
    if "Traceback (most recent call last)" in printed + errors:
        found.wrong.append("traceback")
    if any(str(path) not in slides for path in mutants):
        found.wrong.append("lost")
    return found


def wrong_with(found: Mapping[str, Any]) -> list[str]:
    """What must not become of one slide."""
    error = found.get("error", "")
    wrong = ["traceback"] * bool(_UNEXPECTED.search(error)) + ["memory"] * ("MemoryError" in error)
    wrong += ["hang"] * ("no progress for" in error) + ["crash"] * ("ended by" in error)
    return wrong + ["several lines"] * (len(error.splitlines()) > 1)


def _of_tile(printed: str, errors: str, mutants: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """`wsikit tile` prints a line for each slide: the store on standard output, the reason on standard error."""
    ends = [line.partition(".zarr: ")[0] for line in printed.splitlines() if ".zarr: " in line]
    stores = {Path(end).name: f"{end}.zarr" for end in ends}
    reasons = [line for line in errors.splitlines() if line.startswith("wsikit: ")]
    found: dict[str, dict[str, Any]] = {}
    for path in mutants:
        own = stores.get(_id_of(path))
        failed = [line for line in reasons if path.stem in line]
        if own is not None and not failed:
            found[str(path)] = {"store": own}
        elif failed and own is None:
            found[str(path)] = {"error": "\n".join(failed)}
    return found


def _of_run(out: Path, mutants: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """`wsikit run` writes a row for each slide."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_rows(out):
        if row.status == DONE:
            store = str(out / "slides" / f"{row.slide_id}.zarr")
            found[row.path] = {"store": store, "unreadable": row.unreadable_fraction, "seconds": row.seconds}
        else:
            found[row.path] = {"error": row.error or ""}
    return found


def _id_of(path: Path) -> str:
    """The id that wsikit gives to a mutant, whose name no other has."""
    return path.stem if path.suffix in _BY_NAME_ONLY else f"{path.parent.name}__{path.stem}"
