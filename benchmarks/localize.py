"""Maps of text prompts against truth: Dice, ranking, pointing and presence, of the encoder and of two floors.

python benchmarks/localize.py phantom -o OUT.json [--encoder phantom-afloc]

phantom: slides of unseen seeds; the truth is what was planted, per patch of 224 px at 0.5 µm/px (112 µm).
Maps are those of `wsikit localize` with its defaults: prompt ensembles, competitors, smoothing. Thresholds are chosen
on validation slides, then used on test slides once; the default, 0.5, is measured as well.
For real patches of breast see benchmarks/localize_breast.py.

Floors: `fact`, the measured fact behind the caption, no training; `supervised`, the class probability of the packaged
model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.afloc.evaluation import MapWithTruth, best_threshold, evaluate_maps

MPP, PATCH_PX, SLIDE_PX = 0.5, 224, 2240
VALIDATION, TEST = range(4100, 4115), range(6000, 6030)
"""Slides of seeds 5000 to 5029 were seen by an earlier model of this name, and are not used again."""
PRESENCE, PRESENCE_PX = range(7000, 7048), 1792
"""Further test slides, half of them made without each tissue: is the concept anywhere on the slide?"""
THRESHOLDS = tuple(round(0.1 * n, 1) for n in range(1, 10))
AT_ONCE = 64


@dataclass(frozen=True)
class Concept:
    """A concept of the phantom: prompt, truth and floors. Fixed before any map was seen."""

    prompt: str
    kind: str
    """Tissue of the truth."""
    share: float
    """A patch has the concept from this share of its area on. Neuropil lies between cells: pools of a patch's tenth."""
    fact: str
    classes: tuple[str, ...]
    """Classes of the packaged model whose probabilities are added."""


CONCEPTS = (
    Concept("neuropil", "neuropil", 0.1, "fibrillary_share", ("PD", "D")),
    Concept("necrosis", "necrosis", 0.25, "necrosis_share", ("other",)),
    Concept("Schwannian stroma", "stroma", 0.25, "spindle_share", ("other",)),
    Concept("blood", "blood", 0.25, "blood_share", ("other",)),
)
ABSENT_BELOW = 0.05
"""A slide is without a concept if no patch has more than this share; with it, if a patch has the concept."""


@dataclass(frozen=True)
class Slide:
    """Patches of tissue of one slide, with everything that is compared."""

    name: str
    shape: tuple[int, int]
    rows: npt.NDArray[np.int64]
    shares: dict[str, npt.NDArray[np.floating]]
    placed: npt.NDArray[np.float32]
    facts: dict[str, npt.NDArray[np.floating]]
    probability: dict[str, npt.NDArray[np.floating]]

    def map(self, values: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_], present: bool | None) -> MapWithTruth:
        grid, mask = np.full(self.shape, np.nan), np.zeros(self.shape, bool)
        grid.ravel()[self.rows], mask.ravel()[self.rows] = values, truth
        return MapWithTruth(self.name, grid, mask, present)


def measured_slide(seed: int, encoder: Any, cache: Path) -> Slide:
    """A slide, made and measured once."""
    path = cache / f"{seed}.npz"
    if not path.exists():
        np.savez(path, **(make_slide(seed) if seed not in PRESENCE else make_slide(seed, PRESENCE_PX, left_out(seed))))
    with np.load(path) as made:
        return Slide(
            name=str(seed),
            shape=tuple(made["shape"].tolist()),
            rows=made["rows"],
            shares={concept.kind: made[concept.kind] for concept in CONCEPTS},
            placed=encoder.encode_shared(made["images"]),
            facts={concept.fact: made[concept.fact] for concept in CONCEPTS},
            probability={code: made[f"p_{code}"] for concept in CONCEPTS for code in concept.classes},
        )


def left_out(seed: int) -> list[str]:
    """Tissues that a slide of the presence set is made without: each is left out of half of them. Neuropil is of two
    subtypes of three."""
    return [tissue for n, tissue in enumerate(("stroma", "necrosis", "blood")) if (seed - PRESENCE[0]) >> n & 1]


