"""Every benchmark in one command, this build next to another one.

    python benchmarks/run_all.py --data DATA --base DIR --out RESULTS [--only reading,tiling] [--scratch DIR]

DATA is a folder with `slides/`, `patches/` and `nuclei/` as named in `PLAN`; what is not there is left out and said.
DIR is the source tree of another build (`git worktree add DIR COMMIT`): where a script can, it measures both in turns
within one run. RESULTS gets one JSON file per script and `all.json`, with the machine and the versions of what was
measured. `benchmarks/compare.py RESULTS/all.json` prints the figures next to the aims and to the other build;
`benchmarks/compare.py OLD/all.json NEW/all.json` compares two runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "numpy", "scipy", "opencv-python-headless", "torch", "torchvision", "timm", "transformers", "zarr", "tifffile",
    "imagecodecs", "simplejpeg", "openslide-bin", "pillow", "pyvips", "ngff-zarr",
)  # fmt: skip
PHANTOM_PX = 20_480
"""Side of the phantom that is made for reading and tiling, in the scratch folder; it is kept there."""


@dataclass(frozen=True)
class Step:
    """One script and its arguments. `{data}`, `{phantom}`, `{slides}` and `{store}` are filled in."""

    name: str
    script: str
    arguments: str
    takes_base: bool = False


PLAN = (
    Step("first_result", "first_result.py", "{data}/slides/her2st_C2_pyramid.tif", takes_base=True),
    Step("finished", "finished.py", "--slides 60", takes_base=True),
    Step("captions", "captions.py", "--data {data} --nuclei {data}/nuclei/monuseg.zip --slides 0", takes_base=True),
    Step("reading", "reading.py", "{slides} {phantom} --repeat 5", takes_base=True),
    Step("tiling", "tiling.py", "{slides} {phantom} --repeated 3 --no-ngff-zarr", takes_base=True),
    Step("memory", "memory.py", "", takes_base=True),
    Step("features", "features.py", "{data}/slides/her2st_C2_pyramid.tif"),
    Step("votes", "votes.py", "{store}", takes_base=True),
    Step("tissue", "tissue.py", ""),
)
SLIDES = ("CMU-1-Small-Region.svs", "her2st_C2_pyramid.tif")


def main() -> int:
    given = _options()
    given.out.mkdir(parents=True, exist_ok=True)
    given.scratch.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"machine": machine(), "build": commit(HERE)}
    if given.base:
        record["base"] = commit(given.base)
    failed = []
    for step in PLAN:
        if given.only and step.name not in given.only:
            continue
        target = given.out / f"{step.name}.json"
        begun, load = time.time(), os.getloadavg()[0]
        print(f"{step.name}: load {load:.1f}", flush=True)
        if run(step, target, given):
            found = json.loads(target.read_text(encoding="utf-8"))
            record[step.name] = {"load_at_start": load, "took_s": round(time.time() - begun), "found": found}
        else:
            failed.append(step.name)
        (given.out / "all.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{given.out / 'all.json'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def run(step: Step, target: Path, given: argparse.Namespace) -> bool:
    """One script in a process of its own; whether it ended well."""
    places = {"data": str(given.data), "slides": " ".join(slides(given.data)), "phantom": ""}
    if "{phantom}" in step.arguments:
        places["phantom"] = str(phantom(given.scratch))
    if "{store}" in step.arguments:
        places["store"] = store(given.data, given.scratch) if given.base else ""
    line = [sys.executable, str(HERE / "benchmarks" / step.script), *step.arguments.format(**places).split()]
    if step.takes_base and given.base:
        line += ["--base", str(given.base)]
    done = subprocess.run(
        [*line, "--json", str(target)], env={**os.environ, "PYTHONPATH": str(HERE)}, stdout=subprocess.DEVNULL
    )
    return done.returncode == 0


def slides(data: Path) -> Iterator[str]:
    """The slides of `SLIDES` that are there."""
    for name in SLIDES:
        path = data / "slides" / name
        if path.is_file():
            yield str(path)
        else:
            print(f"{path}: not there, left out")


def phantom(scratch: Path) -> Path:
    """The large phantom, made once."""
    path = scratch / f"phantom_{PHANTOM_PX}.tiff"
    if not path.is_file():
        part = path.with_suffix(".part.tiff")
        code = (
            "import sys, wsikit; wsikit.make_phantom(sys.argv[1], size_px=(int(sys.argv[2]),) * 2, tissue_fraction=0.5)"
        )
        subprocess.run([sys.executable, "-c", code, str(part), str(PHANTOM_PX)], check=True, cwd=HERE)
        part.rename(path)
    return path


def store(data: Path, scratch: Path) -> str:
    """The option that names the store of a slide with a vote; empty without the slide."""
    slide, out = data / "slides" / SLIDES[1], scratch / "ordinary"
    if not slide.is_file():
        return ""
    call = "import sys; from wsikit.cli.main import main; main(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", call, "run", str(slide), "-o", str(out), "--device", "cpu"], cwd=HERE)
    return f"--store {out / 'slides' / slide.stem}.zarr"


def machine() -> dict[str, Any]:
    """Processor, memory, system and versions."""
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace") if os.name == "posix" else ""
    names = [line.split(":", 1)[1].strip() for line in about.splitlines() if line.startswith("model name")]
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
    }


def commit(tree: Path) -> str:
    """The commit of a source tree, with `+` if it has changes; empty without git."""
    done = subprocess.run(["git", "-C", str(tree), "describe", "--always", "--dirty=+"], capture_output=True, text=True)
    return done.stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with slides/, patches/ and nuclei/")
    parser.add_argument("--base", type=Path, help="source tree of another build to measure in the same run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/wsikit-benchmarks"), help="for the large phantom")
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of steps, with commas")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
