"""Vote, map and merged GeoJSON of a slide of 10⁶ patches, compared with the unavoidable work, in one run.

    python benchmarks/votes.py --json votes.json [--patches 1000000] [--smooth none|median|mrf]
    python benchmarks/votes.py --base ../base [--store SLIDE.zarr]     another build in turns, outputs compared

Two slides are made up: one whose classes lie in regions with ragged borders, and one where a fifth of the patches stray
as well, so that its outlines have a hundred times as many corners. The floors: sorting the patches' coordinates once,
and json.dumps of the very features that the file holds. `vote_ratio` and `geojson_ratio` are floor over step, `ratio`
all floors over all steps: more is better. Peak memory is that of a process of its own, less its imports; the made-up
patches count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import votes_turns
from scipy import ndimage as ndi

from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.geojson import write_geojson
from wsikit.exporters.heatmap import write_map_png
from wsikit.exporters.palette import class_colors
from wsikit.geometry import PatchGrid
from wsikit.voting import SlidePatches, VoteParameters, vote_inputs, vote_slide

CLASSES, BACKGROUND = ("UD", "PD", "D", "other"), ("other",)
PATCH_PX, MPP = 224, 0.5
STRAY = {"regions": 0.0, "speckled": 0.2}


def make_patches(n_patches: int, stray: float) -> SlidePatches:
    """A square slide full of patches; `stray` of them have the probabilities of any other patch."""
    side = round(n_patches**0.5)
    rng = np.random.default_rng(0)
    fields = rng.normal(size=(len(CLASSES), side, side))
    broad = np.stack([ndi.gaussian_filter(field, side / 30) for field in fields])
    logits = 3 * broad / broad.std() + 0.5 * ndi.gaussian_filter(fields, (0, 2, 2)) * 7
    rows = np.exp(logits - logits.max(axis=0)).reshape(len(CLASSES), -1).T
    strays = np.flatnonzero(rng.random(len(rows)) < stray)
    rows[strays] = rows[rng.permutation(len(rows))[: len(strays)]]
    px = side * PATCH_PX
    grid = PatchGrid((px, px), (MPP, MPP), PATCH_PX, MPP)
    columns: dict[str, npt.NDArray[np.floating]] = {
        "tissue": rng.uniform(0.25, 1, len(rows)).astype(np.float32),
        "readable": np.ones(len(rows), np.float32),
        "blur": rng.uniform(0, 0.5, len(rows)).astype(np.float32),
        "pen": np.zeros(len(rows), np.float32),
        "ood_score": rng.uniform(0, 1.2, len(rows)).astype(np.float32),
    }
    probs = (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
    return SlidePatches(probs, CLASSES, BACKGROUND, grid, grid.all_coords(), columns)


def class_map_of(patches: SlidePatches) -> ClassMap:
    """The map of a made-up slide."""
    return ClassMap(
        slide_id="benchmark",
        grid=patches.grid,
        mpp_source="made up",
        coords=patches.coords,
        labels=vote_inputs(patches.probs, CLASSES, BACKGROUND).labels,
        probs=patches.probs,
        classes=CLASSES,
        class_names=CLASSES,
        colors=class_colors(CLASSES, BACKGROUND),
        background=BACKGROUND,
    )


def run_once(patches: SlidePatches, parameters: VoteParameters, folder: Path) -> dict[str, float]:
    """Seconds of each step, and of the processor in all, which a busy machine does not lengthen as much."""
    thumbnail = np.full((1000, 1000, 3), 225, np.uint8)
    busy = time.process_time()
    times = [time.perf_counter()]
    result = vote_slide(patches, parameters)
    times.append(time.perf_counter())
    class_map = class_map_of(patches)
    write_map_png(folder / "map.png", class_map, thumbnail, result)
    times.append(time.perf_counter())
    write_geojson(folder / "subtype.geojson", class_map)
    times.append(time.perf_counter())
    steps = dict(zip(("vote", "map", "geojson"), np.diff(times).tolist()))
    return {**steps, "total": times[-1] - times[0], "total_cpu": time.process_time() - busy}


def floors(patches: SlidePatches, folder: Path) -> dict[str, float]:
    """Seconds of sorting the coordinates, and of writing the features as JSON."""
    features = json.loads((folder / "subtype.geojson").read_text(encoding="utf-8"))
    start = time.perf_counter()
    np.lexsort((patches.coords[:, 0], patches.coords[:, 1]))
    sorted_at = time.perf_counter()
    json.dumps(features, separators=(",", ":"))
    return {"sort": sorted_at - start, "json": time.perf_counter() - sorted_at}


def measure(kind: str, n_patches: int, smooth: str, repeats: int) -> dict[str, Any]:
    """Medians of `repeats` runs of one made-up slide."""
    patches = make_patches(n_patches, STRAY[kind])
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        for _ in range(repeats):
            steps = run_once(patches, VoteParameters(smooth=smooth), Path(name))
            found.append({**steps, **{f"floor_{key}": value for key, value in floors(patches, Path(name)).items()}})
        size = (Path(name) / "subtype.geojson").stat().st_size
    seconds = {key: float(np.median([steps[key] for steps in found])) for key in found[0]}
    return {
        "patches": len(patches.probs),
        "geojson_mb": round(size / 1e6, 2),
        "seconds": {key: round(value, 3) for key, value in seconds.items()},
        "vote_ratio": round(seconds["floor_sort"] / seconds["vote"], 4),
        "geojson_ratio": round(seconds["floor_json"] / seconds["geojson"], 4),
        "ratio": round((seconds["floor_sort"] + seconds["floor_json"]) / seconds["total"], 4),
        "rss_mb": round(_peak_mb(kind, n_patches, smooth), 1),
    }


def _peak_mb(kind: str, n_patches: int, smooth: str) -> float:
    """Peak memory of one run in a fresh process, less its imports, MB."""
    call = [sys.executable, __file__, "--alone", kind, "--patches", str(n_patches), "--smooth", smooth]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def _alone(kind: str, n_patches: int, smooth: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        small = make_patches(400, 0.0)
        run_once(small, VoteParameters(smooth=smooth), Path(name))  # what is imported on first use
        imported = _most_held()
        patches = make_patches(n_patches, STRAY[kind])
        run_once(patches, VoteParameters(smooth=smooth), Path(name))
    print((_most_held() - imported) / 1e6)


def _most_held() -> int:
    """Bytes that this process has held at most. Not ru_maxrss, which a child takes over from its parent."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status: memory can be measured on Linux only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--patches", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smooth", default="none", choices=("none", "median", "mrf"))
    parser.add_argument("--base", type=Path, help="source tree of another build, measured in turns (votes_turns.py)")
    parser.add_argument("--store", type=Path, help="with --base: a finished store, whose outputs are timed too")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", choices=tuple(STRAY), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        _alone(options.alone, options.patches, options.smooth)
        return
    if options.part:
        print(json.dumps(votes_turns.measure_part(options.part, options.patches, options.folder, options.store)))
        return
    record: dict[str, Any]
    if options.base is not None:
        record = votes_turns.compare(options.base, options.patches, options.repeats, options.store)
    else:
        record = {kind: measure(kind, options.patches, options.smooth, options.repeats) for kind in STRAY}
    text = json.dumps(record, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
