"""Train the packaged demonstration model on synthetic tissue: python pipelines/train_phantom.py -o OUT

Makes patches of training and unseen slides, captions them by measurement, trains, evaluates beside the colour-histogram
floor, and writes OUT/model (to be put into wsikit/models/zoo/), its card and metrics. Same seeds, same model.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
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
from wsikit.export.palette import class_colors, hex_color
from wsikit.inference.predict import Predictor
from wsikit.models.config import ImageEncoderConfig, ModelConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.io import load_model, save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.phantom import CLASSES, phantom_patches
from wsikit.training.card import model_card
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, refuse_shared_groups
from wsikit.training.floor import colour_histogram, fit_histogram_floor
from wsikit.training.metrics import Labels, Row, measure
from wsikit.training.stages import Stage, StagePlan
from wsikit.training.trainer import TrainingSettings, train

logger = logging.getLogger("train_phantom")

HERE = Path(__file__).parent
N_ORDINAL = 3  # UD < PD < D; other tissue stands outside of the order
FUSED = "PRMF fused"
NOTICE = (
    "DEMONSTRATION ONLY: trained on synthetic tissue, never on a patient's. Not for clinical use; "
    "its output on real tissue means nothing and must not be used."
)
LIMITS = (
    "It has never seen real tissue. On real slides it gives an answer all the same, and that answer means nothing.",
    "The phantom's differences between the classes are cleaner than those of real tumours.",
    "One scale only; stains other than H&E were not seen.",
    "The classes are those of single patches; the INPC category of a tumour is not a vote over patches.",
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """Which slides, and how many patches of each."""

    mpp: float
    patch_px: int
    captioner: str
    train_seeds: tuple[int, int]
    test_seeds: tuple[int, int]
    patches_per_slide: int
    shuffle_seed: int


class Text(_Strict):
    """The text branch before its vocabulary is known."""

    model_type: str
    vocabulary: int
    max_tokens: int
    options: dict[str, Any]


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
    stages: list[dict[str, Any]]


def slide_patches(seed: int, data: Data, *, borderline: bool) -> list[tuple[np.ndarray, int, str, bool]]:
    """Image, label, caption and whether the class is a matter of doubt, for the patches of one slide."""
    patches = list(
        phantom_patches([seed], data.patches_per_slide, mpp=data.mpp, patch_px=data.patch_px, borderline=borderline)
    )
    captions = load_captioner(data.captioner).caption(np.stack([p.image for p in patches]), mpp=data.mpp)
    return [(p.image, p.label, caption.text, bool(p.facts.borderline[0])) for p, caption in zip(patches, captions)]


def make_set(seeds: range, data: Data, *, borderline: bool, workers: int) -> tuple[PatchSet, np.ndarray]:
    """Patches of many slides, and which of them are borderline, bool (N,)."""
    with ProcessPoolExecutor(workers) as pool:
        slides = list(pool.map(partial(slide_patches, data=data, borderline=borderline), seeds))
    rows = [(seed, *row) for seed, slide in zip(seeds, slides) for row in slide]
    seed, images, labels, captions, doubt = zip(*rows)
    patches = PatchSet(np.stack(images), np.array(labels), np.array([f"phantom-{s}" for s in seed]), captions)
    return patches, np.array(doubt)


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
    """Classes and gates of the test patches: floor, each branch alone, fused, without and with others' captions."""
    predictor = Predictor(model, device="cpu")
    order = np.random.default_rng(shuffle_seed).permutation(len(test))
    whole = predictor.predict(test.images, test.captions)
    silent = predictor.predict(test.images, [None] * len(test))
    shuffled = predictor.predict(test.images, [test.captions[i] for i in order])
    floor = fit_histogram_floor(training.images, training.labels)
    return {
        "floor: colour histogram + logistic regression": (floor.predict(colour_histogram(test.images)), None),
        "image alone": (whole.probs_image.argmax(axis=1), None),
        "text alone": (whole.probs_text.argmax(axis=1), None),
        FUSED: (whole.probs.argmax(axis=1), whole.gate),
        "PRMF, no captions": (silent.probs.argmax(axis=1), silent.gate),
        "PRMF, shuffled captions": (shuffled.probs.argmax(axis=1), shuffled.gate),
    }


