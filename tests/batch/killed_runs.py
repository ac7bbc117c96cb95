"""A script for test_killed_runs.py: kills `wsikit.run` and an export (SIGKILL) at random moments, and finishes them.

    killed_runs.py FOLDER KILLS SEED [LOG]

Two small phantoms are tiled, described, encoded, classified, voted on, drawn, and exported. Half of the kills are
aimed: shortly after a stage has begun, or while slides.csv and index.html are written; the others come at a uniform
moment. After each kill (a third of them are followed by a second one during the rerun) the same run is started again
and must end with the results of one that was never killed, byte for byte, but for times: nothing lost, doubled, or
left over. Prints as JSON the kills by the stages that the slides were in, and what was wrong.

Everything is imported once; each attempt is a fork of this process, in which no other thread lives.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# imported before the forks, or each would take seconds
import dask.threaded  # noqa: F401
import pandas  # noqa: F401
import scipy.ndimage  # noqa: F401
import torch
import zarr  # noqa: F401

import wsikit
from wsikit.batch import index, scheduler  # noqa: F401
from wsikit.results import outputs  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent))
from colours_encoder import Colours  # noqa: E402

STAGES = (
    "opening",
    "pixels",
    "tissue",
    "patches",
    "quality and captions",
    "encoder",
    "model",
    "vote",
    "map and report",
    "index",
    "export",
)
_TIMES = re.compile(r'"seconds": ?[\d.]+|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?')


def work(slides: Path, out: Path) -> None:
    """What is killed."""
    torch.set_num_threads(1)
    result = wsikit.run(slides, out, features=Colours(), device="cpu", workers=1)
    if result.exit_status:
        raise SystemExit(str(result))
    (out / "exporting").touch()
    for number, row in enumerate(result):
        store = result.store(number)
        for to, name in (("geojson", "regions.geojson"), ("ome-tiff", "map.ome.tiff"), ("csv", "patches.csv")):
            wsikit.export(store, to, out / "exported" / f"{row.slide_id}_{name}", on_note=lambda _: None)
        store.close()


def start(slides: Path, out: Path) -> int:
    """Fork a child that works; its process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(slides, out)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def state(out: Path) -> dict[str, str]:
    """Digest of each file of an output folder by its name, without what differs between two equal runs."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or name.endswith((".lock", "log.jsonl", "exporting")):
            continue
        if name == "slides.csv":
            rows = list(csv.DictReader(path.open(encoding="utf-8", newline="")))
            data = repr([{key: value for key, value in row.items() if key != "seconds"} for row in rows]).encode()
        elif name in ("run.json", "index.html") or name.endswith(("row.json", "report.html", "provenance.json")):
            record = path.read_text(encoding="utf-8")
            if name == "run.json":
                record = json.dumps({key: value for key, value in json.loads(record).items() if key != "time"})
            data = _TIMES.sub("", record.replace(str(out), "OUT")).encode()
        elif name.endswith("finished.json"):
            data = b"there"  # sizes of files with times
        else:
            data = path.read_bytes()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def in_work(out: Path) -> str:
    """The stages that were in work at the kill."""
    marks = []
    for path in sorted((out / "slides").glob(".*.begun.json")):
        try:
            marks.append(str(json.loads(path.read_text())["stage"]))
        except (ValueError, KeyError):
            marks.append("cut-off mark")
    if marks:
        return " + ".join(sorted(marks))
    return "export" if (out / "exporting").exists() else "between slides"


def when(out: Path, stage: str, chance: random.Random, whole_s: float) -> Callable[[int], None]:
    """A function that waits for a moment shortly after the stage has begun in one of the slides."""

    def wait(child: int) -> None:
        log, until, wanted = out / "log.jsonl", time.monotonic() + 5 * whole_s + 20, chance.choice((1, 2))
        sign = {"index": '"event": "slide"', "opening": '"stage": "opening"'}.get(stage, f'"stage": "{stage}", "total"')
        while time.monotonic() < until and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if stage == "export":
                if (out / "exporting").exists():
                    break
            elif log.is_file() and log.read_text(errors="replace").count(sign) >= wanted:
                break
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.15))

    return wait


def kill(child: int, wait: Callable[[int], None]) -> bool:
    """Kill the child after `wait`; False if it had come to its end before."""
    wait(child)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and status:
        raise SystemExit("a run failed where it should have continued")
    return os.WIFSIGNALED(status)


def main() -> None:
    folder, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    log = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    slides, out, whole = folder / "in", folder / "killed" / "out", folder / "whole" / "out"
    for seed, subtype in enumerate(("PD", "D")):
        wsikit.make_phantom(slides / f"{subtype}.tiff", size_px=(900, 700), subtype=subtype, seed=seed)
    begun = time.monotonic()
    if os.waitpid(start(slides, whole), 0)[1]:
        raise SystemExit("the run that is not killed failed")
    whole_s = time.monotonic() - begun
    expected = state(whole)
    at: Counter[str] = Counter()
    wrong: list[str] = []
    killed = attempts = 0
    while killed < kills:
        stage = STAGES[attempts % len(STAGES)] if attempts % 2 else None
        attempts += 1
        for again in (False, True):
            if again and chance.random() > 1 / 3:
                break
            moment = chance.uniform(0, 1.0) * whole_s
            wait = when(out, stage, chance, whole_s) if stage and not again else lambda _, s=moment: time.sleep(s)
            if not kill(start(slides, out), wait):
                break
            killed += 1
            at[in_work(out)] += 1
        status = os.waitpid(start(slides, out), 0)[1]
        found = state(out)
        if status:
            wrong.append(f"attempt {attempts}: exit status {status}")
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                what = "lost" if name not in found else "left over" if name not in expected else "different"
                wrong.append(f"attempt {attempts}, {stage or 'any moment'}: {name} {what}")
        if wrong and log:
            shutil.copytree(out, folder / f"wrong_{attempts}", dirs_exist_ok=True)
        shutil.rmtree(out)
        if log:
            log.write_text(json.dumps({"attempts": attempts, "killed": killed, "at": at, "wrong": wrong}) + "\n")
    print(json.dumps({"attempts": attempts, "killed": killed, "at": dict(at.most_common()), "wrong": wrong}))


if __name__ == "__main__":
    main()
