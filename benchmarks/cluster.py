"""What the engine of a cluster costs: per block, for many slides on many workers, and in memory.

Usage: python benchmarks/cluster.py blocks|slides|memory|rates [--seconds 5] [--workers N] [--slides 1000] [--scale 30]

blocks   Sleeping blocks on worker processes of this machine: how much longer they take than the work alone.
slides   A simulated cluster: workers as threads of one process, slides whose work is to sleep. Their times are
         log-normal (median 600 s, sigma 1, divided by --scale); a slide that a run would cut into blocks is cut.
         The driver, the scheduler and the cutting are those of a run. Printed is how busy the workers were, from the
         first task to the last.
memory   Runs of one slide of 3,000 and of 12,000 px on two worker processes: the largest resident set of a worker.
rates    Four slides on one worker process: seconds per slide, means per stage, from the log of the run; and what the
         driver does before it sends the first of 1,000 slides.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import wsikit
from wsikit import clusters
from wsikit.batch import cluster
from wsikit.batch.cluster_slide import Outcome, SlideTask
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Job
from wsikit.batch.log import RunLog, read_log
from wsikit.batch.prepare import prepare
from wsikit.batch.records import DONE, SlideRow
from wsikit.batch.reporter import Reporter
from wsikit.executor import Executor
from wsikit.progress import SILENT

MEDIAN_S, SIGMA, PATCHES_PER_S = 600.0, 1.0, 28.0
BLOCK_S = 5.0


def blocks(seconds: float, workers: int, per_worker: int) -> dict[str, Any]:
    """Time of sleeping blocks beyond their sleep, as a share of it."""
    with clusters.connected("processes", workers) as client:
        clusters.carry_out(client, "processes", time.sleep, [0.01] * workers, lambda *_: None)  # workers are warm
        begun = time.perf_counter()
        clusters.carry_out(client, "processes", time.sleep, [seconds] * (per_worker * workers), lambda *_: None)
        took = time.perf_counter() - begun
    work = seconds * per_worker
    return {"blocks": per_worker * workers, "of_s": seconds, "workers": workers, "overhead": round(took / work - 1, 4)}


class Slept:
    """Adds up how long tasks slept, and when the first began and the last ended."""

    def __init__(self) -> None:
        self.lock, self.total, self.first, self.last = threading.Lock(), 0.0, float("inf"), 0.0

    def sleep(self, seconds: float) -> bool:
        begun = time.perf_counter()
        time.sleep(seconds)
        ended = time.perf_counter()
        with self.lock:
            self.total += ended - begun
            self.first, self.last = min(self.first, begun), max(self.last, ended)
        return True


SLEPT = Slept()
SCALE = 30.0


def sleep_block(seconds: float) -> bool:
    """A block of a large slide."""
    return SLEPT.sleep(seconds)


def sleep_slide(task: SlideTask) -> Outcome:
    """A slide, in place of `carry_out_slide`: its file's size says how long it takes, in ms."""
    seconds = Path(task.entry.path).stat().st_size / 1e3
    if not task.cut or seconds * SCALE * PATCHES_PER_S < cluster.BLOCKS_FROM:
        SLEPT.sleep(seconds)
    else:
        number = max(1, round(seconds * SCALE / BLOCK_S / 4))  # blocks of four chunks of rows
        with clusters.connected(str(task.request), 1) as client:
            sleeps = [seconds / number] * number
            clusters.carry_out(client, str(task.request), sleep_block, sleeps, lambda *_: None, priority=10)
    return Outcome(SlideRow(task.entry.slide_id, task.entry.path, DONE))


