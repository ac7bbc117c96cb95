"""Labelled patches of synthetic slides with the true option of every INPC axis, as a folder that `wsikit train` reads.

python pipelines/concept_phantom.py -o OUT

Writes OUT/images/*.png and OUT/images/patches.csv: file_name, class, patient, slide, description, and one column per
axis of the packaged criteria `inpc`. The truth is counted from the scene's objects, never from pixels, and not derived
from the class. Same seeds, same patches.
"""

from __future__ import annotations

import argparse
import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from wsikit.phantom.facts import CLASSES, MIN_DIFFERENTIATING, TUMOUR_KINDS, Facts
from wsikit.phantom.patches import PhantomPatch, phantom_patches

AXES = (
    "neuropil", "differentiation", "ganglion-cells", "schwannian-stroma", "mitosis-karyorrhexis", "necrosis",
    "haemorrhage", "fat", "lymphocytes", "glass",
)  # fmt: skip
TISSUES = {"necrosis": "necrosis", "haemorrhage": "blood", "fat": "fat", "lymphocytes": "lymphoid", "glass": "glass"}


def true_options(facts: Facts) -> dict[str, str]:
    """Axis to the option that holds for a patch (`Facts` with N = 1); without an axis that is not defined there."""
    share = {kind: float(facts.fraction(kind)[0]) for kind in (*TUMOUR_KINDS, "stroma", *TISSUES.values())}
    tumour = sum(share[kind] for kind in TUMOUR_KINDS)
    found = {axis: _of(share[kind], (0.05, "absent"), (0.5, "present"), "dominant") for axis, kind in TISSUES.items()}
    found["schwannian-stroma"] = _of(share["stroma"], (0.02, "absent"), (0.5, "below-half"), "above-half")
    neuropil = share["neuropil"] / tumour if tumour > 0.05 else 0.0
    found["neuropil"] = _of(neuropil, (0.03, "absent"), (0.12, "scant"), (0.35, "moderate"), "abundant")
    maturing = float(facts.diff_fraction[0]) if tumour > 0.05 else 0.0
    found["differentiation"] = "none" if maturing == 0 else "up-to-5" if maturing <= MIN_DIFFERENTIATING else "above-5"
    found["ganglion-cells"] = "present" if facts.count("ganglion")[0] else "none"
    cells = int(facts.n_neuroblastic[0])
    if cells >= 20:  # an index of fewer cells is not defined
        active = int(facts.count("mitosis")[0] + facts.count("karyorrhexis")[0]) / cells
        found["mitosis-karyorrhexis"] = _of(active, (0.02, "low"), (0.0400001, "intermediate"), "high")
    return found


def _of(value: float, *steps: tuple[float, str] | str) -> str:
    """The option of the first limit that is above the value; else the last one."""
    for step in steps:
        if isinstance(step, str):
            return step
        if value < step[0]:
            return step[1]
    raise AssertionError("the last step is a name")


def slide(seed: int, per_slide: int) -> list[PhantomPatch]:
    """The patches of one slide, borderline ones included."""
    return list(phantom_patches([seed], per_slide, borderline=True))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--seeds", type=int, nargs=2, default=(21_000, 21_060), metavar=("FIRST", "END"))
    arguments.add_argument("--per-slide", type=int, default=24)
    arguments.add_argument("--workers", type=int, default=1)
    given = arguments.parse_args()
    folder = given.out / "images"
    folder.mkdir(parents=True)
    with ProcessPoolExecutor(given.workers) as pool, open(folder / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "class", "patient", "slide", "description", *AXES])
        for patches in pool.map(partial(slide, per_slide=given.per_slide), range(*given.seeds)):
            for index, patch in enumerate(patches):
                name = f"phantom-{patch.seed}_{index}.png"
                Image.fromarray(np.ascontiguousarray(patch.image)).save(folder / name, compress_level=1)
                options = true_options(patch.facts)
                who = f"phantom-{patch.seed}"
                table.writerow(
                    [name, CLASSES[patch.label], who, who, patch.caption, *(options.get(axis, "") for axis in AXES)]
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
