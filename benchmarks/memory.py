"""Peak memory of tiling, against the size of the slide: it must be flat.

    python benchmarks/memory.py [--base DIR] [--gigapixels 0.3,1,3,10] [--json OUT]

The slides are mostly glass: a phantom of 4096 × 4096 px here and there, the same bytes each time, on empty blocks. Each
is tiled (pixels, tissue, patch table, quality) by a process of its own, which reports its peak resident memory next to
what it had after importing its libraries. `--base`: the folder of another source tree. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parents[1]
BLOCK_PX, TILE_PX = 4096, 256
LEVELS = (1, 4, 16)
TISSUE_BLOCKS = 12
"""In every slide, whatever its size: the tissue on a slide does not grow with the glass."""

CHILD = """
import sys, time
import dask.threaded, imagecodecs, scipy.ndimage, skimage.color, tifffile, zarr
from wsikit.slides.formats.tiff import reader as tiff
from wsikit.tissue import quality
from wsikit.tiling.tile import tile

def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))

open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here, not from the process that started this one
before, begun = memory("VmRSS"), time.perf_counter()
with tile(sys.argv[1], sys.argv[2]) as store:
    print(before, memory("VmHWM"), time.perf_counter() - begun, len(store.patches()), store.record["lossless"])
"""


def encoded_levels(pixels: np.ndarray) -> list[list[bytes]]:
    """JPEG tiles of one block at each level, row-major."""
    import imagecodecs
    from PIL import Image

    levels = []
    for factor in LEVELS:
        level = np.asarray(Image.fromarray(pixels).reduce(factor))
        side = BLOCK_PX // factor
        levels.append(
            [
                bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(level[y : y + TILE_PX, x : x + TILE_PX]), level=85))
                for y in range(0, side, TILE_PX)
                for x in range(0, side, TILE_PX)
            ]
        )
    return levels


def write_slide(path: Path, gigapixels: float, tissue: list[list[bytes]], glass: list[list[bytes]]) -> int:
    """Write a slide of about so many pixels; return its side in px."""
    import tifffile

    blocks = max(4, round(math.sqrt(gigapixels * 1e9) / BLOCK_PX))
    chance = np.random.default_rng(0)
    filled = set(chance.permutation(blocks**2)[:TISSUE_BLOCKS].tolist())

    def tiles(level: int) -> Iterator[bytes]:
        per_block = BLOCK_PX // LEVELS[level] // TILE_PX
        for row in range(blocks * per_block):
            for col in range(blocks * per_block):
                block = (row // per_block) * blocks + col // per_block
                source = tissue if block in filled else glass
                yield source[level][(row % per_block) * per_block + col % per_block]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, factor in enumerate(LEVELS):
            side = blocks * BLOCK_PX // factor
            writer.write(
                tiles(level),
                shape=(side, side, 3),
                dtype="uint8",
                tile=(TILE_PX, TILE_PX),
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                subfiletype=1 if level else 0,
                resolution=(2e4 / factor, 2e4 / factor),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return blocks * BLOCK_PX


def measure(tree: Path, path: Path, store: Path) -> dict[str, Any]:
    """What the build in `tree` needs to tile a slide."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(path), str(store)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tree,  # which is where such a process looks for modules first
        env={**os.environ, "PYTHONPATH": str(tree)},
    )
    before, peak, seconds, patches, lossless = done.stdout.split()
    return {
        "imported_mb": round(float(before)),
        "peak_mb": round(float(peak)),
        "beyond_imports_mb": round(float(peak) - float(before)),
        "seconds": round(float(seconds), 1),
        "patches": int(patches),
        "lossless": lossless == "True",
    }


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--gigapixels", default="0.3,1,3,10")
    arguments.add_argument("--base", type=Path, help="another source tree, measured too")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    from wsikit.phantom import make_phantom
    from wsikit.slides.registry import open_slide

    result: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_phantom(folder / "block.tiff", size_px=(BLOCK_PX, BLOCK_PX), seed=1)
        with open_slide(folder / "block.tiff") as slide:
            tissue = encoded_levels(slide.read_box(0, (0, 0, BLOCK_PX, BLOCK_PX)))
        noise = np.random.default_rng(0).integers(-2, 3, (BLOCK_PX, BLOCK_PX, 1))
        glass = encoded_levels(np.clip(243 + noise, 0, 255).astype(np.uint8).repeat(3, axis=2))
        for size in map(float, given.gigapixels.split(",")):
            side = write_slide(folder / "large.tiff", size, tissue, glass)
            record: dict[str, Any] = {
                "gigapixels": round(side**2 / 1e9, 2),
                "file_mb": (folder / "large.tiff").stat().st_size >> 20,
            }
            for name, tree in (("now", HERE), ("base", given.base)):
                if tree is not None:
                    record[name] = measure(tree.resolve(), folder / "large.tiff", folder / f"{size}_{name}.zarr")
                    shutil.rmtree(folder / f"{size}_{name}.zarr")
            result.append(record)
            print(json.dumps(result[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
