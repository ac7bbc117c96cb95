"""Tiling a slide against copying its file: ratios in one run, this build and another one in turns.

    python benchmarks/tiling.py SLIDE… [--base DIR] [--repeated 3] [--json OUT] [--repeat 9] [--no-ngff-zarr]

The time to write a slide's image store (opening the slide, every per-tile check, every checksum, all flushed to disk)
compared with the time to copy the file and flush the copy, in turns: the share of the copy's speed from the medians,
from the least times, and the median of the ratios of neighbours. Each build runs in a process of its own, which is
started once and timed from within; `--base` is the folder of another source tree. `--repeated N` adds a slide with N²
times the tiles of each. Fixed cost per slide: the time for a slide of one tile, and the intercept of a line through
slides of several sizes. Processor time per tile: the slope of the same line. `ngff-zarr`, if installed, converts level
0 of the same slides to an OME-Zarr with three levels, with its default chunks and with 1,024 px, first call and warm,
and by its command line. Machines are shared and noisy: only ratios within a run are valid, and what waits for a
processor that others use is counted in wall times, not in processor times.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

HERE = Path(__file__).resolve().parents[1]
SIDES = (1, 4, 8, 12, 16)
"""Tiles along the sides of the slides from which the fixed cost is found: of tiles of 256 px, no level is built."""
GOOD_CHUNK_PX = 1024
_NGFF_SECONDS = 280

WORKER = """
import json, os, shutil, sys, time
from wsikit.executor import Executor
from wsikit.slides.registry import open_slide
from wsikit.tiling.image import ImageSource, image_receipt, write_image
from wsikit.tiling.plan import ImageParameters

parameters = ImageParameters()
for line in sys.stdin:
    path, folder = json.loads(line)
    begun, worked = time.perf_counter(), time.process_time()
    with open_slide(path) as slide:
        source = ImageSource.of(slide)
        receipt = image_receipt(source, parameters, None)
        common = {"slide_id": "bench", "receipt": receipt, "parameters": parameters, "tissue": None}
        write_image(source, __import__("pathlib").Path(folder), executor=Executor(), **common).close()
    print(json.dumps([time.perf_counter() - begun, time.process_time() - worked]), flush=True)
"""
"""All that `wsikit tile` does for a slide's pixels, the opening of the slide included."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    wall: float
    cpu: float
    """Processor time of all threads."""


class Build:
    """A source tree, in a process that tiles on demand."""

    def __init__(self, tree: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,  # which is where such a process looks for modules first
            env={**os.environ, "PYTHONPATH": str(tree)},
        )

    def write(self, slide: Path, store: Path) -> Timing:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(slide), str(store)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"tiling {slide} failed")
        return Timing(*json.loads(answer))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def copy(source: Path, target: Path) -> Timing:
    begun, worked = time.perf_counter(), time.process_time()
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    return Timing(time.perf_counter() - begun, time.process_time() - worked)


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ---- slides


