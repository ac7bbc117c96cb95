"""Measured captions on worker processes: what they gain, what they cost, and how many of them one process can feed.

    python benchmarks/caption_workers.py SLIDE [--workers 1,2] [--repeats 3] [--overlap 112] [--json FILE]

The slide is tiled into a scratch folder, in patches of 224 px at its own scale. Then its captions are measured, in
turns with each number of workers: with processes that are ready (as from the second slide of a run on), and from
nothing. Least wall seconds, and least processor seconds of this process and of the worker processes. The processor
seconds of the workers over those of this process are how many workers it can feed; they hold on a busy machine, gains
in wall seconds need as many idle cores as workers. Memory is that of one worker process: its most, and its part of what
it shares (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import wsikit
from wsikit.captions.morphometry import Morphometry
from wsikit.executor import Executor
from wsikit.store.table import PatchTable
from wsikit.worker import import_modules
from wsikit.worker_pool import WorkerPool, packed, shared_pool

MODULES = ("wsikit.inference.caption", "wsikit.captions.morphometry", "wsikit.tiling.patches")
COLUMNS = ("caption", "caption_facts")


@dataclass(frozen=True)
class Cost:
    """Seconds of one measurement."""

    wall: float
    own: float
    """Processor seconds of this process."""
    workers: float
    """Processor seconds of the worker processes."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="captions-") as scratch:
        store = wsikit.tile(
            options.slide,
            Path(scratch) / "slide.zarr",
            mpp=max(wsikit.open_slide(options.slide).mpp),
            overlap_px=options.overlap,
        )
        found = measure(store, [int(count) for count in options.workers.split(",")], options.repeats)
    print(json.dumps(found, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def measure(store: wsikit.SlideStore, counts: list[int], repeats: int) -> dict[str, Any]:
    """All figures, ready for JSON."""
    table = store.patches()
    found: dict[str, Any] = {"patches": len(table), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    costs: dict[str, list[Cost]] = {}
    expected: Any = None
    for _ in range(repeats):
        for count in counts:
            for ready in (False, True) if count > 1 else (True,):
                name = f"{count} workers{'' if ready else ', from nothing'}"
                cost, memory = _once(store, table, count, ready)
                costs.setdefault(name, []).append(cost)
                found |= memory
                columns = [table.read(column) for column in COLUMNS]
                expected = expected or columns
                assert all(
                    np.array_equal(one, other, equal_nan=one.dtype != object) for one, other in zip(columns, expected)
                )
    least = {
        name: {part: round(min(getattr(one, part) for one in of), 3) for part in ("wall", "own", "workers")}
        for name, of in costs.items()
    }
    for name, row in least.items():
        row["patches per wall s"] = round(len(table) / row["wall"], 1)
        if "1 workers" in least and name != "1 workers":
            row["gain over 1"] = round(least["1 workers"]["wall"] / row["wall"], 2)
        if row["workers"]:
            row["workers that can be fed"] = round(row["workers"] / row["own"], 1)
    return found | least


def _once(store: wsikit.SlideStore, table: PatchTable, count: int, ready: bool) -> tuple[Cost, dict[str, Any]]:
    for column in COLUMNS:
        if column in table.columns():
            table.drop(column)
    memory: dict[str, Any] = {}
    with ExitStack() as stack:
        pool = stack.enter_context(shared_pool())
        before = _children()
        if ready and count > 1:
            _start(pool, count)
        of_workers = _running(pool)
        begun, own = time.perf_counter(), time.process_time()
        wsikit.caption(store, captioner=Morphometry(), executor=Executor(workers=count))
        wall, own = time.perf_counter() - begun, time.process_time() - own
        if ready and count > 1:
            memory = _memory(pool._all[0].process.pid)
            workers = _running(pool) - of_workers
        else:
            pool.close()
            workers = _children() - before
    return Cost(wall, own, workers), memory


def _start(pool: WorkerPool, count: int) -> None:
    work = packed(import_modules, MODULES)
    assert work is not None
    pool.start(work, 1e9, count)
    while len(pool._idle) < count:
        time.sleep(0.01)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _running(pool: WorkerPool) -> float:
    """Processor seconds of processes that run (Linux)."""
    ticks = os.sysconf("SC_CLK_TCK")
    stats = [Path(f"/proc/{one.process.pid}/stat").read_text().rpartition(")")[2].split() for one in pool._all]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / ticks


def _memory(pid: int) -> dict[str, Any]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    parts = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kib = {"most": status["VmHWM"], "its part now": parts["Pss"]}
    return {"MB of a worker process": {name: round(int(size.split()[0]) / 1024) for name, size in kib.items()}}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measured captions on worker processes.")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--workers", default=f"1,{os.cpu_count()}", metavar="N,…", help="numbers of workers, in turns")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="the least time of N counts")
    parser.add_argument("--overlap", type=int, default=0, metavar="PX", help="overlap of patches: more of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
