"""Colour-histogram baseline of the phantom: how well its classes are separable by colour only.

    python benchmarks/phantom_baseline.py --train 60 --test 30 --per-slide 16 --json floor.json

Logistic regression on colour histograms, trained on some slides and tested on slides of other seeds: for all four
patch classes, and for the three tumour classes alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from wsikit.phantom import CLASSES, phantom_patches
from wsikit.phantom.baseline import colour_histogram, histogram_baseline

TEST_SEEDS = 500_000


def collect(seeds: range, per_slide: int, mpp: float) -> tuple[np.ndarray, np.ndarray]:
    """Histograms (N, 608) and labels (N,)."""
    rows = [(colour_histogram(patch.image), patch.label) for patch in phantom_patches(seeds, per_slide, mpp=mpp)]
    return np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=60, help="slides to train on")
    parser.add_argument("--test", type=int, default=30, help="slides to test on")
    parser.add_argument("--per-slide", type=int, default=16, help="patches per slide")
    parser.add_argument("--mpp", type=float, default=0.5, help="µm per pixel")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    start = time.perf_counter()
    train = collect(range(options.train), options.per_slide, options.mpp)
    test = collect(range(TEST_SEEDS, TEST_SEEDS + options.test), options.per_slide, options.mpp)
    seconds = time.perf_counter() - start
    tumour = [(x[y < 3], y[y < 3]) for x, y in (train, test)]
    result = {
        "four_classes": histogram_baseline(train, test),
        "three_tumour_classes": histogram_baseline(*tumour),
        "patches_per_class": {
            name: [int((train[1] == n).sum()), int((test[1] == n).sum())] for n, name in enumerate(CLASSES)
        },
        "patches_per_second": round((len(train[1]) + len(test[1])) / seconds, 1),
        "mpp": options.mpp,
    }
    text = json.dumps(result, indent=1)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
