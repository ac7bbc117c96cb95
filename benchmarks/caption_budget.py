"""What a caption budget costs in accuracy and saves in captions, on phantoms whose every caption is known.

    OMP_NUM_THREADS=1 python benchmarks/caption_budget.py --json budget.json

Unseen phantoms are tiled and every patch is described by measurement. For each budget the representatives are chosen
as `wsikit caption --caption-budget` chooses them; others get the caption of the one most like them, or none; the
packaged model classifies with these. Reported over the patches that are not borderline: balanced accuracy with an
interval by slide, its difference to all captions (paired, by slide), that of the text head alone, the share of
patches with text, and how far shared captions agree with the patch's own (fact-F1, amounts included), compared with
captions drawn at random from the same slide.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions import fact_f1, load_captioner
from wsikit.inference.budget import NO_ROW, Budget, choose, similarity_features
from wsikit.models.io import load_model
from wsikit.models.predictor import Columns, Predictor
from wsikit.phantom import SUBTYPES, make_phantom
from wsikit.slides import open_slide
from wsikit.tiling.stream import read_patches
from wsikit.training.metrics import balanced_accuracy, measure, paired_difference

FIRST_SEED = 500_000  # neither trained nor tuned nor tested on
MPP, PATCH_PX, SIDE_PX, MOST_GLASS = 0.5, 224, 1792, 0.75
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.0)
LIKENESS = (0.3, 0.5, 0.7)


@dataclass(frozen=True)
class Slide:
    """The patches of one phantom that hold tissue."""

    images: npt.NDArray[np.uint8]
    coords: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    clear: npt.NDArray[np.bool_]
    captions: list[str]


@dataclass(frozen=True)
class Row:
    """One budget over all slides. Shares are of all patches."""

    look: str
    budget: float
    """Captions allowed."""
    similarity: float
    asked: float
    """Captions asked for."""
    with_text: float
    """Patches with a caption, own or shared."""
    balanced_accuracy: float
    interval: tuple[float, float]
    """95 %, by slide."""
    cost: tuple[float, float, float]
    """Balanced accuracy below that with all captions, and its 95 % interval, paired by slide."""
    text_alone: float | None
    """Balanced accuracy of the text head on the patches with text."""
    text_alone_own: float | None
    """The same patches, each with its own caption."""
    fact_f1_shared: float | None
    """Of shared captions against the patch's own, amounts included; None if none is shared."""
    fact_f1_random: float | None
    """Of captions drawn at random from the same slide, for the same patches."""


def make(seed: int) -> Slide:
    """One phantom, read as any slide, described by measurement."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.tiff"
        subtype = SUBTYPES[seed % len(SUBTYPES)]
        truth = make_phantom(
            path, size_px=(SIDE_PX, SIDE_PX), mpp=MPP, subtype=subtype, seed=seed, patch_px=PATCH_PX, patch_mpp=MPP
        )
        rows = np.flatnonzero(truth.facts.fraction("glass") <= MOST_GLASS)
        with open_slide(path) as slide:
            images = read_patches(slide, truth.grid, truth.coords[rows]).images
    captions = [caption.text for caption in load_captioner().caption(images, mpp=MPP)]
    return Slide(images, truth.coords[rows], truth.labels[rows].astype(np.int64), ~truth.borderline[rows], captions)


def agreement(slides: list[Slide], sources: list[npt.NDArray[np.int64]]) -> dict[str, float | None]:
    """Fact-F1 of shared captions, and of random ones, against the patches' own."""
    own, shared, drawn = [], [], []
    rng = np.random.default_rng(1)
    for slide, source in zip(slides, sources):
        for row in np.flatnonzero((source != NO_ROW) & (source != np.arange(len(source)))):
            own.append(slide.captions[row])
            shared.append(slide.captions[source[row]])
            drawn.append(slide.captions[rng.integers(len(source))])
    scores = [fact_f1(own, stated, graded=True).f1 if own else None for stated in (shared, drawn)]
    return {"fact_f1_shared": scores[0], "fact_f1_random": scores[1]}


class Classifier:
    """The packaged model on all slides, and how good it is on their clear patches."""

    def __init__(self, slides: list[Slide], predictor: Predictor) -> None:
        self.slides, self.predictor = slides, predictor
        self.labels = np.concatenate([slide.labels for slide in slides])
        self.clear = np.concatenate([slide.clear for slide in slides])
        self.groups = np.repeat(np.arange(len(slides)), [len(slide.labels) for slide in slides])
        self.full = self.predict([np.arange(len(slide.labels)) for slide in slides])

    def predict(self, sources: list[npt.NDArray[np.int64]]) -> Columns:
        """With the captions of the rows in `sources`."""
        parts = [
            self.predictor.predict(slide.images, [None if row == NO_ROW else slide.captions[row] for row in source])
            for slide, source in zip(self.slides, sources)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def row(self, look: str, budget: float, similarity: float, sources: list[npt.NDArray[np.int64]]) -> Row:
        """Figures of one choice."""
        found, clear, rows = self.predict(sources), self.clear, np.concatenate(sources)
        stated = clear & (rows != NO_ROW)
        n_classes = found["probability"].shape[1]
        figures = measure(
            look,
            self.labels[clear],
            found["probability"][clear].argmax(1),
            self.groups[clear],
            n_classes=n_classes,
            n_ordinal=3,
        )
        cost = paired_difference(
            self.labels[clear],
            self.full["probability"][clear],
            found["probability"][clear],
            self.groups[clear],
            "balanced_accuracy",
        )
        text, own = (
            balanced_accuracy(self.labels[stated], of["probability_text"][stated].argmax(1)) if stated.any() else None
            for of in (found, self.full)
        )
        return Row(
            look=look,
            budget=budget,
            similarity=similarity,
            asked=sum(int((source == np.arange(len(source))).sum()) for source in sources) / len(rows),
            with_text=float((rows != NO_ROW).mean()),
            balanced_accuracy=figures.scores.balanced_accuracy,
            interval=figures.balanced_accuracy_interval,
            cost=cost,
            text_alone=text,
            text_alone_own=own,
            **agreement(self.slides, sources),
        )


def rows_of(slides: list[Slide], predictor: Predictor) -> Iterator[Row]:
    """All ways to compare patches, budgets and likenesses."""
    classifier = Classifier(slides, predictor)
    for name, look in {
        "image branch": similarity_features(predictor),
        "stain and texture": similarity_features(None),
    }.items():
        features = [look.features(slide.images) for slide in slides]
        for share in SHARES:
            for similarity in LIKENESS if 0 < share < 1 else LIKENESS[:1]:
                budgets = [Budget(round(share * len(slide.labels)), similarity) for slide in slides]
                sources = [choose(f, slide.coords, b) for f, slide, b in zip(features, slides, budgets)]
                yield classifier.row(name, share, similarity, sources)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    slides = [make(seed) for seed in range(FIRST_SEED, FIRST_SEED + given.slides)]
    predictor = Predictor(load_model(), device="cpu")
    rows = []
    for row in rows_of(slides, predictor):
        rows.append(asdict(row))
        print(json.dumps(_rounded(asdict(row))), flush=True)
    if given.json:
        n = sum(len(slide.labels) for slide in slides)
        record = {"slides": len(slides), "patches": n, "clear": int(sum(s.clear.sum() for s in slides)), "rows": rows}
        given.json.write_text(json.dumps(record, indent=2))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
