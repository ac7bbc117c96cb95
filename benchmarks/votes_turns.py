"""Two builds in turns on the same made-up slides of 10⁶ patches: processor time, and whether the outputs are equal.

Used by `votes.py --base DIR`. Each measurement is a process of its own; the builds take turns, so that what else the
machine does falls on both. Parts: vote + map + GeoJSON of two slides; reading of a table's columns, each of its own
and all; the report of a slide with captions and 30 facts; all outputs of an ordinary slide, if a store is given.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
N_FACTS = 30
WORDS = (
    "densely",
    "packed",
    "small",
    "round",
    "nuclei",
    "scant",
    "neuropil",
    "moderate",
    "stroma",
    "coarse",
    "chromatin",
)


def compare(base: Path, patches: int, repeats: int, store: Path | None) -> dict[str, Any]:
    """Medians of each build, base over new, and whether outputs are equal."""
    builds = {"base": base.resolve(), "new": HERE}
    record: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(HERE, "table", patches, folder, None)
        parts = ["regions", "speckled", "read", "report", *(["outputs"] if store else [])]
        for part in parts:
            found: dict[str, list[dict[str, Any]]] = {build: [] for build in builds}
            for _ in range(repeats):
                for build, source in builds.items():
                    found[build].append(_run(source, part, patches, folder, store))
            record[part] = _side_by_side(found)
    return record


def _run(source: Path, part: str, patches: int, folder: Path, store: Path | None) -> dict[str, Any]:
    call = [sys.executable, str(Path(__file__).with_name("votes.py")), "--part", part, "--patches", str(patches)]
    call += ["--folder", str(folder), *(["--store", str(store)] if store else [])]
    environment = {**os.environ, "PYTHONPATH": str(source), "SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(call, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _side_by_side(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    def median(build: str, step: str) -> float:
        return float(np.median([run["seconds"][step] for run in found[build]]))

    steps = found["new"][0]["seconds"]
    outputs = {build: runs[0]["outputs"] for build, runs in found.items()}
    sizes = {f"{build}, MB": round(runs[0]["mb"], 1) for build, runs in found.items() if "mb" in runs[0]}
    return {
        **sizes,
        "base, s": {step: round(median("base", step), 3) for step in steps},
        "new, s": {step: round(median("new", step), 3) for step in steps},
        "base_over_new_ratio": {step: round(median("base", step) / median("new", step), 2) for step in steps},
        "equal": {name: outputs["base"].get(name) == digest for name, digest in outputs["new"].items()},
    }


# ---- one measurement, in the build that is first on the path


def measure_part(part: str, patches: int, folder: Path, store: Path | None) -> dict[str, Any]:
    """Seconds of the processor of each step, and digests of the outputs."""
    if part == "table":
        _make_table(folder / "table", patches)
        return {}
    if part == "read":
        return _read(folder / "table")
    if part == "report":
        return _report(patches, folder)
    if part == "outputs":
        assert store is not None
        return _outputs(store, folder)
    return _votes(part, patches, folder)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    value = call()
    return time.process_time() - start, value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _votes(kind: str, n_patches: int, folder: Path) -> dict[str, Any]:
    from PIL import Image
    from votes import STRAY, VoteParameters, make_patches, run_once, vote_slide

    run_once(make_patches(400, 0.0), VoteParameters(), folder)  # what is imported on first use
    patches = make_patches(n_patches, STRAY[kind])
    runs = [run_once(patches, VoteParameters(), folder) for _ in range(2)]
    result = vote_slide(patches, VoteParameters())
    with Image.open(folder / "map.png") as picture:
        pixels = picture.convert("RGB").tobytes()
    return {
        "seconds": {"vote, map and GeoJSON": min(run["total_cpu"] for run in runs)},
        "outputs": {
            "vote": _digest(json.dumps(result.to_json()).encode()),
            "map": _digest(pixels),
            "geojson": _digest((folder / "subtype.geojson").read_bytes()),
        },
    }


def _make_table(folder: Path, n_patches: int) -> None:
    """A patch table with a column of each kind."""
    import zarr

    from wsikit.geometry import PatchGrid
    from wsikit.store.receipts import Receipt
    from wsikit.store.table import ColumnSpec, PatchTable

    side = round(n_patches**0.5) * 224
    grid = PatchGrid((side, side), (0.5, 0.5), 224, 0.5)
    coords = grid.all_coords()
    table = PatchTable.create(folder, grid, coords, Receipt("patches", 1))
    rng = np.random.default_rng(0)
    n = len(coords)
    columns: list[tuple[ColumnSpec, Any]] = [
        (ColumnSpec("tissue", "float32"), rng.random(n)),
        (ColumnSpec("readable", "uint8"), np.ones(n, dtype=np.uint8)),
        (ColumnSpec("blur", "float32"), rng.random(n)),
        (ColumnSpec("probability", "float32", 4), rng.dirichlet([0.5] * 4, n)),
        (ColumnSpec("caption_facts", "float32", N_FACTS), rng.lognormal(1, 2, (n, N_FACTS))),
        (ColumnSpec("caption", "str"), _captions(n)),
    ]
    for spec, values in columns:
        table.prepare([spec], Receipt("made up", 1))
        zarr.open_array(folder / spec.name, mode="r+")[:] = np.asarray(values)


def _captions(n: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(1)
    some = [" ".join(rng.permutation(WORDS)) for _ in range(5000)]
    return np.array([f"{some[row % len(some)]}, {row}." for row in range(n)], dtype=object)


def _read(folder: Path) -> dict[str, Any]:
    from wsikit.store.table import PatchTable

    table = PatchTable(folder)
    seconds: dict[str, float] = {}
    outputs: dict[str, str] = {}
    for name in table.columns():
        times, walls = [], []
        for _ in range(2):
            busy, start = time.process_time(), time.perf_counter()
            values = table.read(name)
            times.append(time.process_time() - busy)
            walls.append(time.perf_counter() - start)
        seconds[name], seconds[f"{name}, wall"] = min(times), min(walls)
        data = "\0".join(values).encode() if values.dtype == object else np.ascontiguousarray(values).tobytes()
        outputs[name] = _digest(data)
    names = [name for name in seconds if not name.endswith("wall")]
    seconds["all"] = sum(seconds[name] for name in names)
    seconds["all, wall"] = sum(seconds[f"{name}, wall"] for name in names)
    return {"seconds": seconds, "outputs": outputs}


def _report(n_patches: int, folder: Path) -> dict[str, Any]:
    from votes import class_map_of, make_patches

    from wsikit.exporters.patchdata import PatchWords
    from wsikit.exporters.pyramid import EmbeddedPyramid, Frame, encode_jpeg
    from wsikit.exporters.report import ReportData, write_report

    patches = make_patches(n_patches, 0.0)
    class_map = class_map_of(patches)
    rng = np.random.default_rng(0)
    n = len(patches.probs)
    names = tuple(f"fact {number}" for number in range(N_FACTS))
    words = PatchWords(
        _captions(n), None, names, ("µm",) * N_FACTS, rng.lognormal(1, 2, (n, N_FACTS)).astype(np.float32)
    )
    frame = Frame(patches.grid.slide_px, patches.grid.slide_mpp)
    level = max(0, frame.deepest - 10)
    tile = encode_jpeg(np.full((*frame.level_size(level)[::-1], 3), 220, dtype=np.uint8))
    thumbnail = np.full((1000, 1000, 3), 225, dtype=np.uint8)
    data = ReportData(
        class_map, thumbnail, None, words=words, pyramid=EmbeddedPyramid(frame, {(level, 0, 0): tile}, level, level)
    )
    path = folder / "million" / "report.html"
    seconds, _ = _timed(lambda: write_report(path, data))
    files = [path, *path.with_name("report_patches").glob("*")]
    return {"seconds": {"report": seconds}, "outputs": {}, "mb": sum(file.stat().st_size for file in files) / 1e6}


def _outputs(store: Path, folder: Path) -> dict[str, Any]:
    """All outputs of one slide, imports not counted, but what is imported on first use."""
    from wsikit.results.outputs import write_outputs
    from wsikit.slides.store import SlideStore

    opened = SlideStore(store)
    table = opened.patches(None)
    target = folder / "outputs"
    start = time.perf_counter()
    seconds, _ = _timed(lambda: write_outputs(opened, table, target))
    wall = time.perf_counter() - start
    for path in target.glob("*"):
        path.unlink()
    again, _ = _timed(lambda: write_outputs(opened, table, target))
    from PIL import Image

    with Image.open(target / "map.png") as picture:
        pixels = picture.convert("RGB").tobytes()
    outputs = {name: _digest((target / name).read_bytes()) for name in ("subtype.geojson", "thumbnail.jpg")}
    for path in target.glob("*"):
        path.unlink()
    return {
        "seconds": {"first slide": seconds, "first slide, wall": wall, "each further slide": again},
        "outputs": {**outputs, "map": _digest(pixels)},
    }
