"""Tiling a slide against copying its file, and against another converter: ratios in one run.

    python benchmarks/tiling.py SLIDE… [--json OUT] [--repeat 9] [--no-ngff-zarr]

The time to write a slide's image store (every per-tile check, every checksum, all flushed to disk) compared with
the time to copy the file and flush the copy, interleaved, medians. `ngff-zarr` (if installed) converts level 0 of the
same slide to an OME-Zarr with its defaults, once. Machines are shared and noisy: only ratios within a run are valid.
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
store = tifffile.imread(sys.argv[1], aszarr=True, level=0)
begun = time.perf_counter()
pixels = dask.array.from_zarr(zarr.open(store, mode="r"))
image = ngff_zarr.to_ngff_image(pixels, dims=["y", "x", "c"])
ngff_zarr.to_ngff_zarr(sys.argv[2], ngff_zarr.to_multiscales(image))
print(time.perf_counter() - begun)
"""


def measure_ngff_zarr(path: Path, folder: Path) -> dict[str, Any]:
    """Seconds and bytes of ngff-zarr's conversion, without its imports; or why there is none."""
    if importlib.util.find_spec("ngff_zarr") is None:
        return {"ngff_zarr": "not installed"}
    target = folder / "other.ome.zarr"
    done = subprocess.run([sys.executable, "-c", NGFF_ZARR, str(path), str(target)], capture_output=True, text=True)
    if done.returncode:
        return {"ngff_zarr": done.stderr.strip().splitlines()[-1]}
    return {
        "ngff_zarr_s": float(done.stdout.splitlines()[-1]),
        "ngff_zarr_bytes_against_source": bytes_below(target) / path.stat().st_size,
    }


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
        if "ngff_zarr_s" in result:
            result["speed_against_ngff_zarr"] = result["ngff_zarr_s"] / result["tile_s"]
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
