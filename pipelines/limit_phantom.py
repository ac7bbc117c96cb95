"""Fusion of two branches limited to 80 % each on the phantom: python pipelines/limit_phantom.py -o OUT.json

The encoders are those of the packaged model. For some patches the image is replaced by bare glass, for others,
drawn independently, the caption by that of glass, so that each branch alone is correct in about 80 %. The arms are then
fitted on slides of new seeds and tested on others. This evaluates the fusion, not the branches.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

import numpy as np
import yaml
from train_phantom import HERE, Settings, make_set

from wsikit.captions import load_captioner
from wsikit.models.io import load_model
from wsikit.store.atomic import write_json
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.curriculum import CurriculumSchedule
from wsikit.training.data import PatchSet, class_weights
from wsikit.training.fusion_variants import ARMS, ArmSettings, Bank, bank_of, fit_arm

logger = logging.getLogger("limit_phantom")

FITTED, ASKED = (600_000, 600_036), (700_000, 700_027)
"""Seeds of slides, first and one past the last; none was used to train or test the packaged model."""
SPOILT_IMAGES, SPOILT_TEXTS = 0.20, 0.10
SEEDS = (0, 1, 2)
GLASS = 243


def spoil(patches: PatchSet, mpp: float, rng: np.random.Generator) -> PatchSet:
    """Replace some images by glass and, independently, some captions by that of glass."""
    n, side = len(patches), patches.images.shape[1]
    glass = np.clip(rng.normal(GLASS, 2, (1, side, side, 3)), 0, 255).astype(np.uint8)
    nothing = load_captioner("morphometry").caption(glass, mpp=mpp)[0].text
    images = patches.images.copy()
    images[rng.random(n) < SPOILT_IMAGES] = glass
    silent = rng.random(n) < SPOILT_TEXTS
    captions = tuple(nothing if gone else text for gone, text in zip(silent, patches.captions, strict=True))
    return PatchSet(images, patches.labels, patches.groups, captions)


def figures(probs: list[np.ndarray], patches: PatchSet) -> dict[str, float]:
    """Balanced accuracy, mean over the seeds, and its 95 % interval by slide."""
    n_groups = len(np.unique(patches.groups))
    weights = np.concatenate([np.ones((1, n_groups)), draw_groups(n_groups, draws=1000, seed=0)])
    values = np.mean(
        [
            Sample(patches.labels, one, patches.groups, n_ordinal=0).figures(weights).values["balanced_accuracy"]
            for one in probs
        ],
        axis=0,
    )
    low, high = quantiles(values[1:]) or (np.nan, np.nan)
    return {"balanced_accuracy": float(values[0]), "low": low, "high": high}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("-o", "--out", type=Path, required=True, help="JSON of the metrics.")
    arguments.add_argument("--workers", type=int, default=1)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = HERE / "configs" / "train_phantom.yaml"
    data = Settings.model_validate(yaml.safe_load(config.read_text(encoding="utf-8"))).data
    model = load_model("phantom-mmlnb")
    banks: list[Bank] = []
    sets: list[PatchSet] = []
    for seeds in (FITTED, ASKED):
        patches, doubt = make_set(seeds, data, most=data.most_per_training_slide, workers=given.workers)
        patches = spoil(patches.select(np.flatnonzero(~doubt)), data.mpp, np.random.default_rng(seeds[0]))
        sets.append(patches)
        banks.append(bank_of(model, patches, views=1))
        logger.info("%d clear patches of %d slides", len(patches), len(np.unique(patches.groups)))
    known, asked = banks
    weight = class_weights(sets[0].labels, len(model.config.classes))
    settings = ArmSettings(epochs=15, batch=32, lr=1e-3, views=1)
    found: dict[str, list[np.ndarray]] = {}
    for seed in SEEDS:
        curriculum = CurriculumSchedule.over(settings.epochs)
        for name in ARMS:
            arm = fit_arm(
                name, known, settings, image_stage=model.fusion, curriculum=curriculum, weight=weight, seed=seed
            )
            answer = arm.predict(asked)
            found.setdefault(name, []).append(answer.probs)
            if name == "PRMF robust":
                found.setdefault("image alone", []).append(answer.probs_image)
                found.setdefault("text alone", []).append(answer.probs_text)
    record = {name: figures(probs, sets[1]) for name, probs in sorted(found.items())}
    write_json(given.out, {"patches": [len(patches) for patches in sets], "results": record})
    logger.info("%s", json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
