"""Single patches, fields and several images per call: what the packaged captioner then states, and what it costs.

    OMP_NUM_THREADS=1 python benchmarks/caption_fields.py --json fields.json

Unseen phantoms are tiled and described by `phantom-captioner` in each way. The texts of all patches are compared with
two truths: the measured caption of the same patch (fact-F1, presence and with amounts), and the planted tissue
(balanced accuracy of "present" against a share of `PLANTED` and more, mean over `TISSUES`). Floor: the measured caption
of a random patch of the same slide. Processor time per patch includes reading; `calls` counts calls of the captioner
per patch, and `one by one` the share of joint calls whose images had to be described singly. The captioner was trained
on single patches of 224 px at 0.5 µm/px: the figures show what these ways cost such a model, not what they do for a
large one.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: times are of one core

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from wsikit.captions import CaptionerOptions, fact_f1, load_captioner, parse
from wsikit.inference.caption import caption
from wsikit.inference.caption_columns import read_captions
from wsikit.inference.caption_fields import fields_of
from wsikit.phantom import SUBTYPES, make_phantom
from wsikit.slides.store import SlideStore
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.tile import tile_slide

FIRST_SEED = 510_000  # neither trained nor tuned nor tested on
MPP, PATCH_PX = 0.5, 224
PLANTED = 0.05  # share of a patch from which a tissue counts as present
TISSUES = {"neuropil": "neuropil", "necrosis": "necrosis", "blood": "blood", "stroma": "spindle_stroma"}
"""Kind of planted tissue to the term in captions."""

WAYS = {
    "single patches": CaptionerOptions(),
    "2 images per call": CaptionerOptions(images_per_call=2),
    "4 images per call": CaptionerOptions(images_per_call=4),
    "fields 448 px, 0.5 µm/px": CaptionerOptions(caption_field=448, caption_mpp=0.5),
    "fields 448 px, 1 µm/px": CaptionerOptions(caption_field=448, caption_mpp=1.0),
    "fields 896 px, 2 µm/px": CaptionerOptions(caption_field=896, caption_mpp=2.0),
}


@dataclass(frozen=True)
class Slide:
    """One phantom's store, with what is true of each of its patches."""

    folder: Path
    measured: list[str]
    planted: dict[str, npt.NDArray[np.bool_]]
    """Tissue to (N,) presence."""


@dataclass(frozen=True)
class Row:
    """One way over all slides."""

    way: str
    patches: int
    fact_f1: float
    fact_f1_amounts: float
    planted: float
    """Mean balanced accuracy over the tissues."""
    ms_per_patch: float
    calls_per_patch: float
    one_by_one: float | None
    """Share of calls with several images that were repeated; None without such calls."""


def make(folder: Path, seed: int, size_px: int) -> Slide:
    """A tiled phantom, with measured captions and planted tissue."""
    path = folder / f"{seed}.tiff"
    truth = make_phantom(
        path,
        size_px=(size_px, size_px),
        mpp=MPP,
        subtype=SUBTYPES[seed % len(SUBTYPES)],
        seed=seed,
        patch_px=PATCH_PX,
        patch_mpp=MPP,
    )
    store = tile_slide(path, folder / f"{seed}.zarr", patches=PatchParameters(MPP, PATCH_PX))
    table = caption(store)
    row_of = {tuple(place): row for row, place in enumerate(truth.coords.tolist())}
    rows = [row_of[tuple(place)] for place in table.coords.tolist()]
    planted = {kind: truth.facts.fraction(kind)[rows] >= PLANTED for kind in TISSUES}
    return Slide(store.folder, [str(text) for text in table.read("caption")], planted)


def score(way: str, slides: list[Slide], texts: list[list[str]], **cost: float | None) -> Row:
    """Agreement of texts with both truths."""
    measured = [text for slide in slides for text in slide.measured]
    stated = [text for of_slide in texts for text in of_slide]
    found = [parse(text) for text in stated]
    accuracies = []
    for kind, term in TISSUES.items():
        true = np.concatenate([slide.planted[kind] for slide in slides])
        said = np.array([facts.get(term, "absent") != "absent" for facts in found])
        if 0 < true.sum() < len(true):
            accuracies.append((said[true].mean() + (~said[~true]).mean()) / 2)
    return Row(
        way,
        len(stated),
        round(fact_f1(measured, stated).f1, 3),
        round(fact_f1(measured, stated, graded=True).f1, 3),
        round(float(np.mean(accuracies)), 3),
        **cost,  # type: ignore[arg-type]
    )


def describe(way: str, options: CaptionerOptions, slides: list[Slide]) -> Row:
    """All slides, described in one way."""
    captioner = load_captioner("phantom-captioner", options, device="cpu")
    captioner.caption(np.zeros((1, PATCH_PX, PATCH_PX, 3), np.uint8), mpp=MPP)  # the first call prepares the model
    texts, seconds, calls, joint, split = [], 0.0, 0, 0, 0
    size = options.images_per_call or 1
    for slide in slides:
        store = SlideStore(slide.folder)
        before, start = captioner.split, time.process_time()  # type: ignore[attr-defined]
        table = caption(store, captioner=captioner)
        seconds += time.process_time() - start
        split_here = captioner.split - before  # type: ignore[attr-defined]
        found = read_captions(table)
        assert found is not None
        texts.append([str(text) for text in found.texts])
        field = captioner.field  # type: ignore[attr-defined]
        units = len(table) if field is None else len(fields_of(store, table, field).corners)
        joint_here = units // size if size > 1 else 0
        joint, split = joint + joint_here, split + split_here
        calls += joint_here + (units - joint_here * size if size > 1 else units) + split_here * size
    patches = sum(map(len, texts))
    return score(
        way,
        slides,
        texts,
        ms_per_patch=round(1000 * seconds / patches, 2),
        calls_per_patch=round(calls / patches, 3),
        one_by_one=round(split / joint, 3) if joint else None,
    )


def main() -> None:
    """Print one line per way; write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=3)
    parser.add_argument("--size", type=int, default=3584, help="side of a slide, px; a multiple of 224")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        slides = [make(Path(folder), FIRST_SEED + number, options.size) for number in range(options.slides)]
        rng = np.random.default_rng(0)
        floor = [[slide.measured[row] for row in rng.permutation(len(slide.measured))] for slide in slides]
        rows = [score("floor: another patch", slides, floor, ms_per_patch=0.0, calls_per_patch=0.0, one_by_one=None)]
        for way, asked in WAYS.items():
            rows.append(describe(way, asked, slides))
    for row in rows:
        print(json.dumps(asdict(row), ensure_ascii=False))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
