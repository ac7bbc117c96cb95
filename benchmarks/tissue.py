"""Tissue mask, patch grid and coverage of a large slide, compared with only reading the level they need, in one run.

    python benchmarks/tissue.py --json tissue.json                     a slide of 16,000 × 22,000 px, made for it
    python benchmarks/tissue.py --slide my_slide.svs --json tissue.json

The times are the medians of interleaved repeats; the ratio is mask + grid + coverage over the bare read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage as ndi

from wsikit.geometry import PatchGrid, coverage
from wsikit.slides import Slide, open_slide
from wsikit.tissue import TissueParameters, patch_quality, tissue_mask
from wsikit.tissue.overview import read_overview

TILE = 256
MPP = 0.5
DENSITY = np.array([0.22, 0.62, 0.36])


def write_slide(path: Path, width: int, height: int) -> None:
    """A tiled JPEG pyramid, halved down to 1,000 px: a textured ellipse on glass."""
    rng = np.random.default_rng(0)
    grain = ndi.gaussian_filter(rng.normal(size=(1024, 1024)), 1.5, mode="wrap")
    grain /= grain.std()
    n_levels = 1 + max(0, int(np.log2(max(width, height) / 1000)))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(n_levels):
            shape = (height >> level, width >> level, 3)
            file.write(
                _tiles(shape, grain, rng),
                shape=shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(level > 0),
                resolution=(1e4 / (MPP * 2**level), 1e4 / (MPP * 2**level)),
                resolutionunit="CENTIMETER",
            )


def _tiles(
    shape: tuple[int, int, int], grain: npt.NDArray[np.float64], rng: np.random.Generator
) -> Iterator[npt.NDArray[np.uint8]]:
    height, width, _ = shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            y, x = np.ogrid[top : top + TILE, left : left + TILE]
            inside = ((x / width - 0.5) / 0.4) ** 2 + ((y / height - 0.5) / 0.35) ** 2 < 1
            row, column = rng.integers(0, len(grain) - TILE, 2)
            amount = inside * np.maximum(0.1, 1 + 0.3 * grain[row : row + TILE, column : column + TILE])
            yield (242 * np.exp(amount[..., None] * -DENSITY)).astype(np.uint8)


def measure(slide: Slide, repeats: int, patch_px: int, mpp: float) -> dict[str, object]:
    """Seconds of each step, and their ratio."""
    seconds: dict[str, list[float]] = {"read": [], "mask": [], "grid_and_coverage": []}
    for _ in range(repeats):
        start = time.perf_counter()
        read_overview(slide, max(TissueParameters().mpp, *slide.mpp))
        after_read = time.perf_counter()
        found = tissue_mask(slide)
        after_mask = time.perf_counter()
        grid = PatchGrid(slide.dimensions, slide.mpp, patch_px, mpp)
        shares = coverage(found.mask, found.downsample, grid.all_coords(), grid.side)
        end = time.perf_counter()
        for name, value in zip(seconds, (after_read - start, after_mask - after_read, end - after_mask)):
            seconds[name].append(value)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    whole = median["mask"] + median["grid_and_coverage"]
    return {
        "slide_px": list(slide.dimensions),
        "slide_mpp": list(slide.mpp),
        "mask_px": [found.mask.shape[1], found.mask.shape[0]],
        "tissue_mm2": round(found.area_mm2, 3),
        "n_patches": len(shares),
        "n_patches_with_tissue": int(np.count_nonzero(shares >= 0.25)),
        "seconds": {name: round(value, 4) for name, value in median.items()},
        "seconds_mask_grid_coverage": round(whole, 4),
        "ratio_to_read": round(whole / median["read"], 2),
    }


def quality_rate(n: int = 300) -> float:
    """Patches of 224 px at 0.5 µm/px per second of `patch_quality`, one core."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (n, 224, 224, 3), dtype=np.uint8)
    patch_quality(patches[:8], mpp=MPP)
    start = time.process_time()
    patch_quality(patches, mpp=MPP)
    return n / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path, help="a slide; default: one made for the purpose")
    parser.add_argument("--assume-mpp", type=float, help="its µm per level-0 px, if it states none")
    parser.add_argument("--width", type=int, default=16_000, help="of the slide made, px")
    parser.add_argument("--height", type=int, default=22_000, help="of the slide made, px")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.slide
        if path is None:
            path = Path(folder) / "large.tiff"
            write_slide(path, options.width, options.height)
        with open_slide(path, mpp=options.assume_mpp) as slide:
            result = measure(slide, options.repeats, 224, max(MPP, *slide.mpp))
    result["quality_patches_per_second"] = round(quality_rate(), 1)
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
