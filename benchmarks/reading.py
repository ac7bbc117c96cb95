"""Reading patches of slides with wsikit, from the slide and from its store, compared with the limit and other readers.

    python benchmarks/reading.py SLIDE… [--json OUT] [--repeat 5] [--patches 1000] [--base DIR]

Per slide: patches of 224 px at its own scale and at twice that, decoded by one thread and by two. All readers of one
setting run interleaved, each in a process of its own; medians; opening is not counted. Only ratios within a setting
mean anything. `benchmarks/compare.py` compares two results. DIR holds the sources of another version of wsikit, which
reads the same patches in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from wsikit.bench.measure import STORE, WSIKIT, BenchResult, bench
from wsikit.errors import ScaleError
from wsikit.slides.registry import open_slide
from wsikit.tiling.tile import tile


def ratios(result: BenchResult) -> dict[str, float]:
    """What the benchmark is about: wsikit against each other reader, and its store against the slide; by wall time, and
    by processor time (`_cpu`), which counts on a busy machine."""
    own, own_cpu = result.readers[WSIKIT].patches_per_s, result.readers[WSIKIT].cpu_us_per_patch
    found: dict[str, float] = {}
    for name, speed in result.readers.items():
        if own is None or speed.patches_per_s is None or name == WSIKIT:
            continue
        if own_cpu and speed.cpu_us_per_patch:
            found[f"wsikit_against_{name}_cpu"] = round(speed.cpu_us_per_patch / own_cpu, 3)
        if name == STORE:
            found["store_against_slide"] = round(speed.patches_per_s / own, 3)
        else:
            found[f"wsikit_against_{name}"] = round(own / speed.patches_per_s, 3)
    return found


def coarser(path: Path, times: float) -> float | None:
    """`times` the slide's own µm/px; None if that is not known."""
    with open_slide(path) as slide:
        try:
            return float(f"{times * max(slide.mpp):.4g}")
        except ScaleError:
            return None


def measure(path: Path, store: Path, *, patches: int, repeat: int, base: Path | None = None) -> dict[str, Any]:
    """All settings of one slide."""
    tile(path, store).close()
    record: dict[str, Any] = {"slide": path.name}
    native: dict[int, BenchResult] = {}
    for threads in (1, 2):
        native[threads] = bench(path, store=store, patches=patches, repeat=repeat, threads=threads, base=base)
        record[f"native_threads{threads}"] = {**native[threads].to_json(), **ratios(native[threads])}
    mpp = coarser(path, 2)
    if mpp is not None:
        result = bench(path, store=store, mpp=mpp, patches=patches, repeat=repeat, base=base)
        record["twice_coarser"] = {**result.to_json(), **ratios(result)}
        speeds = [run.readers[WSIKIT].mp_per_s for run in (result, native[1])]
        if all(speeds):
            record["mp_per_s_twice_coarser_against_native"] = round(speeds[0] / speeds[1], 3)  # type: ignore[operator]
    return record


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("slides", type=Path, nargs="+")
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--patches", type=int, default=1000)
    arguments.add_argument("--base", type=Path)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for path in given.slides:
            store = Path(folder) / f"{path.stem}.zarr"
            results.append(measure(path, store, patches=given.patches, repeat=given.repeat, base=given.base))
    text = json.dumps({"reading": results}, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
