"""How long `wsikit run` takes where nothing is left to do: for one finished slide, and for each of many.

    python benchmarks/finished.py --slides 60 --base ../base --json finished.json

One slide: wall time and processor time of the whole command, next to those of `python -c pass` and of the same command
of another source tree (`--base`). Many slides: copies of one small phantom, run with `--pixels none`; the time per
slide is what the command takes beyond the time for one slide, over the slides beyond the first. Each figure is the
least of several repeats, as other processes can only add time. Before any figure is taken, the command is run until
the slides are finished, and it is checked that a further run writes nothing below slides/ and results/.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
GOAL_SHARE, GOAL_PER_SLIDE_MS = 0.6, 20.0
"""Of the time of `import torch`; further finished slides."""
SIDE_PX = 700
"""Side of the phantoms, px at 0.5 µm/px: a few patches each."""


@dataclass(frozen=True)
class Timing:
    """The least time of some repeats of one command, seconds."""

    wall_s: float
    cpu_s: float
    """Of the command and all of its processes, user and system."""


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="finished-") as scratch:
        figures = measure(Path(scratch), slides=options.slides, base=options.base, repeats=options.repeats)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(scratch: Path, *, slides: int, base: Path | None, repeats: int) -> dict[str, object]:
    """All figures, ready for JSON."""
    one, many = scratch / "one", scratch / "many"
    _make_slides(one, many, slides)
    found: dict[str, object] = {"slides": slides, "repeats": repeats, "load": os.getloadavg()[0]}
    found["python -c pass"] = asdict(_least(HERE, ["-c", "pass"], repeats))
    torch = _least(HERE, ["-c", "import torch"], repeats)
    found["import torch"] = asdict(torch)
    single = _finished(HERE, one, scratch / "out_one", repeats)
    found["one slide"] = asdict(single)
    if base is not None and base.is_dir():
        found["one slide, base"] = asdict(_finished(base.resolve(), one, scratch / "out_base", repeats))
    out = scratch / "out_many"
    found["one slide, share of import torch"] = {
        name: round(getattr(single, name) / getattr(torch, name), 2) for name in ("wall_s", "cpu_s")
    }
    all_of_them = _finished(HERE, many, out, repeats, "--pixels", "none")
    one_of_them = _finished(HERE, many / "slide_000.tiff", scratch / "out_first", repeats, "--pixels", "none")
    found["many slides"] = asdict(all_of_them)
    found["files per slide"] = sum(1 for path in out.glob("*/slide_000*/**/*") if path.is_file())
    found["per slide, ms"] = {
        name: round(1000 * (getattr(all_of_them, name) - getattr(one_of_them, name)) / (slides - 1), 2)
        for name in ("wall_s", "cpu_s")
    }
    found["goal"] = {"share of import torch": GOAL_SHARE, "per slide, ms": GOAL_PER_SLIDE_MS}
    return found


def _make_slides(one: Path, many: Path, slides: int) -> None:
    """A folder with one phantom, and one with `slides` copies of it."""
    one.mkdir()
    many.mkdir()
    code = "import sys, wsikit; wsikit.make_phantom(sys.argv[1], size_px=(int(sys.argv[2]),) * 2)"
    _run(HERE, ["-c", code, str(one / "slide.tiff"), str(SIDE_PX)])
    for number in range(slides):
        shutil.copy(one / "slide.tiff", many / f"slide_{number:03d}.tiff")


def _finished(tree: Path, slides: Path, out: Path, repeats: int, *options: str) -> Timing:
    """The time of `wsikit run` of a source tree on slides that it has finished before."""
    call = "import sys; from wsikit.cli.main import main; main(sys.argv[1:])"
    arguments = ["-c", call, "run", str(slides), "-o", str(out), "--device", "cpu", *options]
    _run(tree, arguments)
    before = _stamps(out)
    timing = _least(tree, arguments, repeats)
    if tree == HERE and _stamps(out) != before:
        raise SystemExit(f"{out}: a run on finished slides wrote files; it was not finished")
    return timing


def _least(tree: Path, arguments: Sequence[str], repeats: int) -> Timing:
    timings = [_run(tree, arguments) for _ in range(repeats)]
    return Timing(*(round(min(getattr(one, name) for one in timings), 3) for name in ("wall_s", "cpu_s")))


def _run(tree: Path, arguments: Sequence[str]) -> Timing:
    """One call of Python with a source tree in front of all others, the working directory included."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit status {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return Timing(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def _stamps(out: Path) -> dict[str, int]:
    """Time of change of each file of stores and results, ns."""
    files = (path for name in ("slides", "results") for path in (out / name).rglob("*") if path.is_file())
    return {str(path): path.stat().st_mtime_ns for path in files}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time of wsikit run where nothing is left to do.")
    parser.add_argument("--slides", type=int, default=60, metavar="N", help="copies of the phantom, 2 or more")
    parser.add_argument("--base", type=Path, metavar="DIR", help="source tree of another version to compare with")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="the least time of N counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    if options.slides < 2:
        parser.error("--slides: give 2 or more")
    return options


if __name__ == "__main__":
    main()
