"""Patches of synthetic slides with reference captions, as a folder that `wsikit train` reads.

python pipelines/phantom_patches.py -o OUT

Writes OUT/images/*.png and OUT/images/patches.csv (file_name, description, class, patient, slide, x, y). Tissues that
are rare are drawn more often than their share of the slides. Same seeds, same patches.
"""

from __future__ import annotations

import argparse
import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from wsikit.phantom import CLASSES, SUBTYPES, make_phantom
from wsikit.phantom.truth import PhantomTruth
from wsikit.slides import open_slide

MPP, PATCH_PX = 0.5, 224


@dataclass(frozen=True)
class Made:
    """Patches of one slide and their rows of the table."""

    images: np.ndarray
    rows: list[tuple[str, str, str, str, str, int, int]]


def make_slide(seed: int, *, slide_px: int, most: int) -> Made:
    """One slide as a file, and at most `most` patches read from it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.tiff"
        subtype = SUBTYPES[seed % len(SUBTYPES)]
        truth = make_phantom(path, size_px=(slide_px, slide_px), mpp=MPP, subtype=subtype, seed=seed)
        rows = drawn(truth, most, seed)
        with open_slide(path) as slide:
            images = np.stack([slide.read_region(x, y, PATCH_PX, PATCH_PX, mpp=MPP) for x, y in truth.coords[rows]])
    name, captions = f"phantom-{seed}", truth.captions
    lines = []
    for row in rows:
        x, y = (int(v) for v in truth.coords[row])
        lines.append((f"{name}_{x}_{y}.png", captions[row], CLASSES[truth.labels[row]], name, name, x, y))
    return Made(images, lines)


def drawn(truth: PhantomTruth, most: int, seed: int) -> np.ndarray:
    """Rows of the truth's patches: little glass, and tissues other than tumour more often."""
    shares = truth.facts.fractions
    others, glass = shares[:, :5], truth.facts.fraction("glass")
    weight = np.where(glass > 0.98, 0.05, 1.0)
    weight *= 1 + 6 * (others.max(axis=1) > 0.25) + 2 * (others.sum(axis=1) > 0.05)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(len(shares), size=min(most, len(shares)), replace=False, p=weight / weight.sum()))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--seeds", type=int, nargs=2, default=(3000, 3120), metavar=("FIRST", "END"))
    arguments.add_argument("--slide-px", type=int, default=3136)
    arguments.add_argument("--most", type=int, default=45, help="Patches per slide.")
    arguments.add_argument("--workers", type=int, default=1)
    given = arguments.parse_args()
    folder = given.out / "images"
    folder.mkdir(parents=True)
    make = partial(make_slide, slide_px=given.slide_px, most=given.most)
    with ProcessPoolExecutor(given.workers) as pool, open(folder / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "description", "class", "patient", "slide", "x", "y"])
        for made in pool.map(make, range(*given.seeds)):
            table.writerows(made.rows)
            for image, row in zip(made.images, made.rows, strict=True):
                Image.fromarray(image).save(folder / row[0], compress_level=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
