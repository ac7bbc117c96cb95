"""Image encoders against each other, trained alike: does CMSwinKAN's network beat a plain Swin of equal size?

python pipelines/swin_kan.py pipelines/configs/swin_kan_idc.yaml --data idc.zip -o OUT
python pipelines/swin_kan.py pipelines/configs/swin_kan_phantom.yaml --data PATCHES/images -o OUT

Each arm is the image branch of MMLNB, by itself, on the same folds and seeds, for the same number of epochs; the last
weights are tested. A training writes one file under OUT/predictions; an interrupted run computes only what is missing.
OUT/results.md is the table, OUT/results.json also has each seed.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from wsikit.store.atomic import write_json
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.config import TrainConfig
from wsikit.training.data import PatchSet
from wsikit.training.evaluation import baseline_probs
from wsikit.training.factory import build_model, load_data
from wsikit.training.settings import ContrastSettings
from wsikit.training.splits import TEST, TRAIN, VALIDATION, folds
from wsikit.training.task import Strict, read_config
from wsikit.training.unimodal import image_probs, train_image_branch

logger = logging.getLogger("swin_kan")

DRAWS = 1000
MEASURES = ("auc", "balanced_accuracy")


class Arm(Strict):
    """One way of training."""

    name: str
    options: dict[str, Any] = {}
    """Of the image encoder, next to those of `image`."""
    contrast: ContrastSettings | None = None


class Folds(Strict):
    """Folds by patient; nothing is selected, so the validation part is used for training."""

    k: int = Field(5, ge=3)
    seed: int = 0
    tested: tuple[int, ...] = (0,)
    """Folds that are tested; the others are not run."""
    training_seeds: tuple[int, ...] = (0, 1, 2)


class Settings(TrainConfig):
    """The YAML file: a training configuration, of which `image` and `training` are used, and the arms.

    The first arm is that which the others are compared with.
    """

    arms: tuple[Arm, ...] = Field(min_length=2)
    folds: Folds = Folds()


@dataclass(frozen=True)
class Tested:
    """Predictions of one arm on the test patches of one fold."""

    probs: npt.NDArray[np.float64]
    """(N, C)"""
    parameters: int
    processor_seconds: float


def run_arm(settings: Settings, arm: Arm, training: PatchSet, test: PatchSet, mpp: float, seed: int) -> Tested:
    """Train one arm, and ask it once."""
    of_arm = settings.training.model_copy(update={"seed": seed, "contrast": arm.contrast})
    image = settings.image.model_copy(update={"options": settings.image.options | arm.options})
    model = build_model(settings.model_copy(update={"image": image, "training": of_arm}), ("",), mpp=mpp)
    begun = time.process_time()
    records = train_image_branch(model, training, of_arm)
    seconds = time.process_time() - begun
    logger.info("%s, seed %d: loss by epoch %s", arm.name, seed, " ".join(f"{one.loss:.3f}" for one in records))
    return Tested(image_probs(model, test), sum(p.numel() for p in model.image.parameters()), seconds)


def kept(path: Path, run: Any) -> Tested:
    """The file of a training, or what `run` gives, which is then kept."""
    if not path.is_file():
        tested = run()
        staging = path.with_suffix(".partial")
        with open(staging, "wb") as file:
            np.savez(file, probs=tested.probs, record=[tested.parameters, tested.processor_seconds])
        os.replace(staging, path)
    with np.load(path) as saved:
        return Tested(saved["probs"], int(saved["record"][0]), float(saved["record"][1]))


def figures(truth: PatchSet, of_seeds: Sequence[npt.NDArray[np.float64]], weights: npt.NDArray[np.float64]) -> Any:
    """(seeds, measures, 1 + draws): as it is, then under each draw of patients."""
    samples = [Sample(truth.labels, probs, truth.groups, n_ordinal=0).figures(weights).values for probs in of_seeds]
    return np.stack([[one[name] for name in MEASURES] for one in samples])


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """The figure and its 95 % interval, from (1 + draws,)."""
    low, high = quantiles(values[1:]) or (np.nan, np.nan)
    return float(values[0]), low, high


def rows_of(values: dict[str, Any], tested: dict[str, list[Tested]], first: str) -> list[dict[str, Any]]:
    """One row per arm and floor: means over the seeds, and paired differences to the first arm."""
    rows = []
    for name, found in values.items():
        row: dict[str, Any] = {"arm": name}
        for number, measure in enumerate(MEASURES):
            row[measure] = interval(found[:, number].mean(axis=0))
            row[f"{measure} gain"] = interval((found[:, number] - values[first][:, number]).mean(axis=0))
            row[f"{measure} by seed"] = found[:, number, 0].tolist()
        of_arm = tested.get(name, [])
        row["parameters"] = of_arm[0].parameters if of_arm else None
        row["processor_seconds"] = float(np.mean([one.processor_seconds for one in of_arm])) if of_arm else None
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]], first: str) -> str:
    """Markdown."""
    lines = [
        "| arm | parameters | AUC | difference, points | balanced accuracy | difference, points | processor seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["arm"], "–" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"]
        for measure in MEASURES:
            cells.append("{:.4f} [{:.3f}, {:.3f}]".format(*row[measure]))
            gain = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*(100 * v for v in row[f"{measure} gain"]))
            cells.append("–" if row["arm"] == first else gain)
        cells.append("–" if row["processor_seconds"] is None else f"{row['processor_seconds']:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def compare(settings: Settings, data: PatchSet, mpp: float, out: Path) -> list[dict[str, Any]]:
    """Train and test all arms on the tested folds, and compare them over the patients of these folds."""
    (out / "predictions").mkdir(parents=True, exist_ok=True)
    parts = folds(data.labels, data.groups, settings.folds.k, seed=settings.folds.seed)
    tested: dict[str, list[Tested]] = {}
    chosen = np.concatenate([parts[fold][TEST] for fold in settings.folds.tested])
    probs: dict[str, list[npt.NDArray[np.float64]]] = {}
    floors: dict[str, list[npt.NDArray[np.float64]]] = {}
    for seed in settings.folds.training_seeds:  # a stopped run then has whole seeds
        for number, arm in enumerate(settings.arms):
            of_folds = []
            for fold in settings.folds.tested:
                training = data.select(np.sort(np.concatenate([parts[fold][TRAIN], parts[fold][VALIDATION]])))
                test = data.select(parts[fold][TEST])
                path = out / "predictions" / f"arm{number}_seed{seed}_fold{fold}.npz"
                of_folds.append(
                    kept(path, lambda a=arm, t=training, q=test, s=seed: run_arm(settings, a, t, q, mpp, s))
                )
            tested.setdefault(arm.name, []).extend(of_folds)
            probs.setdefault(arm.name, []).append(np.concatenate([one.probs for one in of_folds]))
    for fold in settings.folds.tested:
        training = data.select(np.sort(np.concatenate([parts[fold][TRAIN], parts[fold][VALIDATION]])))
        for name, found in baseline_probs(training, data.select(parts[fold][TEST]), len(settings.codes)).items():
            floors.setdefault(name, []).append(found)
    probs |= {name: [np.concatenate(found)] * len(settings.folds.training_seeds) for name, found in floors.items()}
    truth = data.select(chosen)
    n_groups = len(np.unique(truth.groups))
    weights = np.concatenate([np.ones((1, n_groups)), draw_groups(n_groups, draws=DRAWS, seed=0)])
    logger.info("tested: %d patches of %d patients", len(truth), n_groups)
    values = {name: figures(truth, found, weights) for name, found in probs.items()}
    return rows_of(values, tested, settings.arms[0].name)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("config", type=Path)
    arguments.add_argument("--data", help="Instead of the images of the configuration.")
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--seeds", type=int, nargs="+", help="Instead of the training seeds of the configuration.")
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(given.threads)
    settings = read_config(given.config, Settings, data=given.data)
    if given.seeds:
        of_seeds = settings.folds.model_copy(update={"training_seeds": tuple(given.seeds)})
        settings = settings.model_copy(update={"folds": of_seeds})
    loaded = load_data(settings)
    logger.info("%s", loaded.words())
    rows = compare(settings, loaded.prepared.patches, loaded.prepared.mpp, given.out)
    patches = loaded.prepared.patches
    record = {
        "settings": settings.model_dump(mode="json", exclude={"data"}),
        "patches": {name: int((patches.labels == index).sum()) for index, name in enumerate(settings.codes)},
        "rows": rows,
    }
    write_json(given.out / "results.json", record)
    text = table(rows, settings.arms[0].name)
    (given.out / "results.md").write_text(text + "\n", encoding="utf-8")
    logger.info("\n%s", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
