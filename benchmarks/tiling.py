"""Tiling a slide against copying its file, and against another converter: ratios in one run.

    python benchmarks/tiling.py SLIDE… [--json OUT] [--repeat 9] [--no-ngff-zarr]

The time to write a slide's image store (every per-tile check, every checksum, all flushed to disk) compared with
the time to copy the file and flush the copy, interleaved, medians. `ngff-zarr` (if installed) converts level 0 of the
same slide to an OME-Zarr with three levels, with its default chunks and with 1,024 px, first call and warm, and by its
command line. Machines are shared and noisy: only ratios within a run are valid.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsikit.executor import Executor
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling.image import ImageSource, image_receipt, write_image
from wsikit.tiling.plan import ImageParameters

PARAMETERS = ImageParameters()


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write(path: Path, folder: Path) -> None:
    """All that `wsikit tile` does for a slide's pixels, the opening of the slide included."""
    with open_slide(path) as slide:
        source = ImageSource.of(slide)
        write_image(
            source,
            folder,
            slide_id="bench",
            receipt=image_receipt(source, PARAMETERS, None),
            parameters=PARAMETERS,
            tissue=None,
            executor=Executor(),
        ).close()


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

GOOD_CHUNK_PX = 1024
_NGFF_SECONDS = 280


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


def measure(path: Path, folder: Path, repeat: int, *, ngff_zarr: bool) -> dict[str, Any]:
    copies, tilings = [], []
    write(path, folder / "first.zarr")  # imports, and the file into memory
    for _ in range(repeat):
        target, store = folder / "copy", folder / "store.zarr"
        copies.append(timed(lambda target=target: copy(path, target)))
        tilings.append(timed(lambda store=store: write(path, store)))
        target.unlink()
        shutil.rmtree(store)
    store = SlideStore(folder / "first.zarr")
    size = path.stat().st_size
    tiles = sum(
        store.chunk(level, col, row) is not None
        for level in range(len(store.level_dimensions))
        for col in range(store.level_format(level).n_tiles[0])
        for row in range(store.level_format(level).n_tiles[1])
    )
    result: dict[str, Any] = {
        "slide": path.name,
        "file_mb": round(size / 1e6, 2),
        "bytes_per_tile": round(size / tiles),
        "copy_s": statistics.median(copies),
        "tile_s": statistics.median(tilings),
        "tile_s_range": [min(tilings), max(tilings)],
        "us_per_tile": statistics.median(tilings) / tiles * 1e6,
        "speed_against_copy": statistics.median(copies) / statistics.median(tilings),
        "bytes_against_source": bytes_below(store.folder) / size,
        "lossless": store.record["lossless"],
    }
    if ngff_zarr:
        result |= measure_ngff_zarr(path, folder)
        for name, seconds in list(result.items()):
            if name.startswith("ngff_zarr") and name.endswith("_s") and isinstance(seconds, float):
                result[f"speed_against_{name.removesuffix('_s')}"] = seconds / result["tile_s"]
    return result


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("slides", type=Path, nargs="+")
    arguments.add_argument("--repeat", type=int, default=9)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--no-ngff-zarr", action="store_true")
    given = arguments.parse_args()
    results = []
    for slide in given.slides:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(slide, Path(folder), given.repeat, ngff_zarr=not given.no_ngff_zarr))
    text = json.dumps(results, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