def make_slide(seed: int, side: int = SLIDE_PX, without: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """A slide as a file, read; its truth, facts and the packaged model's probabilities, of patches of tissue."""
    from wsikit.captions import load_captioner
    from wsikit.models.registry import load_patch_model
    from wsikit.phantom import SUBTYPES, make_phantom
    from wsikit.phantom.fields import KINDS
    from wsikit.slides import open_slide

    with TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.tiff"
        subtype = SUBTYPES[seed % len(SUBTYPES)]
        truth = make_phantom(path, size_px=(side, side), mpp=MPP, subtype=subtype, seed=seed, without=without)
        rows = np.flatnonzero(truth.facts.fraction("glass") <= 0.5)
        with open_slide(path) as slide:
            images = np.stack([slide.read_region(x, y, PATCH_PX, PATCH_PX, mpp=MPP) for x, y in truth.coords[rows]])
    captions = load_captioner("morphometry").caption(images, mpp=MPP)
    model = load_patch_model(device="cpu")
    predicted = model.predict(images=images, captions=[one.text for one in captions])["probability"]
    return {
        "shape": np.array([truth.grid.n_rows, truth.grid.n_cols]),
        "rows": rows,
        "images": images,
        **{kind: truth.facts.fractions[rows, n] for n, kind in enumerate(KINDS)},
        **{one.fact: np.array([found.facts.get(one.fact, 0.0) for found in captions]) for one in CONCEPTS},
        **{f"p_{code}": column for code, column in zip(model.info.classes, predicted.T, strict=True)},
    }


def prompt_map(encoder: Any, slide: Slide, prompt: str) -> npt.NDArray[Any]:
    """Probability of the prompt (N,), as `wsikit localize PROMPT` with its defaults computes it on this grid."""
    from wsikit.encoders.prompts import plan_queries
    from wsikit.models.text_encoders import places_of
    from wsikit.models.text_scores import probabilities, similarities
    from wsikit.voting.text_map import MAP_SIGMA, smooth_cells

    own = encoder.info.competitors
    (query,) = plan_queries([prompt], negation=own in ("negation", "both"), usual=own != "negation")
    places = places_of(encoder, [query.concept, *query.competitors])
    values = probabilities(similarities(slide.placed.astype(np.float16), places), encoder.logit_scale)[:, 0]
    grid = slide.map(values, np.zeros(len(values), bool), None).values
    return np.asarray(smooth_cells(grid, np.isfinite(grid), MAP_SIGMA).ravel()[slide.rows])


def concept_maps(
    slides: Sequence[Slide], concept: Concept, values: Callable[[Slide], npt.NDArray[np.floating]]
) -> list[MapWithTruth]:
    maps = []
    for slide in slides:
        share = slide.shares[concept.kind]
        truth = share >= concept.share
        present = True if truth.any() else False if share.max() < ABSENT_BELOW else None
        maps.append(slide.map(values(slide), truth, present))
    return maps


def phantom(encoder_name: str, cache: Path) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    encoder = load(encoder_name)
    cache.mkdir(parents=True, exist_ok=True)
    parts = {
        name: [measured_slide(seed, encoder, cache) for seed in seeds]
        for name, seeds in {"validation": VALIDATION, "test": TEST, "presence": PRESENCE}.items()
    }
    rows = []
    for concept in CONCEPTS:
        for way, values in compared_maps(concept, encoder, encoder_name).items():
            maps = {name: concept_maps(slides, concept, values) for name, slides in parts.items()}
            chosen = best_threshold(maps["validation"])
            for threshold in (chosen, 0.5) if way == encoder_name else (chosen,):
                figures = evaluate_maps(maps["test"], threshold=threshold, thresholds=THRESHOLDS)
                found = evaluate_maps(maps["presence"], threshold=threshold)
                figures |= {name: found[name] for name in ("presence_auroc", "slides_with", "slides_without")}
                said = f"{way}, default threshold" if threshold == 0.5 else way
                rows.append({"concept": concept.prompt, "way": said, "figures": figures})
                show(rows[-1])
    heading = (
        f"{len(TEST)} synthetic slides of {SLIDE_PX} px, seeds {TEST[0]} to {TEST[-1]}; thresholds, "
        f"competitors and smoothing chosen on seeds {VALIDATION[0]} to {VALIDATION[-1]}. Presence: {len(PRESENCE)} "
        f"slides of {PRESENCE_PX} px, seeds {PRESENCE[0]} to {PRESENCE[-1]}, each tissue left out of half of them. "
        f"Cells are patches of {PATCH_PX} px at {MPP} "
        "µm/px; the truth is the planted share of the area: from 0.1 on for neuropil, 0.25 on for the others."
    )
    return {"heading": heading, "encoder": encoder_name, "fingerprint": encoder.info.fingerprint, "rows": rows}


def compared_maps(
    concept: Concept, encoder: Any, encoder_name: str
) -> dict[str, Callable[[Slide], npt.NDArray[np.floating]]]:
    """The encoder's map, and the two floors."""
    return {
        encoder_name: lambda slide: prompt_map(encoder, slide, concept.prompt),
        f"fact ({concept.fact})": lambda slide: slide.facts[concept.fact],
        f"supervised ({' + '.join(concept.classes)})": lambda slide: np.sum(
            [slide.probability[code] for code in concept.classes], axis=0
        ),
    }


def load(name: str) -> Any:
    from wsikit.encoders.packaged import load_own, own_folder

    folder = own_folder(name)
    if folder is None:
        from wsikit.encoders.registry import load_encoder

        return load_encoder(name, device="cpu")
    return load_own(folder, device="cpu")


def show(row: dict[str, Any]) -> None:
    from wsikit.training.afloc.card import shown

    figures = row["figures"]
    names = ("dice", "slide_dice", "iou", "auroc", "auprc", "cnr", "pointing_1", "presence_auroc")
    print(
        row["concept"], "|", row["way"], "|", "; ".join(f"{name} {shown(figures[name])}" for name in names), flush=True
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", choices=["phantom"])
    arguments.add_argument("--encoder", default="phantom-afloc", help="Name or folder.")
    arguments.add_argument("--cache", type=Path, help="Folder of the slides, made once; default: OUT's name.")
    arguments.add_argument("-o", "--out", type=Path, required=True)
    given = arguments.parse_args()
    record = phantom(given.encoder, given.cache or given.out.with_suffix(""))
    given.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
