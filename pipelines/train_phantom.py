"""Train the packaged demonstration model on synthetic tissue: python pipelines/train_phantom.py -o OUT

Makes training and held-out slides, captions their patches by measurement, trains, evaluates in comparison with a
colour-histogram baseline, and writes OUT/model with card and metrics (packaged as wsikit/models/zoo/<name>). Same
seeds, same model.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import sklearn
import timm
import torch
import transformers
import yaml
from pydantic import BaseModel, ConfigDict

import wsikit
from wsikit.captions import load_captioner, scrub
from wsikit.exporters.palette import class_colors, hex_color
from wsikit.models.config import ImageEncoderConfig, ModelConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.io import load_model, save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.predictor import Predictor
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.phantom import CLASSES, SUBTYPES, make_phantom
from wsikit.slides import open_slide
from wsikit.training.baselines import colour_histogram, fit_histogram_baseline
from wsikit.training.card import model_card
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.metrics import Labels, Row, measure
from wsikit.training.ood import fit_ood_detector
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.trainer import TrainingSettings, train

logger = logging.getLogger("train_phantom")

HERE = Path(__file__).parent
N_ORDINAL = 3  # UD < PD < D; other tissue is not ordered
FUSED = "PRMF fused"
COMMAND = "python pipelines/train_phantom.py -o OUT"
NOTICE = (
    "DEMONSTRATION ONLY: trained on synthetic tissue, never on a patient's. Not for clinical use; "
    "its output on real tissue means nothing and must not be used."
)
LIMITS = (
    "It has never seen real tissue. Most real patches are out-of-distribution, and slides of such patches are "
    "not called; its predictions on them are not valid.",
    "The classes differ more clearly in the phantom than in real tumours.",
    "One scale only; stains other than H&E were not seen.",
    "The classes are those of single patches; the INPC category of a tumour is not a vote over patches.",
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """Slides and number of patches of each."""

    mpp: float
    patch_px: int
    captioner: str
    train_seeds: tuple[int, int]
    test_seeds: tuple[int, int]
    ood_seeds: tuple[int, int]
    """Slides whose patches set the limit of the OOD score."""
    slide_px: int
    min_tissue: float
    most_per_training_slide: int
    shuffle_seed: int


class Text(_Strict):
    """The text branch before its vocabulary is known."""

    model_type: str
    vocabulary: int
    max_tokens: int
    options: dict[str, Any]


class StageShare(_Strict):
    """Which parts are trained, from which fraction of the epochs on."""

    name: str
    since: float
    learns: list[str]


class Settings(_Strict):
    """The YAML file."""

    name: str
    version: str
    threads: int
    data: Data
    image: ImageEncoderConfig
    text: Text
    prmf: PRMFConfig
    training: TrainingSettings
    rise: tuple[float, float]
    stages: list[StageShare]

    def plan(self) -> StagePlan:
        """The stages in epochs."""
        epochs = self.training.epochs
        return StagePlan(tuple(Stage(s.name, round(s.since * epochs), frozenset(s.learns)) for s in self.stages))


@dataclass(frozen=True)
class SlidePatches:
    """Patches of one slide, read from its file as `wsikit run` would; row i of each field is one patch."""

    images: np.ndarray
    labels: np.ndarray
    captions: tuple[str, ...]
    doubt: np.ndarray
    """bool: the patch is near a limit of the class rule."""


def slide_patches(seed: int, data: Data, *, most: int | None) -> SlidePatches:
    """Make one slide and read its tissue patches: all, or at most `most`, drawn at random."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.tiff"
        truth = make_phantom(
            path,
            size_px=(data.slide_px, data.slide_px),
            mpp=data.mpp,
            subtype=SUBTYPES[seed % len(SUBTYPES)],
            seed=seed,
            patch_px=data.patch_px,
            patch_mpp=data.mpp,
        )
        rows = np.flatnonzero(truth.facts.fraction("glass") <= 1 - data.min_tissue)
        if most is not None:
            rows = np.random.default_rng(seed).permutation(rows)[:most]
        with open_slide(path) as slide:
            images = np.stack(
                [slide.read_region(x, y, data.patch_px, data.patch_px, mpp=data.mpp) for x, y in truth.coords[rows]]
            )
    captions = tuple(caption.text for caption in load_captioner(data.captioner).caption(images, mpp=data.mpp))
    return SlidePatches(images, truth.labels[rows].astype(np.int64), captions, truth.borderline[rows])


