"""From a slide to its first result: `wsikit run` into a new folder, this version and another one in turns.

    python benchmarks/first_result.py SLIDE… [--base DIR] [--repeats 3] [--runs-only] [--json FILE]

For each slide both versions run alternately, each time into a new folder; the least wall and processor seconds count,
and their ratio (base / this: more is better). The results of both are compared: subtype, probabilities and fractions in
result.json, the pixels of map.png, and every file of the store. Then the time of the calls that should not need a model
is measured in both: help, info, vote, a finished run, and requests that are refused.

Both versions run from copies of their package, so that Python keeps its compiled files, as it does for an installed
package. The processor seconds are those of the command with all its processes.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

HERE = Path(__file__).resolve().parents[1]
GOAL_RATIO = 3.0
"""A third of the wall time of the version before."""

CALL = "import sys; from wsikit.cli.main import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Timing:
    """One command, or the least of several."""

    wall_s: float
    cpu_s: float
    """Of the command and all of its processes, user and system."""

    @classmethod
    def least(cls, timings: Sequence[Timing]) -> Timing:
        """The least of each."""
        return cls(round(min(t.wall_s for t in timings), 3), round(min(t.cpu_s for t in timings), 3))


class Build:
    """A copy of the package of a source tree."""

    def __init__(self, tree: Path, place: Path) -> None:
        shutil.copytree(tree / "wsikit", place / "wsikit", ignore=shutil.ignore_patterns("__pycache__"))
        self.environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        # not the working directory before it, which may hold another version
        self.environment |= {"PYTHONPATH": str(place), "PYTHONSAFEPATH": "1"}

    def python(self, *arguments: str | Path, allowed: Sequence[int] = (0,)) -> Timing:
        """One call of Python with this package in front of all others."""
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, *map(str, arguments)]
        ended = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode not in allowed:
            raise SystemExit(f"{' '.join(command)}: exit status {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return Timing(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)

    def wsikit(self, *arguments: str | Path, allowed: Sequence[int] = (0,)) -> Timing:
        """One call of a verb."""
        return self.python("-c", CALL, *arguments, allowed=allowed)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="first-") as scratch:
        figures = measure(
            options.slides, Path(scratch), base=options.base, repeats=options.repeats, calls=not options.runs_only
        )
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(
    slides: Sequence[Path], scratch: Path, *, base: Path | None, repeats: int, calls: bool = True
) -> dict[str, Any]:
    """All figures, ready for JSON."""
    builds = {"this": Build(HERE, scratch / "this")}
    if base is not None:
        builds = {"base": Build(base.resolve(), scratch / "base"), **builds}
    for name, build in builds.items():  # compiles what a run imports
        build.wsikit("demo", "-o", scratch / f"demo_{name}")
    found: dict[str, Any] = {"repeats": repeats, "cpus": os.cpu_count(), "load": os.getloadavg()[0], "slides": {}}
    for slide in slides:
        timings: dict[str, list[Timing]] = {name: [] for name in builds}
        for number in range(repeats):
            for name, build in builds.items():
                out = scratch / f"out_{name}_{slide.stem}"
                shutil.rmtree(out, ignore_errors=True)
                timings[name].append(build.wsikit("run", slide, "-o", out))
                if number == 0 and name == "this" and base is not None:
                    different = list(differences(scratch / f"out_base_{slide.stem}", out))
        found["slides"][slide.name] = figures = _against({name: Timing.least(of) for name, of in timings.items()})
        if base is not None:
            figures["different from base"] = different or "nothing"
    if base is not None:
        found["goal, wall ratio"] = GOAL_RATIO
    if not calls:
        return found
    found["calls without a model"] = {
        name: _against(
            {build: Timing.least([_call(builds[build], call, scratch) for _ in range(repeats)]) for build in builds}
        )
        for name, call in _calls(slides[0], scratch)
    }
    return found


def _against(timings: dict[str, Timing]) -> dict[str, Any]:
    """The timings of each build, and the base's divided by this one's."""
    found: dict[str, Any] = {name: asdict(timing) for name, timing in timings.items()}
    if "base" in timings:
        base, this = timings["base"], timings["this"]
        found["wall against base"] = round(base.wall_s / this.wall_s, 2)
        found["cpu against base"] = round(base.cpu_s / this.cpu_s, 2)
    return found


def _calls(slide: Path, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """Calls that need no model; the first result of `slide` is in `scratch`."""
    out, new = scratch / f"out_this_{slide.stem}", str(scratch / "new")
    scaleless = scratch / "scaleless.tiff"
    tifffile.imwrite(scaleless, np.full((256, 256, 3), 200, np.uint8), photometric="rgb", tile=(128, 128))
    store = str(scratch / "voted.zarr")
    shutil.copytree(next((out / "slides").glob("*.zarr")), store)
    yield "import torch", []
    yield "--help", ["--help"]
    yield "info", ["info", str(slide)]
    yield "vote, up to date", ["vote", store]
    yield "run, finished", ["run", str(slide), "-o", "FINISHED"]
    yield "run, wrong path", ["run", str(scratch / "missing.svs"), "-o", new]
    yield "run, wrong model", ["run", str(slide), "-o", new, "--model", "no-model"]
    yield "run, no pixel size", ["run", str(scaleless), "-o", new]
    yield "train, wrong configuration", ["train", str(scratch / "missing.yaml"), "-o", new]
    yield "doctor", ["doctor"]


def _call(build: Build, arguments: list[str], scratch: Path) -> Timing:
    if not arguments:
        return build.python("-c", "import torch")
    name = Path(build.environment["PYTHONPATH"]).name
    placed = [arguments[1], "-o", f"{scratch}/out_{name}_{Path(arguments[1]).stem}"] if "FINISHED" in arguments else []
    return build.wsikit(arguments[0], *(placed or arguments[1:]), allowed=(0, 1, 2))


def differences(base: Path, this: Path) -> Iterator[str]:
    """How the results of two runs differ, one line each; times, versions and paths are not compared."""
    for folder in sorted(path.name for path in (base / "results").iterdir()):
        one, other = (out / "results" / folder for out in (base, this))
        records = [json.loads((out / "result.json").read_text(encoding="utf-8")) for out in (one, other)]
        yield from (f"{folder}/result.json: {line}" for line in _values(*records))
        with Image.open(one / "map.png") as first, Image.open(other / "map.png") as second:
            pixels = [np.asarray(image.convert("RGB"), dtype=int) for image in (first, second)]
        if pixels[0].shape != pixels[1].shape:
            yield f"{folder}/map.png: {pixels[0].shape[:2]} px and {pixels[1].shape[:2]} px"
        elif (pixels[0] != pixels[1]).any():
            share = (pixels[0] != pixels[1]).any(axis=2).mean()
            yield f"{folder}/map.png: {share:.2%} of the pixels, by up to {abs(pixels[0] - pixels[1]).max()}"
        stores = [out / "slides" / f"{folder}.zarr" for out in (base, this)]
        files = [{path.relative_to(store) for path in store.rglob("*") if path.is_file()} for store in stores]
        yield from (f"{folder}.zarr/{path}: only in one" for path in sorted(files[0] ^ files[1]))
        for path in sorted(files[0] & files[1]):
            if (stores[0] / path).read_bytes() != (stores[1] / path).read_bytes():
                yield f"{folder}.zarr/{path}: other bytes"


def _values(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Values that differ, by their dotted names."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key not in ("versions", "made", "time"):
                yield from _values(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _values(*pair, f"{name}.{index}")
    elif one != other:
        yield f"{name}: {one} and {other}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time from a slide to its first result.")
    parser.add_argument("slides", nargs="+", type=Path, metavar="SLIDE", help="slides with a known pixel size")
    parser.add_argument("--base", type=Path, metavar="DIR", help="source tree of another version to compare with")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="the least time of N counts")
    parser.add_argument("--runs-only", action="store_true", help="leave out the calls that need no model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
