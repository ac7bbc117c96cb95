"""Opens damaged slides in a child process, and counts what becomes of them.

    fuzz_slides.py FOLDER [--mutants 2000] [--seed 1] [--slides FILE…] [--only WORDS] [--log FILE]
        [--minutes N] [--batch N]

Each mutant is a damaged copy of a small valid slide (`made_slides.py`, `--slides`), made by a seed (`mutation.py`), and
goes through `wsikit info` and reading of all tiles, each fifth also through `wsikit tile`, and each fortieth through
`wsikit run`. With `--batch N`, folders of N mutants go through one `wsikit tile` and one `wsikit run` each, so that
every mutant goes through all. The child has a limit of memory, and is ended when a step takes 30 s of processor time.
Prints a table per container and codec, and as the last line JSON. Exit status 1 if anything happened that must not.

Mutants are not kept; the log names them by slide and seed, so that `--again NAME SEED` makes one again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import select
import shutil
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import made_slides  # noqa: E402
import mutation  # noqa: E402
from batches import carry_out, wrong_with  # noqa: E402

CHILD = Path(__file__).with_name("child.py")
STEP_SECONDS, WALL_SECONDS = 30, 240
"""Processor time, and wall time on a machine that others use too, of one step."""
MEMORY_MB, MOST_GROWN_MB = 2048, 1024
TILE_EACH, RUN_EACH = 5, 40
VERBS = ("tile", "run")
STORE = "store"
"""Begin of the names of stores. They lie in folders of their own: a store next to its slide is passed over."""

REFUSED, EQUAL, UNREADABLE, OTHER, CHANGED = "refused", "equal", "reported", "other shape", "changed"
MUST_NOT = (
    "white",
    "traceback",
    "crash",
    "hang",
    "memory",
    "store differs",
    "patches differ",
    "not reported",
    "several lines",
    "lost",
)
"""What must not happen to any mutant, one word each."""


class Child:
    """The process that opens the mutants; started again after it died."""

    def __init__(self, memory_mb: int, warm: dict[str, Any]) -> None:
        self.memory_mb, self.warm = memory_mb, warm
        self.process: subprocess.Popen[bytes] | None = None
        self.rest = b""

    def start(self) -> None:
        command = [sys.executable, str(CHILD), str(self.memory_mb)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.rest = b""
        shutil.rmtree(self.warm["work"], ignore_errors=True)
        if "ready" not in (self._line(WALL_SECONDS) or {}) or "done" not in self._asked(self.warm):
            raise SystemExit("the child cannot open an undamaged slide")

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """What was seen; {"hang": step} or {"crash": step} if the child did not live to say it."""
        if self.process is None:
            self.start()
        found = self._asked(job)
        if "done" not in found:
            self.stop()
        done: dict[str, Any] = found.get("done", found)
        return done

    def _asked(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        step = "start"
        while True:
            line = self._line(WALL_SECONDS)
            if line is None:
                return {"hang": step}
            if not line:
                return {"crash": f"{step}, status {self.process.wait()}"}
            if "done" in line:
                return line
            step = line["step"]

    def _line(self, wall: float) -> dict[str, Any] | None:
        """The next line; {} if the child has ended; None if it takes too long."""
        assert self.process is not None
        assert self.process.stdout is not None
        began, used = time.monotonic(), self._processor_seconds()
        while b"\n" not in self.rest:
            if select.select([self.process.stdout], [], [], 1)[0]:
                read = os.read(self.process.stdout.fileno(), 1 << 16)
                if not read:
                    return {}
                self.rest += read
            elif time.monotonic() - began > wall or self._processor_seconds() - used > STEP_SECONDS:
                return None
        line, _, self.rest = self.rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _processor_seconds(self) -> float:
        assert self.process is not None
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def seed_of(name: str, seed: int) -> int:
    """The seed of a slide's mutant: every slide is damaged in its own way."""
    return seed * 1_000_000 + zlib.crc32(name.encode()) % 1_000_000


