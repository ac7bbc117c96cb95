"""Do degraded copies as hard negatives make AFLoc robust? The same trainings with and without, on degraded patches.

python pipelines/afloc_quality.py --data PATCHES/images -o OUT

Arms: the configuration without `quality_negatives`, as it is, with copies that are judged by their captions, and
those of --variant, such as --variant "weaker={weight: 0.1}". Each term that captions name is asked for on the test
patches, or on those of --measure (to choose a variant), clean and with each kind of fault; the figure is the mean
AUROC over the terms. A training writes one file under OUT/scores; an interrupted run computes only what is missing.
OUT/faults.png shows patches with each fault.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import yaml
from PIL import Image

from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_losses import global_scores
from wsikit.store.atomic import write_json
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.afloc.run import AflocCallbacks, afloc_patches, build_afloc
from wsikit.training.afloc.settings import QualityNegatives
from wsikit.training.afloc.statements import NAMES, Statements, statements_of
from wsikit.training.afloc.trainer import train_afloc
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.data import PatchSet
from wsikit.training.degrade import KINDS, degrade
from wsikit.training.splits import TEST, TRAIN, VALIDATION, split
from wsikit.training.task import read_config

logger = logging.getLogger("afloc_quality")

CONFIG = Path(__file__).parent / "configs" / "afloc_quality.yaml"
CLEAN, WITHOUT, WITH, JUDGED = "clean", "without", "with copies", "copies judged by captions"
FAULT_SEED = 90_000
"""Of the faults of the test patches; trainings draw theirs from their own seeds."""
DRAWS = 1000

Views = dict[str, npt.NDArray[np.uint8]]
Scores = dict[str, npt.NDArray[np.float64]]


def arms(config: AflocTrainConfig, variants: Sequence[str] = ()) -> dict[str, AflocTrainConfig]:
    """The trainings that are compared; a variant `NAME={share: 0.2, …}` changes the copies of the configuration."""
    copies = config.training.quality_negatives
    assert copies is not None, "the configuration has no quality_negatives"

    given = copies.model_dump(exclude_unset=True)

    def having(changes: dict[str, object] | None) -> AflocTrainConfig:
        value = None if changes is None else QualityNegatives.model_validate(given | changes)
        training = config.training.model_copy(update={"quality_negatives": value})
        return config.model_copy(update={"training": training})

    found = {WITHOUT: having(None), WITH: config, JUDGED: having({"truth": "caption"})}
    for variant in variants:
        name, _, changes = variant.partition("=")
        found[name] = having(yaml.safe_load(changes))
    return found


def views_of(test: PatchSet, mpp: float) -> Views:
    """The test patches as they are, and with each fault."""
    faults = {
        kind: degrade(test.images, np.random.default_rng(FAULT_SEED + number), kinds=[kind], mpp=mpp)
        for number, kind in enumerate(KINDS)
    }
    return {CLEAN: test.images, **faults}


def trained(config: AflocTrainConfig, training: PatchSet, validation: PatchSet, mpp: float, seed: int) -> AFLoc:
    """One training."""
    settings = config.training.model_copy(update={"seed": seed})
    of_seed = config.model_copy(update={"training": settings})
    statements = read(config, training)
    model = build_afloc(of_seed, statements, mpp=mpp)
    epochs = train_afloc(
        model, training, statements, settings, validation=validation, of_validation=read(config, validation)
    )
    logger.info("validation loss by epoch %s", " ".join(f"{one.validation:.3f}" for one in epochs))
    return model


def read(config: AflocTrainConfig, patches: PatchSet) -> Statements:
    """The statements of the captions."""
    return statements_of(patches.captions, closed_world=config.training.closed_world, phrases=config.phrases)


@torch.inference_mode()
def scores_of(model: AFLoc, views: Views) -> Scores:
    """Per view, how much nearer each patch is to each term than to its negation, (N, T)."""
    model.eval()
    names = [NAMES[term][0] for term in model.config.terms]
    texts = model.sentences([*names, *(f"no {name}" for name in names)])
    found = {}
    for name, images in views.items():
        placed = torch.cat([model.patches(torch.from_numpy(part)) for part in np.array_split(images, 8)])
        scores = global_scores(placed, texts).double().numpy()
        found[name] = scores[:, : len(names)] - scores[:, len(names) :]
    return found


def figures(scores: Scores, test: PatchSet, named: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]) -> Scores:
    """Per view the mean AUROC over the terms, as it is and under each draw of slides, (1 + draws,)."""
    found = {}
    asked = [t for t in range(named.shape[1]) if 0.02 < np.nanmean(named[:, t]) < 0.98]
    for name, values in scores.items():
        of_terms = []
        for t in asked:
            share = (values[:, t] + 2) / 4  # differences of two cosines, in [0, 1]
            probs = np.stack([1 - share, share], axis=1)
            sample = Sample(named[:, t].astype(np.int64), probs, test.groups, n_ordinal=0)
            of_terms.append(sample.figures(weights).values["auc"])
        found[name] = np.nanmean(of_terms, axis=0)
    return found


def table(found: dict[str, list[Scores]], n_terms: int) -> tuple[str, list[dict[str, object]]]:
    """Markdown, and the same as records: means over the seeds, paired differences to the arm without."""
    rows: list[dict[str, object]] = []
    lines = [
        f"| patches | arm | mean AUROC of {n_terms} terms | difference, points | by seed |",
        "|---|---|---|---|---|",
    ]
    for view in (*found[WITHOUT][0], "degraded, mean"):
        means = {}
        for arm, of_seeds in found.items():
            parts = [
                np.mean([one[kind] for kind in KINDS], axis=0) if view not in one else one[view] for one in of_seeds
            ]
            means[arm] = np.stack(parts)  # (seeds, 1 + draws)
        for arm, values in means.items():
            mean, gain = values.mean(axis=0), 100 * (values - means[WITHOUT]).mean(axis=0)
            ends, gained = quantiles(mean[1:]), quantiles(gain[1:])
            assert ends is not None
            assert gained is not None
            by_seed = [float(value) for value in values[:, 0]]
            rows.append({"patches": view, "arm": arm, "auroc": [float(mean[0]), *ends], "by_seed": by_seed,
                         "difference": [float(gain[0]), *gained]})  # fmt: skip
            difference = "–" if arm == WITHOUT else "{:+.2f} [{:+.2f}, {:+.2f}]".format(gain[0], *gained)
            lines.append(
                f"| {view} | {arm} | {mean[0]:.4f} [{ends[0]:.3f}, {ends[1]:.3f}] | {difference} | "
                f"{', '.join(f'{value:.3f}' for value in by_seed)} |"
            )
    return "\n".join(lines), rows


def contact_sheet(views: Views, path: Path, *, most: int = 6) -> None:
    """Test patches, a row for each view."""
    chosen = np.linspace(0, len(views[CLEAN]) - 1, most).astype(int)
    Image.fromarray(np.vstack([np.hstack(list(images[chosen])) for images in views.values()])).save(path)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--config", type=Path, default=CONFIG)
    arguments.add_argument("--data", help="Instead of the images of the configuration.")
    arguments.add_argument("--epochs", type=int, help="Instead of those of the configuration.")
    arguments.add_argument(
        "--variant", action="append", default=[], metavar="NAME={weight: 0.1}", help="A further arm."
    )
    arguments.add_argument("--arms", nargs="+", metavar="NAME", help="Only these, and the one without copies.")
    arguments.add_argument("--measure", metavar="IMAGES", help="Patches of other slides, instead of the test patches.")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments.add_argument("-o", "--out", type=Path, required=True)
    arguments.add_argument("--threads", type=int, default=1)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(given.threads)
    config = read_config(given.config, AflocTrainConfig, data=given.data)
    if given.epochs:
        training_settings = config.training.model_copy(update={"epochs": given.epochs})
        config = config.model_copy(update={"training": training_settings})
    (given.out / "scores").mkdir(parents=True, exist_ok=True)
    prepared, patches = afloc_patches(config, AflocCallbacks(message=logger.info))
    sizes = {"validation": config.split.validation, "test": config.split.test}
    parts = split(patches.labels, patches.groups, **sizes, seed=config.split.seed)
    training, validation, test = (patches.select(parts[name]) for name in (TRAIN, VALIDATION, TEST))
    if given.measure:
        test = afloc_patches(read_config(given.config, AflocTrainConfig, data=given.measure), AflocCallbacks())[1]
    views = views_of(test, prepared.mpp)
    contact_sheet(views, given.out / "faults.png")
    terms = read(config, training).terms
    of_test = read(config, test)
    columns = {term: of_test.named[:, number] for number, term in enumerate(of_test.terms)}
    named = np.stack([columns.get(term, np.zeros(len(test), np.float32)) for term in terms], axis=1)
    n_groups = len(np.unique(test.groups))
    weights = np.concatenate([np.ones((1, n_groups)), draw_groups(n_groups, draws=DRAWS, seed=0)])
    found: dict[str, list[Scores]] = {}
    for seed in given.seeds:  # a stopped run then has whole seeds
        for name, of_arm in arms(config, given.variant).items():
            if given.arms and name not in (WITHOUT, *given.arms):
                continue
            path = given.out / "scores" / f"{name.replace(' ', '_')}_seed{seed}.npz"
            if not path.is_file():
                begun = time.process_time()
                scores = scores_of(trained(of_arm, training, validation, prepared.mpp, seed), views)
                logger.info("%s, seed %d: %.0f s of processor time", name, seed, time.process_time() - begun)
                with open(path.with_suffix(".partial"), "wb") as file:
                    np.savez(file, **scores)
                os.replace(path.with_suffix(".partial"), path)
            with np.load(path) as saved:
                found.setdefault(name, []).append(figures(dict(saved), test, named, weights))
    asked = sum(0.02 < share < 0.98 for share in np.nanmean(named, axis=0))
    text, rows = table(found, asked)
    counts = {"training": len(training), "validation": len(validation), "test": len(test), "test_slides": n_groups}
    settings = config.model_dump(mode="json", exclude={"data"})
    write_json(given.out / "results.json", {"settings": settings, "patches": counts, "terms": terms, "rows": rows})
    (given.out / "results.md").write_text(text + "\n", encoding="utf-8")
    logger.info("%s\n%s", counts, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