def has_whole_tiles(path: Path) -> bool:
    """Whether the finest level is filled by its tiles, so that they can be repeated."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0].aspage()
        return page.is_tiled and not (page.imagewidth % page.tilewidth or page.imagelength % page.tilelength)


def repeated(path: Path, target: Path, times: int) -> None:
    """Write a tiled TIFF with the encoded tiles of `path`, `times` × `times`, at each level with whole tiles."""
    with tifffile.TiffFile(path) as tiff, tifffile.TiffWriter(target, bigtiff=True) as writer, open(path, "rb") as file:
        pages = [page for page in tiff.pages if page.is_tiled]
        whole = [page for page in pages if not (page.imagewidth % page.tilewidth or page.imagelength % page.tilelength)]
        for number, page in enumerate(whole):
            cols, rows = page.imagewidth // page.tilewidth, page.imagelength // page.tilelength
            order = [
                row * cols + col
                for _ in range(times)
                for row in range(rows)
                for _ in range(times)
                for col in range(cols)
            ]
            shape = (page.imagelength * times, page.imagewidth * times, 3)
            write_level(writer, page, _tiles(file, page, order), shape, number)


def of_tiles(path: Path, target: Path, side: int) -> None:
    """Write a tiled TIFF of one level with `side` × `side` tiles, the first ones of `path`."""
    with tifffile.TiffFile(path) as tiff, tifffile.TiffWriter(target, bigtiff=True) as writer, open(path, "rb") as file:
        page = tiff.pages[0]
        order = [number % len(page.dataoffsets) for number in range(side**2)]
        shape = (page.tilelength * side, page.tilewidth * side, 3)
        write_level(writer, page, _tiles(file, page, order), shape, 0)


def _tiles(file: Any, page: Any, order: list[int]) -> Iterator[bytes]:
    for number in order:
        file.seek(page.dataoffsets[number])
        yield file.read(page.databytecounts[number])


def write_level(writer: Any, page: Any, tiles: Iterator[bytes], shape: tuple[int, int, int], number: int) -> None:
    tables = page.jpegtables
    subsampling = page.tags.get("YCbCrSubSampling")
    writer.write(
        tiles,
        shape=shape,
        dtype="uint8",
        tile=(page.tilelength, page.tilewidth),
        compression="jpeg",
        photometric=int(page.photometric),
        subsampling=None if subsampling is None else subsampling.value,
        subfiletype=1 if number else 0,
        resolution=(2e4 / 2**number, 2e4 / 2**number),
        resolutionunit="CENTIMETER",
        metadata=None,
        extratags=[] if tables is None else [(347, 7, len(tables), tables, True)],
    )


# ---- measurements


def share(copies: list[Timing], tilings: list[Timing]) -> dict[str, float]:
    """Speed of tiling, as a share of that of copying, in three ways; and by processor time."""
    pairs = zip(copies, tilings, strict=True)
    medians = [statistics.median(timing.wall for timing in timings) for timings in (copies, tilings)]
    worked = [statistics.median(timing.cpu for timing in timings) for timings in (copies, tilings)]
    return {
        "speed_against_copy": medians[0] / medians[1],
        "speed_against_copy_least": min(timing.wall for timing in copies) / min(timing.wall for timing in tilings),
        "speed_against_copy_pairs": statistics.median(copied.wall / tiled.wall for copied, tiled in pairs),
        "processor_time_against_copy": worked[0] / worked[1],
    }


def in_turns(path: Path, folder: Path, builds: dict[str, Build], repeat: int) -> dict[str, list[Timing]]:
    """Timings of copying and of each build, one after the other, `repeat` times; the first round is not counted."""
    found: dict[str, list[Timing]] = {name: [] for name in ("copy", *builds)}
    target, store = folder / "copy", folder / "store.zarr"
    for turn in range(repeat + 1):
        timings = {"copy": copy(path, target)}
        target.unlink()  # at once: memory that is new to a virtual machine costs more than what is measured
        for name, build in builds.items():
            timings[name] = build.write(path, store)
            shutil.rmtree(store)
        if turn:
            for name, timing in timings.items():
                found[name].append(timing)
    return found


def measure_larger(path: Path, builds: dict[str, Build], times: int, repeat: int, folder: Path) -> dict[str, Any]:
    larger = folder / f"{path.stem}_{times}x{times}.tiff"
    repeated(path, larger, times)
    return measure(larger, builds, repeat, folder)


def measure(path: Path, builds: dict[str, Build], repeat: int, folder: Path) -> dict[str, Any]:
    found = in_turns(path, folder, builds, repeat)
    store, size = folder / "last.zarr", path.stat().st_size
    next(iter(builds.values())).write(path, store)
    result: dict[str, Any] = {
        "slide": path.name,
        "file_mb": round(size / 1e6, 2),
        "bytes_against_source": bytes_below(store) / size,
        "lossless": json.loads((store / "zarr.json").read_text())["attributes"]["wsikit"]["lossless"],
        "copy_s": statistics.median(timing.wall for timing in found["copy"]),
        "copy_cpu_s": statistics.median(timing.cpu for timing in found["copy"]),
    }
    shutil.rmtree(store)
    for name in builds:
        walls, worked = ([getattr(timing, kind) for timing in found[name]] for kind in ("wall", "cpu"))
        result[name] = {
            "tile_s": statistics.median(walls),
            "tile_s_range": [min(walls), max(walls)],
            "tile_cpu_s": statistics.median(worked),
            **share(found["copy"], found[name]),
        }
    return result


def measure_fixed(path: Path, builds: dict[str, Build], repeat: int, folder: Path) -> dict[str, Any]:
    """Milliseconds per slide, whatever its size, and microseconds of processor time per tile."""
    found: dict[str, dict[int, list[Timing]]] = {name: {} for name in builds}
    for side in SIDES:
        of_tiles(path, folder / "tiles.tiff", side)
        for name, timings in in_turns(folder / "tiles.tiff", folder, builds, repeat).items():
            if name != "copy":
                found[name][side] = timings
    result: dict[str, Any] = {}
    for name, by_side in found.items():
        result[name] = {}
        for kind in ("wall", "cpu"):
            least = [min(getattr(timing, kind) for timing in by_side[side]) for side in SIDES]
            medians = [statistics.median(getattr(timing, kind) for timing in by_side[side]) for side in SIDES]
            slope, intercept = np.polyfit([side**2 for side in SIDES], least, 1)
            result[name][f"one_tile_{kind}_ms"] = {"median": medians[0] * 1e3, "least": least[0] * 1e3}
            result[name][f"intercept_{kind}_ms"] = intercept * 1e3
            result[name][f"per_tile_{kind}_us"] = slope * 1e6
    return result


# ---- another converter

NGFF_ZARR = """
import sys, time
import dask.array, ngff_zarr, tifffile, zarr
source, target, chunks, repeat = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for number in range(repeat + 1):
    begun = time.perf_counter()
    store = tifffile.imread(source, aszarr=True, level=0)
    pixels = dask.array.from_zarr(zarr.open(store, mode="r"))
    if chunks:
        pixels = pixels.rechunk((chunks, chunks, 3))
    image = ngff_zarr.to_ngff_image(pixels, dims=["y", "x", "c"])
    options = {"chunks": chunks} if chunks else {}
    ngff_zarr.to_ngff_zarr(f"{target}{number}", ngff_zarr.to_multiscales(image, scale_factors=[4, 16], **options))
    print(time.perf_counter() - begun, flush=True)