def classify(seen: dict[str, Any]) -> tuple[str, list[str]]:
    """What became of one mutant, and what happened to it that must not."""
    for word in ("hang", "crash"):
        if word in seen:
            return word, [word]
    wrong = []
    stages = [seen[name] for name in ("info", "read", "tile", "run") if name in seen]
    escaped = [stage["escaped"] for stage in stages if stage.get("escaped")]
    reasons = seen.get("run", {}).get("reason", [])
    if escaped or any("Error" in text and "wsikit.errors" not in text for text in reasons):
        wrong.append("traceback")
    if any("MemoryError" in text for text in (*escaped, *reasons)) or seen.get("grown_mb", 0) > MOST_GROWN_MB:
        wrong.append("memory")
    refusal = seen.get("info", {})
    if refusal.get("status") and len([line for line in refusal["lines"] if line.startswith("wsikit:")]) != 1:
        wrong.append("several lines")
    stores = [seen[name] for name in ("kept", *(f"kept by {verb}" for verb in VERBS)) if name in seen]
    if any(store.get("differs") or "refused" in store for store in stores):
        wrong.append("store differs")
    if any(store.get("patches") for store in stores):
        wrong.append("patches differ")
    read = seen.get("read")
    if read is None or "refused" in read or "escaped" in read:
        return REFUSED, wrong
    if not read["shape"]:
        return OTHER, wrong
    if read["white"]:
        wrong.append("white")
    if read["changed"]:
        return CHANGED, wrong
    return (UNREADABLE if read["unreadable"] else EQUAL), wrong


def fuzz(
    folder: Path,
    sources: dict[str, Path],
    seeds: Iterable[int],
    *,
    tile_each: int = TILE_EACH,
    run_each: int = RUN_EACH,
    log: Path | None = None,
    seconds: float = math.inf,
) -> list[dict[str, Any]]:
    """One mutant of each source for each seed: name, seed, area and kind of the damage, result, and what was wrong.
    No further seed is begun after `seconds`."""
    first = next(iter(sources.values()))
    every = ["tile", "run"] if run_each else ["tile"]
    warm = {"path": str(first), "truth": str(first), "work": str(folder / "warm"), "steps": every, "warm": True}
    child, rows, began = Child(MEMORY_MB, warm), [], time.monotonic()
    try:
        for seed in seeds:
            if time.monotonic() - began > seconds:
                break
            for name, source in sources.items():
                number = len(rows)
                place = folder / "mutant"
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                damage = mutation.mutate(source, place / source.name, seed_of(name, seed))
                job = {"path": str(place / source.name), "truth": str(source), "work": str(folder / f"work{number}")}
                each = {"tile": tile_each, "run": run_each}
                job["steps"] = [step for step, n in each.items() if n and (number + seed) % n == 0]  # type: ignore[assignment]
                seen = child.ask(job)
                result, wrong = classify(seen)
                row = {"slide": name, "seed": seed, "area": damage.area, "kind": damage.kind}
                row |= {"result": result, "wrong": wrong}
                rows.append(row)
                if log is not None:
                    with open(log, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row | {"seen": seen}) + "\n")
                shutil.rmtree(folder / f"work{number}", ignore_errors=True)
    finally:
        child.stop()
    return rows


def fuzz_in_batches(
    folder: Path,
    sources: dict[str, Path],
    seeds: Iterable[int],
    size: int,
    *,
    log: Path | None = None,
    seconds: float = math.inf,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """As `fuzz`, each mutant through `info` and reading, and folders of `size` mutants through one command per verb.

    The second list has what each command took, and what went wrong with it as a whole. The undamaged slides go first:
    all must be done, and what they take of memory counts for nothing in further folders.
    """
    first = next(iter(sources.values()))
    warm = {"path": str(first), "truth": str(first), "work": str(folder / "warm"), "steps": ["tile"], "warm": True}
    child, rows, batches, began = Child(MEMORY_MB, warm), [], [], time.monotonic()
    wanted = [(name, seed) for seed in seeds for name in sources]
    parts = [[one for one in wanted if one[0].startswith(STORE) == stores] for stores in (False, True)]
    whole = [(name, None) for name in sources if not name.startswith(STORE)]
    chunks = [whole, *(part[at : at + size] for part in parts for at in range(0, len(part), size))]
    least: dict[str, float] = {}
    try:
        for number, chunk in enumerate(chunks):
            if time.monotonic() - began > seconds:
                break
            place = folder / f"batch{number}"
            made = [
                _made(place / "slides", index, name, sources[name], seed) for index, (name, seed) in enumerate(chunk)
            ]
            paths = [path for path, _ in made]
            done = {verb: carry_out(verb, place / "slides", paths, place / f"{verb}_out") for verb in VERBS}
            for verb, found in done.items():
                if found.largest_mb > least.setdefault(verb, found.largest_mb) + MOST_GROWN_MB:
                    found.wrong.append("memory")
                took = {"batch": number, "verb": verb, "slides": len(paths), "wrong": found.wrong}
                took |= {"seconds": round(found.seconds), "largest_mb": round(found.largest_mb)}
                took |= {"done": sum("store" in slide for slide in found.slides.values())}
                batches.append(took | ({"said": found.said} if found.wrong else {}))
            if number == 0:
                failed = {
                    path: slide for found in done.values() for path, slide in found.slides.items() if "error" in slide
                }
                if failed:
                    raise SystemExit(f"undamaged slides are not done: {failed}")
                shutil.rmtree(place)
                continue
            for (name, seed), (path, damage) in zip(chunk, made):
                ends = {verb: found.slides.get(str(path), {}) for verb, found in done.items()}
                stores = {verb: end["store"] for verb, end in ends.items() if "store" in end}
                job = {"path": str(path), "truth": str(sources[name]), "work": str(place / "work"), "steps": []}
                seen = child.ask(job | {"stores": stores})
                result, wrong = classify(seen)
                for end in ends.values():
                    wrong += wrong_with(end)
                lost_pixels = seen.get("kept by run", {}).get("unreadable_0", 0)  # patches are of level 0
                if lost_pixels and not ends["run"].get("unreadable"):
                    wrong.append("not reported")
                row = {"slide": name, "seed": seed, "area": damage.area, "kind": damage.kind}
                row |= {"result": result, "wrong": wrong, "ends": {verb: _end(end) for verb, end in ends.items()}}
                rows.append(row)
                if log is not None:
                    with open(log, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row | {"seen": seen, "ends": ends}) + "\n")
            if log is not None:
                with open(log.with_suffix(".batches.jsonl"), "a", encoding="utf-8") as file:
                    file.writelines(json.dumps(one) + "\n" for one in batches[-2:])
            shutil.rmtree(place)
    finally:
        child.stop()
    return rows, batches