def make_set(seeds: tuple[int, int], data: Data, *, most: int | None, workers: int) -> tuple[PatchSet, np.ndarray]:
    """Patches of the slides from one seed to another, and which of them are borderline, bool (N,)."""
    numbers = range(*seeds)
    with ProcessPoolExecutor(workers) as pool:
        slides = list(pool.map(partial(slide_patches, data=data, most=most), numbers))
    patches = PatchSet(
        images=np.concatenate([slide.images for slide in slides]),
        labels=np.concatenate([slide.labels for slide in slides]),
        groups=np.repeat([f"phantom-{seed}" for seed in numbers], [len(slide.labels) for slide in slides]),
        captions=tuple(caption for slide in slides for caption in slide.captions),
    )
    return patches, np.concatenate([slide.doubt for slide in slides])


def build_model(settings: Settings, captions: tuple[str, ...]) -> MMLNB:
    """The untrained model; its vocabulary comes from the training captions."""
    text, data = settings.text, settings.data
    tokenizer = CaptionTokenizer.train(map(scrub, captions), vocabulary=text.vocabulary, max_tokens=text.max_tokens)
    options = text.options | {"vocab_size": tokenizer.vocabulary, "max_position_embeddings": text.max_tokens}
    config = ModelConfig(
        name=settings.name,
        version=settings.version,
        classes=CLASSES,
        class_names=(
            "undifferentiated",
            "poorly differentiated",
            "differentiating",
            "other tissue or glass",
        ),
        colors=tuple(hex_color(color) for color in class_colors(CLASSES, background=("other",))),
        background=("other",),
        mpp=data.mpp,
        patch_px=data.patch_px,
        stain="H&E",
        captioner=data.captioner,
        text_max_tokens=text.max_tokens,
        prmf=settings.prmf,
        image=settings.image,
        text=TextEncoderConfig(model_type=text.model_type, options=options),
        notice=NOTICE,
    )
    torch.manual_seed(settings.training.seed)
    return MMLNB(config, tokenizer)


def predict_all(
    model: MMLNB, training: PatchSet, test: PatchSet, shuffle_seed: int
) -> dict[str, tuple[Labels, np.ndarray | None]]:
    """Classes and gates of the test patches: baseline, each branch, fused, without captions, with shuffled ones."""
    predictor = Predictor(model, device="cpu")
    order = np.random.default_rng(shuffle_seed).permutation(len(test))
    whole = predictor.predict(test.images, test.captions)
    silent = predictor.predict(test.images, [None] * len(test))
    shuffled = predictor.predict(test.images, [test.captions[i] for i in order])
    floor = fit_histogram_baseline(training.images, training.labels)
    return {
        "floor: colour histogram + logistic regression": (floor.predict(colour_histogram(test.images)), None),
        "image alone": (whole["probability_image"].argmax(axis=1), None),
        "text alone": (whole["probability_text"].argmax(axis=1), None),
        FUSED: (whole["probability"].argmax(axis=1), whole["gate"]),
        "PRMF, no captions": (silent["probability"].argmax(axis=1), silent["gate"]),
        "PRMF, shuffled captions": (shuffled["probability"].argmax(axis=1), shuffled["gate"]),
    }


