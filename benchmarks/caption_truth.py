"""Are measured captions true? Each fact on real patches that cannot have it, and on pictures in which it was planted.

    python benchmarks/caption_truth.py --data ../shared/data
    python benchmarks/caption_truth.py --data ../shared/data --base ../other-build

Per fact: on how many patches it is stated (not "absent") of those that cannot have it, and on how many of those that
have it. Who has it is weak truth: the class of the patch (colorectal, `nct_crc7.zip`; osteosarcoma), or the slide (no
rosettes, neuropil or ganglion cells in colon epithelium, bone or skin; in CMU-1-Small-Region no fat). Tumour and
mucosa hold stroma between their glands, so they are counted as neither for spindle stroma. Planted are the phantom's
tissues (slides of seeds that nothing was tuned on), and strokes of ink over real patches.

The limits of the captioner were set on these real patches; those of `--offset` (half a patch away, on the slides) are
new places of the same slides. With `--base`, the captions of another build of the package are counted as well.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Patch = npt.NDArray[np.uint8]

PATCH_PX = 224
PHANTOM_SEEDS, PER_SLIDE = range(830_000, 830_024), 12
MIN_TISSUE = 0.05
INKS = {
    "blue": ((20, 60, 200), (45, 95, 190)), "violet": ((40, 50, 150),), "green": ((20, 140, 60), (10, 110, 90)),
    "black": ((25, 25, 30), (60, 60, 64)), "red": ((220, 20, 40), (200, 35, 45)),
}  # fmt: skip
STRENGTHS = (1.0, 0.6)
NEUROBLASTIC = ("rosette_like", "fibrillary_share", "ganglion_like_share")


def zipped(path: Path, mpp: float) -> list[tuple[str, Patch, float]]:
    """Class, image and µm per pixel of the patches of a zip whose names begin with the class."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if "___" in name)
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return [(name.split("___")[0], image, mpp) for name, image in zip(names, images, strict=True)]


def cut(path: Path, mpp: float, label: str, stride: int, offset: int) -> list[tuple[str, Patch, float]]:
    """Patches of a slide's finest level that are not all glass."""
    from wsikit.slides import open_slide

    with open_slide(path) as slide:
        width, height = slide.dimensions
        found = [
            slide.read_region(x, y, PATCH_PX, PATCH_PX, level=0)
            for y in range(offset, height - PATCH_PX + 1, stride)
            for x in range(offset, width - PATCH_PX + 1, stride)
        ]
    return [(label, image, mpp) for image in found if np.mean(image.min(axis=2) < 200) >= MIN_TISSUE]


def under_ink(image: Patch, rgb: tuple[int, ...], strength: float, rng: np.random.Generator) -> Patch:
    """A patch that a stroke of ink covers in part, with a soft edge and streaks: densities add up."""
    side = image.shape[0]
    turn = rng.uniform(0, np.pi)
    y, x = np.mgrid[:side, :side] - side / 2
    film = 1 / (1 + np.exp(-(x * np.cos(turn) + y * np.sin(turn) - rng.uniform(-0.3, 0.1) * side) / 4))
    film *= 1 + 0.08 * np.sin(x * np.sin(turn) / 5 + rng.uniform(0, 6))
    density = -np.log((np.array(rgb) + 1) / 244) * strength
    seen = (image + 1.0) * np.exp(-film[..., None] * density) - 1 + rng.normal(0, 1, image.shape)
    return np.asarray(np.clip(np.rint(seen), 0, 255), np.uint8)


def sets_of(data: Path, offset: int) -> list[tuple[str, Patch, float]]:
    """All real patches: class, image, µm per pixel. Serrated adenoma and oral carcinoma at an assumed 0.5."""
    slides, patches = data / "slides", data / "patches"
    return [
        *zipped(patches / "nct_crc7.zip", 0.5),
        *zipped(patches / "osteosarcoma3.zip", 1.0),
        *cut(slides / "CMU-1-Small-Region.svs", 0.499, "skin", PATCH_PX, offset),
        *cut(slides / "serrated_adenoma_gallery-01_half.tif", 0.5, "adenoma", 3 * PATCH_PX, offset),
        *cut(slides / "oral_scc_gallery-06.tif", 0.5, "oral carcinoma", 3 * PATCH_PX, offset),
    ]


def _not_fat(label: str) -> bool:
    return label not in ("ADI", "Non-Tumor")