def _made(folder: Path, index: int, name: str, source: Path, seed: int | None) -> tuple[Path, mutation.Damage]:
    """A mutant of its own name in a folder of its own, as parts of a DICOM series lie together; None: a plain copy."""
    path = folder / f"{index:05d}" / f"{index:05d}_{source.name}"
    path.parent.mkdir(parents=True)
    if seed is not None:
        return path, mutation.mutate(source, path, seed_of(name, seed))
    (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
    return path, mutation.Damage("", "nothing")


def _end(end: dict[str, Any]) -> str:
    return "done" if "store" in end else "refused" if "error" in end else "lost"


def table(rows: list[dict[str, Any]]) -> str:
    """A table per container and codec, in Markdown; "changed" for damage to coded pixels, and to anything else."""
    lines = ["| slide | mutants | refused | equal | reported | other shape | changed: pixels hit | changed: else |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in [*dict.fromkeys(row["slide"] for row in rows), "all"]:
        own = [row for row in rows if name in ("all", row["slide"])]
        counts = Counter(row["result"] for row in own)
        hit = sum(row["result"] == CHANGED and row["area"] == mutation.PIXELS for row in own)
        cells = [len(own), *(counts[word] for word in (REFUSED, EQUAL, UNREADABLE, OTHER)), hit, counts[CHANGED] - hit]
        lines.append(f"| {name} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slides", type=Path, nargs="*", default=[])
    parser.add_argument("--only", default="")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these, no further seed is begun")
    parser.add_argument("--batch", type=int, metavar="N", help="folders of N mutants through one tile and one run each")
    parser.add_argument("--again", nargs=2, metavar=("NAME", "SEED"), help="make one mutant again, and stop")
    given = parser.parse_args()
    sources = {name: made_slides.make(name, given.folder / "made") for name in made_slides.MADE}
    sources |= {path.name: path.resolve() for path in given.slides}
    if given.again:
        name, seed = given.again[0], int(given.again[1])
        copy = given.folder / f"again{seed}" / sources[name].name
        copy.parent.mkdir()
        print(mutation.mutate(sources[name], copy, seed_of(name, seed)), copy)
        return 0
    sources = {name: path for name, path in sources.items() if given.only in name}
    began = time.monotonic()
    seeds = range(given.seed, given.seed + -(-given.mutants // len(sources)))
    batches: list[dict[str, Any]] = []
    limits: dict[str, Any] = {"log": given.log, "seconds": 60 * given.minutes}
    if given.batch:
        rows, batches = fuzz_in_batches(given.folder, sources, seeds, given.batch, **limits)
    else:
        rows = fuzz(given.folder, sources, seeds, **limits)
    print(table(rows))
    for verb in VERBS if batches else ():
        print(verb, dict(Counter(row["ends"][verb] for row in rows)))
    for batch in batches:
        print(json.dumps(batch))
    wrong = Counter(word for one in (*rows, *batches) for word in one["wrong"])
    said = {"mutants": len(rows), "seconds": round(time.monotonic() - began), "wrong": dict(wrong)}
    print(json.dumps(said | {"results": dict(Counter(row["result"] for row in rows))}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