def rows_of(predictions: dict[str, tuple[Labels, np.ndarray | None]], test: PatchSet, chosen: np.ndarray) -> list[Row]:
    """Figures of each way of predicting over the patches `chosen`."""
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


def load_settings(path: Path) -> Settings:
    return Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def plan_of(settings: Settings) -> StagePlan:
    epochs = settings.training.epochs
    return StagePlan(
        tuple(Stage(s["name"], round(s["from"] * epochs), frozenset(s["learns"])) for s in settings.stages)
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--config", type=Path, default=HERE / "configs" / "train_phantom.yaml")
    arguments.add_argument("-o", "--out", type=Path, required=True, help="New folder for model and patches.")
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = load_settings(given.config)
    data = settings.data
    torch.set_num_threads(settings.threads)

    begun = time.perf_counter()
    training, _ = make_set(range(*data.train_seeds), data, borderline=False, workers=settings.threads)
    test, doubt = make_set(range(*data.test_seeds), data, borderline=True, workers=settings.threads)
    refuse_shared_groups(training, test)
    made = time.perf_counter()
    logger.info("%d training and %d test patches in %.0f s", len(training), len(test), made - begun)

    model = build_model(settings, training.captions)
    curriculum = CurriculumSchedule.over(settings.training.epochs, rise=settings.rise)
    epochs = train(model, training, settings.training, curriculum=curriculum, stages=plan_of(settings))
    trained = time.perf_counter()

    clear = np.flatnonzero(~doubt)
    tables = {
        f"{len(clear)} clear patches of {data.test_seeds[1] - data.test_seeds[0]} unseen slides": clear,
        f"All {len(test)} patches of them, borderline ones included": np.arange(len(test)),
    }
    predictions = predict_all(model, training, test, data.shuffle_seed)
    results = {name: rows_of(predictions, test, chosen) for name, chosen in tables.items()}
    command = "python pipelines/train_phantom.py -o OUT"
    n_parameters = sum(p.numel() for p in model.parameters())
    metrics = {
        "command": command,
        "settings": settings.model_dump(mode="json"),
        "patches": {"training": len(training), "test": len(test), "test_clear": len(clear)},
        "parameters": n_parameters,
        "seconds": {"patches": round(made - begun), "training": round(trained - made)},
        "epochs": [asdict(record) for record in epochs],
        "results": {name: [asdict(r) for r in rows] for name, rows in results.items()},
        "versions": versions(),
    }
    main_table = next(iter(results.values()))
    card = model_card(
        model.config,
        parameters=n_parameters,
        data=data_words(settings, training, test),
        tables=results,
        best=next(r for r in main_table if r.name == FUSED),
        command=command,
        limits=LIMITS,
    )
    folder = save_model(model, given.out / "model", card=card, metrics=metrics)
    logger.info("%s, fingerprint %s", folder, load_model(folder).fingerprint)
    for r in main_table:
        logger.info("%-48s balanced accuracy %.3f", r.name, r.scores.balanced_accuracy)
    return 0


def data_words(settings: Settings, training: PatchSet, test: PatchSet) -> str:
    data = settings.data
    counts = ", ".join(f"{np.count_nonzero(training.labels == i)} {code}" for i, code in enumerate(CLASSES))
    return (
        f"Synthetic slides of `wsikit.phantom` alone. Training: seeds {data.train_seeds[0]} to "
        f"{data.train_seeds[1] - 1}, {len(training)} patches ({counts}), borderline ones left out. Test: seeds "
        f"{data.test_seeds[0]} to {data.test_seeds[1] - 1}, {len(test)} patches, no slide in both. Captions are "
        f"measured on the pixels (`{data.captioner}`), with words that name a class taken out. The last epoch's "
        "weights are kept; no choice was made by the test figures."
    )


def versions() -> dict[str, str]:
    modules = (wsikit, torch, timm, transformers, sklearn, np)
    return {"python": platform.python_version()} | {m.__name__: m.__version__ for m in modules}


if __name__ == "__main__":
    sys.exit(main())