RULES: dict[str, tuple[Callable[[str], bool], Callable[[str], bool]]] = {
    "fat_share": (_not_fat, lambda label: label == "ADI"),
    "pen_share": (lambda label: label != "skin", lambda label: False),
    **dict.fromkeys(NEUROBLASTIC, (lambda label: True, lambda label: False)),
    "spindle_share": (
        lambda label: label in ("ADI", "LYM", "MUC", "adenoma"), lambda label: label in ("STR", "MUS")
    ),
    "nuclei_per_mm2": (lambda label: label == "MUC", lambda label: label in ("LYM", "NORM", "TUM", "MUS", "STR")),
}  # fmt: skip
"""Fact to which classes cannot have it (mucus has few cells), and which have it."""


def planted() -> tuple[list[Patch], dict[str, npt.NDArray[np.bool_]]]:
    """Phantom patches at 0.5 µm/px, and per fact which of them have it."""
    from wsikit.phantom import phantom_patches

    patches = [p for p in phantom_patches(PHANTOM_SEEDS, PER_SLIDE) if p.facts.artefacts.max() < 0.1]

    def of(has: Callable[[Any], Any]) -> npt.NDArray[np.bool_]:
        return np.array([bool(np.ravel(has(patch.facts))[0]) for patch in patches])

    return [patch.image for patch in patches], {
        "fat_share": of(lambda f: f.fraction("fat") > 0.1),
        "rosette_like": of(lambda f: f.count("rosette") > 0),
        "fibrillary_share": of(lambda f: f.fraction("neuropil") >= 0.03),
        "ganglion_like_share": of(lambda f: f.n_maturing > 0),
        "spindle_share": of(lambda f: f.fraction("stroma") + f.fraction("septa") > 0.1),
        "nuclei_per_mm2": of(lambda f: f.n_neuroblastic > 20),
    }


def stated(images: Iterable[tuple[Patch, float]]) -> list[set[str]]:
    """Names of the facts that the caption of each patch states as not absent."""
    from wsikit.captions import FACTS, load_captioner

    captioner = load_captioner()
    facts = [captioner.caption(image[None], mpp=mpp)[0].facts for image, mpp in images]
    return [
        {name for name, value in one.items() if FACTS[name].grades and FACTS[name].grade(value) != "absent"}
        for one in facts
    ]


def report(data: Path, offset: int) -> dict[str, str]:
    """Rows of the table: fact to its counts in words."""
    real = sets_of(data, offset)
    found = stated((image, mpp) for _, image, mpp in real)
    drawn, truth = planted()
    in_drawn = stated((image, 0.5) for image in drawn)
    rows = {}
    for fact, (cannot, has) in RULES.items():
        parts = []
        for words, chosen in (("where it cannot be", cannot), ("where it is", has)):
            rows_of = [fact in one for one, (label, _, _) in zip(found, real, strict=True) if chosen(label)]
            parts += [f"{words} {sum(rows_of)}/{len(rows_of)}"] if rows_of else []
        if fact in truth:
            said = np.array([fact in one for one in in_drawn])
            hits = int((said & truth[fact]).sum())
            parts.append(f"planted {hits}/{int(truth[fact].sum())}, of those stated {hits}/{int(said.sum())}")
        rows[fact] = "; ".join(parts)
    rng = np.random.default_rng(0)
    tissue = [(image[:512, :512], mpp) for label, image, mpp in real if label != "skin"][::9]
    for name, colours in INKS.items():
        for strength in STRENGTHS:
            inked = [(under_ink(image, rgb, strength, rng), mpp) for rgb in colours for image, mpp in tissue]
            rows[f"{name} ink at {strength:g}"] = f"planted {sum('pen_share' in s for s in stated(inked))}/{len(inked)}"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with slides/ and patches/")
    parser.add_argument("--offset", type=int, default=0, help="px that the patches of slides are moved by")
    parser.add_argument("--base", type=Path, metavar="DIR", help="source tree of another build to count as well")
    parser.add_argument("--json", type=Path, help="write the counts here")
    options = parser.parse_args()
    rows = {"here": report(options.data, options.offset)}
    if options.base:
        command = [sys.executable, __file__, "--data", str(options.data), "--offset", str(options.offset)]
        environment = {**os.environ, "PYTHONPATH": str(options.base.resolve())}
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        rows["base"] = dict(line.split("\t")[1:3] for line in text.splitlines())
    for build, table in rows.items():
        for fact, words in table.items():
            print(build, fact, words, sep="\t")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