def slides(workers: int, number: int, scale: float) -> dict[str, Any]:
    """How busy simulated workers are."""
    import distributed

    global SCALE
    SCALE = scale
    cluster.carry_out_slide = sleep_slide  # type: ignore[assignment]
    seconds = np.random.default_rng(0).lognormal(np.log(MEDIAN_S / scale), SIGMA, number)
    cut = int((seconds * workers > cluster.FAIR_SHARES * seconds.sum()).sum())
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for index, one in enumerate(seconds):
            path = Path(folder, f"{index:04d}.slide")
            with open(path, "wb") as file:
                file.truncate(round(1e3 * one))
            entries.append(SlideEntry(path.stem, str(path)))
        options = {"n_workers": workers, "threads_per_worker": 1, "processes": False, "memory_limit": 0}
        options |= {"dashboard_address": None}
        with distributed.LocalCluster(**options) as local, distributed.Client(local, set_as_default=False) as client:
            address = local.scheduler_address
            shared: Any = argparse.Namespace(out=Path(folder))
            requests = {entry.slide_id: address for entry in entries}
            job = Job(entries, requests, shared, SILENT, RunLog(Path(folder)))
            rows = cluster._Driver(job, client, address, "simulated", Reporter(job)).carry_out()
    assert all(row is not None and row.status == DONE for row in rows)
    took = SLEPT.last - SLEPT.first
    return {
        "workers": workers,
        "slides": number,
        "cut_into_blocks": cut,
        "time_divided_by": scale,
        "longest_s": round(float(seconds.max()), 1),
        "work_s": round(float(seconds.sum()), 1),
        "took_s": round(took, 1),
        "busy": round(SLEPT.total / workers / took, 4),
    }


def memory() -> list[dict[str, Any]]:
    """Largest resident set of a worker process, by the size of the slide."""
    import psutil

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for side in (3000, 12000):
            path = wsikit.make_phantom(f"{folder}/{side}.tiff", size_px=(side, side)).path
            cluster.BLOCKS_FROM, cluster.FAIR_SHARES = 1, 0.5  # the slide is cut, whatever its size
            most, ended = [0], threading.Event()

            def watch(most: list[int] = most, ended: threading.Event = ended) -> None:
                while not ended.wait(0.2):
                    for child in psutil.Process().children(recursive=True):
                        try:
                            most[0] = max(most[0], child.memory_info().rss)
                        except psutil.NoSuchProcess:
                            continue

            watcher = threading.Thread(target=watch)
            watcher.start()
            begun = time.perf_counter()
            result = wsikit.run(path, f"{folder}/out{side}", scheduler="processes", workers=2, device="cpu")
            ended.set()
            watcher.join()
            row = result[0]
            seconds = round(time.perf_counter() - begun, 1)
            found.append({"side_px": side, "patches": row.n_patches, "s": seconds, "worker_MB": most[0] // 1000000})
    return found


def rates() -> dict[str, Any]:
    """Seconds of each stage per slide, and of the slides, on one worker process of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        given = [wsikit.make_phantom(f"{folder}/{i}.tiff", size_px=(4000, 4000), seed=i).path for i in range(4)]
        result = wsikit.run(given, f"{folder}/out", scheduler="processes", workers=1, device="cpu")
        ends = [event for event in read_log(result.out) if event["event"] == "end"]
    stages: dict[str, float] = {}
    for event in ends:
        stages[event["stage"]] = round(stages.get(event["stage"], 0.0) + event["seconds"] / len(given), 2)
    patches = [row.n_patches for row in result]
    seconds = [row.seconds for row in result]
    return {"patches": patches, "s_per_slide": seconds, "stages_s": stages, "driver_s_per_slide": driver()}


def driver(number: int = 1000) -> dict[str, float]:
    """Wall and processor seconds per slide, before the first one is sent: found, fingerprinted, compared with OUT."""
    with tempfile.TemporaryDirectory() as folder:
        slide = wsikit.make_phantom(f"{folder}/0.tiff", size_px=(500, 500)).path
        for index in range(1, number):
            shutil.copy(slide, f"{folder}/{index}.tiff")
        wall, cpu = time.perf_counter(), time.process_time()
        prepared = prepare(folder, f"{folder}/out", executor=Executor())
        prepared.finished()
        return {
            "wall": round((time.perf_counter() - wall) / number, 4),
            "cpu": round((time.process_time() - cpu) / number, 4),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["blocks", "slides", "memory", "rates"])
    parser.add_argument("--seconds", type=float, default=BLOCK_S, help="sleep of a block")
    parser.add_argument("--per-worker", type=int, default=6, help="blocks per worker")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--scale", type=float, default=30.0, help="simulated times are divided by this")
    given = parser.parse_args()
    found: Any
    if given.what == "blocks":
        found = blocks(given.seconds, given.workers or 4, given.per_worker)
    elif given.what == "slides":
        found = slides(given.workers or 100, given.slides, given.scale)
    else:
        found = memory() if given.what == "memory" else rates()
    print(json.dumps(found))


if __name__ == "__main__":  # as a module, so that workers can import its functions
    importlib.import_module(Path(__file__).stem).main()
