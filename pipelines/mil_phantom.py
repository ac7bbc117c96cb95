"""Maps from labels of slides compared with maps from labels of patches, on synthetic slides that no model has seen.

wsikit train pipelines/configs/mil_phantom.yaml -o OUT
python pipelines/mil_phantom.py OUT -o SCORES [--seeds 7000 7030]

New slides are made. Marked patches of each map are compared with the planted patches of the slide's subtype (Dice, mean
over slides). The patch models are the packaged phantom-mmlnb, and a linear head on the same features as the slide
model, learned from the planted classes of the patches of the same training slides. The class map is also scored as
`wsikit predict --without` draws it: patches of stroma and necrosis have no prediction.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

import wsikit
from wsikit.inference.left_out import left_out
from wsikit.models.protocol import MAP_FACT
from wsikit.models.registry import load_patch_model
from wsikit.phantom import CLASSES, load_truth
from wsikit.phantom.cohort import PhantomCohort, make_cohort, slide_of
from wsikit.phantom.map_scores import SlideMaps, dice_table, slide_maps
from wsikit.training.mil.cohort import Bag, read_cohort
from wsikit.training.mil.config import MilTrainConfig, read_mil_config
from wsikit.training.splits import TRAIN, VALIDATION, read_splits

LEFT_OUT = {
    "measured shares": {"necrosis_share": 0.5, "spindle_share": 0.5},
    "maps of words": {"localize:necrosis": 0.5, "localize:schwannian-stroma": 0.5},
}
"""What patches are left without a prediction by; the limits are the defaults of `--without`."""

logger = logging.getLogger("mil_phantom")

SLIDE_LABELS, SAME_FEATURES, PACKAGED = "slide labels", "patch labels, same features", "phantom-mmlnb"


def head_of_patches(bags: list[Bag]) -> Any:
    """A logistic regression on the planted classes of the patches of slides."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = []
    for bag in bags:
        truth = load_truth(slide_of(Path(bag.store)))
        labels.append(truth.labels[truth.rows_at(bag.coords)])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return model.fit(np.concatenate([bag.features for bag in bags]), np.concatenate(labels))


def training_slides(config: MilTrainConfig, out: Path) -> list[Bag]:
    """Slides that the networks learned from or were stopped by."""
    cohort = read_cohort(config, out / "cohort" / "cohort.csv")
    parts = read_splits(out / "splits.json", cohort.patch_set(config.task))[0]
    return [cohort.bags[row] for name in (TRAIN, VALIDATION) for row in parts[name]]


def maps_of(bag: Bag, model: Any, head: Any) -> tuple[SlideMaps, np.ndarray, dict[str, np.ndarray]]:
    """The maps of one new slide; its planted classes; the classes that each model calls, (N,) as in `CLASSES`."""
    truth, found = load_truth(slide_of(Path(bag.store))), model.slide(bag.features)
    of_slide = slide_maps(truth, bag.coords, model.info.classes, found["patch_probability"], found["attention"])
    same = head.predict_proba(bag.features)
    wsikit.caption(bag.store)
    table = wsikit.predict(bag.store)
    rows = {tuple(place): row for row, place in enumerate(table.coords.tolist())}
    packaged = table.read("probability")[[rows[tuple(place)] for place in bag.coords.tolist()]]
    wsikit.localize(bag.store, [fact.removeprefix(MAP_FACT) for fact in LEFT_OUT["maps of words"]])
    marks = {f"{SLIDE_LABELS}: {name}": value for name, value in of_slide.marks.items()}
    outside = {}
    for name, without in LEFT_OUT.items():
        found_out = left_out(table, without)
        assert found_out is not None
        outside[name] = found_out.rows(table)[[rows[tuple(place)] for place in bag.coords.tolist()]]
        marks[f"{SLIDE_LABELS}: class, without stroma and necrosis by {name}"] = (
            of_slide.marks["class"] & ~outside[name]
        )
    for name, probs in ((SAME_FEATURES, same), (PACKAGED, packaged)):
        marks[name] = slide_maps(truth, bag.coords, CLASSES, probs).marks["class"]
    called = {
        SLIDE_LABELS: np.array(
            [CLASSES.index(model.info.classes[i]) for i in found["patch_probability"].argmax(axis=1)]
        ),
        SAME_FEATURES: same.argmax(axis=1),
        PACKAGED: packaged.argmax(axis=1),
    }
    return SlideMaps(bag.slide, of_slide.planted, of_slide.target, marks), of_slide.planted, called


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("trained", type=Path, help="Folder of the training.")
    arguments.add_argument("--seeds", type=int, nargs=2, default=(7000, 7030), metavar=("FIRST", "END"))
    arguments.add_argument("-o", "--out", type=Path, required=True)
    given = arguments.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = read_mil_config(given.trained / "config.yaml")
    assert config.data.phantoms is not None
    new = PhantomCohort(tuple(given.seeds), config.data.phantoms.slide_px, config.data.phantoms.min_tissue)
    manifest = make_cohort(new, given.out / "cohort", encoder=config.features, device="cpu")
    model: Any = load_patch_model(given.trained / "model")
    head = head_of_patches(training_slides(config, given.trained))
    slides, planted, called, right = [], [], [], []
    bags = read_cohort(config, manifest).bags
    for bag in bags:
        maps, classes, by_model = maps_of(bag, model, head)
        slides.append(maps)
        planted.append(classes)
        called.append(by_model)
        right.append(int(model.slide(bag.features)["probability"].argmax()) == bag.label)
    table = dice_table(slides)
    for name, row in table.items():
        logger.info("%-50s %.3f (%.3f – %.3f)", name, row["value"], row["low"], row["high"])
    truth = np.concatenate(planted)
    recalls = {}
    for name in called[0]:
        answers = np.concatenate([one[name] for one in called])
        recalls[name] = {code: float((answers == i)[truth == i].mean()) for i, code in enumerate(CLASSES)}
        logger.info("%-30s recall %s", name, {code: round(value, 3) for code, value in recalls[name].items()})
    logger.info("slides called right: %d of %d", sum(right), len(right))
    record = {"slides": len(bags), "slides_right": sum(right), "dice": table, "recall_of_patches": recalls}
    (given.out / "scores.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
