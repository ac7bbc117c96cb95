"""Tiling a slide against copying its file, and reading patches against OpenSlide: ratios in one run.

    python benchmarks/tiling.py SLIDE [--json OUT] [--repeat 5]

Tiling: the time to write a slide's image store (every per-tile check, every checksum, flushed to disk) as a ratio to
copying the file and flushing the copy, interleaved, medians. Patches: 224 px at the slide's own scale, row by row, one
process: OpenSlide's read_region patch by patch, ours from the slide, ours from the store, and the limit, which is
decoding each tile that the patches touch once. Machines are shared and noisy: only ratios within a run mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.execution import Executor
from wsikit.geometry import PatchGrid
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.slides.fingerprint import fingerprint
from wsikit.tiling.image import write_image
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.stream import read_patches

PATCH_PX = 224
MOST_PATCHES = 1200
BATCH = 256


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


def measure_tiling(path: Path, folder: Path, repeat: int) -> dict[str, Any]:
    copies, tilings = [], []
    with open_slide(path) as slide:
        for number in range(repeat):
            target, store = folder / f"copy{number}", folder / f"{number}.zarr"
            copies.append(timed(lambda target=target: copy(path, target)))
            tilings.append(
                timed(
                    lambda store=store: write_image(
                        slide,
                        store,
                        slide_id="bench",
                        fingerprint=fingerprint(path),
                        parameters=ImageParameters(),
                        executor=Executor(),
                    )
                )
            )
    store = SlideStore(folder / "0.zarr")
    return {
        "copy_s": statistics.median(copies),
        "tile_s": statistics.median(tilings),
        "speed_against_copy": statistics.median(copies) / statistics.median(tilings),
        "bytes_against_source": bytes_below(store.folder) / path.stat().st_size,
        "lossless": store.record["lossless"],
    }


def measure_patches(path: Path, store_path: Path, repeat: int) -> dict[str, Any]:
    import openslide

    with open_slide(path) as slide:
        grid = PatchGrid(slide.dimensions, (1.0, 1.0), PATCH_PX, 1.0)
    coords = grid.all_coords()
    inside = (coords[:, 0] + PATCH_PX <= grid.slide_px[0]) & (coords[:, 1] + PATCH_PX <= grid.slide_px[1])
    # whole rows from the middle, where the tissue is
    rows = np.flatnonzero(inside)
    coords = coords[rows[max(0, (len(rows) - MOST_PATCHES) // 2) :][:MOST_PATCHES]]

    def ours(opened_path: Path) -> None:
        with open_slide(opened_path, mpp=1.0) as slide:
            for first in range(0, len(coords), BATCH):
                read_patches(slide, grid, coords[first : first + BATCH])

    def theirs() -> None:
        with openslide.OpenSlide(path) as slide:
            for x, y in coords.tolist():
                np.asarray(slide.read_region((x, y), 0, (PATCH_PX, PATCH_PX)).convert("RGB"))

    def limit() -> None:
        with open_slide(path, mpp=1.0) as slide:
            tile_w, tile_h = slide.info.tile_px or (256, 256)
            right, bottom = coords.max(axis=0) + PATCH_PX
            left, top = coords.min(axis=0)
            for y in range(int(top) // tile_h * tile_h, int(bottom), tile_h):
                for x in range(int(left) // tile_w * tile_w, int(right), tile_w):
                    slide.read_box(0, (x, y, 1, 1))  # decodes the tile

    works = {"openslide": theirs, "slide": lambda: ours(path), "store": lambda: ours(store_path), "limit": limit}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeat):
        for name, work in works.items():
            times[name].append(timed(work))
    speed = {name: len(coords) / statistics.median(seconds) for name, seconds in times.items()}
    return {
        "patches": len(coords),
        "patches_per_s": {name: round(value, 1) for name, value in speed.items()},
        "slide_against_openslide": speed["slide"] / speed["openslide"],
        "store_against_slide": speed["store"] / speed["slide"],
        "slide_against_limit": speed["slide"] / speed["limit"],
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("slide", type=Path)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "slide": given.slide.name,
            "tiling": measure_tiling(given.slide, Path(folder), given.repeat),
            "reading": measure_patches(given.slide, Path(folder) / "0.zarr", given.repeat),
        }
    text = json.dumps(result, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