def rows_of(predictions: dict[str, tuple[Labels, np.ndarray | None]], test: PatchSet, chosen: np.ndarray) -> list[Row]:
    """Metrics of each condition over the patches `chosen`."""
    return [
        measure(
            name,
            test.labels[chosen],
            labels[chosen],
            test.groups[chosen],
            n_classes=len(CLASSES),
            n_ordinal=N_ORDINAL,
            gate=None if gate is None else gate[chosen],
        )
        for name, (labels, gate) in predictions.items()
    ]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--config", type=Path, default=HERE / "configs" / "train_phantom.yaml")
    arguments.add_argument(
        "-o", "--out", type=Path, required=True, help="Output folder; the model is written to OUT/model."
    )
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = Settings.model_validate(yaml.safe_load(given.config.read_text(encoding="utf-8")))
    data, workers = settings.data, settings.threads
    torch.set_num_threads(settings.threads)

    begun = time.perf_counter()
    training, _ = make_set(data.train_seeds, data, most=data.most_per_training_slide, workers=workers)
    test, doubt = make_set(data.test_seeds, data, most=None, workers=workers)
    refuse_shared_groups(training, test)
    made = time.perf_counter()
    logger.info("%d training and %d test patches in %.0f s", len(training), len(test), made - begun)

    model = build_model(settings, training.captions)
    curriculum = CurriculumSchedule.over(settings.training.epochs, rise=settings.rise)
    epochs = train(model, training, settings.training, curriculum=curriculum, stages=settings.plan())
    seconds = {"patches": round(made - begun), "training": round(time.perf_counter() - made)}

    others, _ = make_set(data.ood_seeds, data, most=None, workers=workers)
    refuse_shared_groups(test, others)
    if fault := fit_ood_detector(model, training, others):
        logger.warning("%s", fault)

    predictions = predict_all(model, training, test, data.shuffle_seed)
    clear = np.flatnonzero(~doubt)
    n_slides = data.test_seeds[1] - data.test_seeds[0]
    results = {
        f"{len(clear)} clear patches of {n_slides} unseen slides": rows_of(predictions, test, clear),
        f"All {len(test)} patches of them, borderline ones included": rows_of(predictions, test, np.arange(len(test))),
    }
    metrics = {
        "command": COMMAND,
        "settings": settings.model_dump(mode="json"),
        "patches": {"training": len(training), "test": len(test), "test_clear": len(clear)},
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": seconds,
        "epochs": [asdict(record) for record in epochs],
        "results": {heading: [asdict(r) for r in rows] for heading, rows in results.items()},
        "versions": versions(),
    }
    card = card_of(model, results, data_words(settings, training, test))
    folder = save_model(model, given.out / "model", card=card, metrics=metrics)
    logger.info("%s, fingerprint %s", folder, load_model(folder).fingerprint)
    return 0


def card_of(model: MMLNB, results: dict[str, list[Row]], data: str) -> str:
    clear = next(iter(results.values()))
    for r in clear:
        logger.info("%-48s balanced accuracy %.3f", r.name, r.scores.balanced_accuracy)
    return model_card(
        model.config,
        parameters=sum(p.numel() for p in model.parameters()),
        data=data,
        tables=results,
        best=next(r for r in clear if r.name == FUSED),
        command=COMMAND,
        limits=LIMITS,
    )


def data_words(settings: Settings, training: PatchSet, test: PatchSet) -> str:
    data = settings.data
    counts = ", ".join(f"{np.count_nonzero(training.labels == i)} {code}" for i, code in enumerate(CLASSES))
    return (
        "Synthetic slides of `wsikit.phantom` alone, each made as a file and read like any slide. Training: seeds "
        f"{data.train_seeds[0]} to {data.train_seeds[1] - 1}, {len(training)} patches ({counts}). Test: all tissue of "
        f"seeds {data.test_seeds[0]} to {data.test_seeds[1] - 1}, {len(test)} patches, no slide in both. Captions are "
        f"measured on the pixels (`{data.captioner}`), without words that name a class. The last epoch's "
        "weights are kept; nothing was selected by test metrics."
    )


def versions() -> dict[str, str]:
    modules = (wsikit, torch, timm, transformers, sklearn, np)
    return {"python": platform.python_version()} | {m.__name__: m.__version__ for m in modules}


if __name__ == "__main__":
    sys.exit(main())