"""
"""Conversion as often as asked; the first call compiles and imports, the later ones are warm."""


def measure_ngff_zarr(path: Path, folder: Path) -> dict[str, Any]:
    """Seconds and bytes of ngff-zarr: with its defaults and with good chunks, the first call and a warm one, and by its
    command line, start included; or why there is none."""
    if importlib.util.find_spec("ngff_zarr") is None:
        return {"ngff_zarr": "not installed"}
    found: dict[str, Any] = {}
    for name, chunks in (("default_chunks", 0), ("good_chunks", GOOD_CHUNK_PX)):
        target = folder / f"{name}.ome.zarr"
        command = [sys.executable, "-c", NGFF_ZARR, str(path), str(target), str(chunks), "2"]
        done = _run(command)
        if done is None or done.returncode:
            found[f"ngff_zarr_{name}"] = "no answer" if done is None else done.stderr.strip().splitlines()[-1]
            continue
        first, *warm = map(float, done.stdout.splitlines())
        found |= {f"ngff_zarr_{name}_first_s": first, f"ngff_zarr_{name}_warm_s": min(warm)}
        found[f"ngff_zarr_{name}_bytes_against_source"] = bytes_below(Path(f"{target}0")) / path.stat().st_size
    begun = time.perf_counter()
    target = folder / "command_line.ome.zarr"
    line = [str(Path(sys.executable).parent / "ngff-zarr"), "-i", str(path), "-o", str(target), "--quiet"]
    done = _run([*line, "-c", str(GOOD_CHUNK_PX)])
    seconds = time.perf_counter() - begun
    found["ngff_zarr_command_line_s"] = seconds if done is not None and not done.returncode else "failed"
    return found


def _run(command: list[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_NGFF_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def against_ngff_zarr(path: Path, seconds: float, folder: Path) -> dict[str, Any]:
    result = measure_ngff_zarr(path, folder)
    for name, value in list(result.items()):
        if name.endswith("_s") and isinstance(value, float):
            result[f"speed_against_{name.removesuffix('_s')}"] = value / seconds
    return result


def with_folder(work: Callable[[Path], dict[str, Any]], parent: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=parent, prefix="tiling-") as folder:
        return work(Path(folder))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("slides", type=Path, nargs="+")
    arguments.add_argument("--base", type=Path, help="another source tree, measured in turns with this one")
    arguments.add_argument("--repeat", type=int, default=9)
    arguments.add_argument(
        "--repeated", type=int, default=0, help="also a slide with N × N times the tiles of each, if whole"
    )
    arguments.add_argument("--no-fixed", action="store_true", help="do not measure the fixed cost per slide")
    arguments.add_argument("--folder", type=Path, help="where slides and stores are written; default: temporary files")
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--no-ngff-zarr", action="store_true")
    given = arguments.parse_args()
    builds = {"now": Build(HERE)} | ({"base": Build(given.base.resolve())} if given.base else {})
    result: dict[str, Any] = {"load_at_start": os.getloadavg()[0], "slides": []}
    for slide in given.slides:
        found = with_folder(partial(measure, slide, builds, given.repeat), given.folder)
        if not given.no_ngff_zarr:
            found |= with_folder(partial(against_ngff_zarr, slide, found["now"]["tile_s"]), given.folder)
        result["slides"].append(found)
        if given.repeated and has_whole_tiles(slide):
            larger = partial(measure_larger, slide, builds, given.repeated, max(3, given.repeat // 2))
            result["slides"].append(with_folder(larger, given.folder))
    if not given.no_fixed:
        result["fixed"] = with_folder(partial(measure_fixed, given.slides[0], builds, given.repeat), given.folder)
    for build in builds.values():
        build.close()
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
