"""`wsikit train` and `wsikit evaluate` for models on slide labels.

OUT holds config.yaml, splits.json, members/ (one network per fold, from which a run is resumed), model/, slides.csv
(the test slides), metrics.json, and maps/ where asked for.
"""

from __future__ import annotations

import csv
import io
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wsikit._version import __version__
from wsikit.errors import RequestError
from wsikit.models.config import METRICS_FILE
from wsikit.models.mil import MilModel
from wsikit.models.mil_kind import save_mil
from wsikit.store.atomic import write_bytes, write_json
from wsikit.tables import harmless
from wsikit.training.mil.card import mil_card
from wsikit.training.mil.cohort import Bag, Cohort, read_cohort
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.ensemble import ensemble
from wsikit.training.mil.evaluation import class_figures, value_figures
from wsikit.training.mil.fit import Fitted, Targets
from wsikit.training.mil.networks import MilCallbacks, encoded_bag, train_networks
from wsikit.training.run_record import (
    CONFIG_COPY,
    SPLITS_FILE,
    check_no_results,
    check_out,
    patients_of,
    rows_to_evaluate,
    without_ids,
)
from wsikit.training.splits import PARTS, TEST, TRAIN, VALIDATION, Split, held_out_folds, read_splits, write_splits

SLIDES_FILE = "slides.csv"
MODEL, MEAN_OF_MEMBERS, PRIOR = "model", "mean of the networks", "floor: class frequencies"


def run_mil_training(
    config: MilTrainConfig,
    manifest: str | Path,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    callbacks: MilCallbacks | None = None,
) -> dict[str, Any]:
    """Train one network per fold, then evaluate their ensemble once on the test slides; return the metrics.

    Parameters
    ----------
    manifest
        The cohort, see `wsikit.training.mil.cohort`.
    out
        New folder. With `resume`, its split and the networks in it are used; the result is the same.

    Raises
    ------
    RequestError
        If `out` holds a finished run, or an unfinished one and `resume` is False; if the cohort does not fit.
    """
    callbacks = callbacks or MilCallbacks()
    check_out(out, resume)
    cohort = read_cohort(config, manifest)
    callbacks.message(cohort.words)
    if cohort.encoder is not None and cohort.encoder.notice:
        callbacks.message(f"{cohort.encoder.name}: {cohort.encoder.notice}")
    out.mkdir(parents=True, exist_ok=True)
    folds, record = _folds(config, cohort, out)
    counts = ", ".join(f"{len(folds[0][name])} {name}" for name in PARTS)
    callbacks.message(f"split by patient, {len(folds)} folds: {counts} slides each")
    rest = np.sort(np.concatenate([folds[0][TRAIN], folds[0][VALIDATION]]))
    seen, tested = ([cohort.bags[row] for row in rows] for rows in (rest, folds[0][TEST]))
    targets = Targets.of(seen, config)  # of all folds: the networks are averaged, so their cuts must mean the same
    trained = train_networks(config, cohort, folds, targets, seen, out, device=device, callbacks=callbacks)
    model, fitted = trained.model, trained.fitted
    if model.encode is not None:
        tested = [encoded_bag(model, bag) for bag in tested]
    answers = [model.slide(bag.features) for bag in tested]
    metrics = {
        "settings": _settings(config),
        "data": cohort.words,
        "encoder": None if cohort.encoder is None else cohort.encoder.model_dump(),
        "split": without_ids(record, 0) | {"folds": len(folds)},
        "patients": {
            TRAIN: patients_of(cohort.patch_set(config.task), rest),
            TEST: patients_of(cohort.patch_set(config.task), folds[0][TEST]),
        },
        "members": [{"epoch": one.epoch, "validation": one.validation} for one in fitted],
        "seconds": round(sum(one.seconds for one in fitted), 1),
        "parameters": sum(values.size for values in model.arrays.values()),
        "test": _tested(config, cohort, fitted, model, targets, seen, tested, answers),
        "versions": {"python": platform.python_version(), "wsikit": __version__, "numpy": np.__version__},
    }
    write_slides(out / SLIDES_FILE, model, tested, answers)
    write_json(out / METRICS_FILE, metrics)
    card = mil_card(model.config, metrics)
    save_mil(model, out / "model", card=card, metrics=metrics, image=trained.image)
    return metrics


def run_mil_evaluation(
    model: MilModel,
    config: MilTrainConfig,
    manifest: str | Path,
    out: Path,
    *,
    folder: Path | None = None,
    split_file: Path | None = None,
    part: str = TEST,
    fold: int = 0,
    allow_seen: bool = False,
    callbacks: MilCallbacks | None = None,
) -> dict[str, Any]:
    """Evaluate a model on the slides of a manifest, or on one part of a split.

    Raises
    ------
    RequestError
        If the model was trained on one of the patients (unless `allow_seen`), has other classes, reads other features,
        or `out` already holds results.
    """
    callbacks = callbacks or MilCallbacks()
    check_no_results(out)
    info = model.info
    if info.classes != config.codes or model.config.task != config.task:
        raise RequestError(
            f"model {info.name}: {model.config.task} of {info.classes}, the configuration says {config.task} of "
            f"{config.codes}. Give the configuration of its training."
        )
    cohort = read_cohort(config, manifest)
    callbacks.message(cohort.words)
    check_encoder(model, cohort)
    rows, chosen = rows_to_evaluate(
        info.name, cohort.patch_set(config.task), folder=folder, split_file=split_file, part=part, fold=fold,
        allow_seen=allow_seen, message=callbacks.message,
    )  # fmt: skip
    bags = [cohort.bags[row] for row in rows]
    if model.encode is not None:
        bags = [encoded_bag(model, bag) for bag in bags]
    answers = [model.slide(bag.features) for bag in bags]
    metrics = {
        "model": {"name": info.name, "fingerprint": info.fingerprint},
        "data": cohort.words,
        "slides": len(bags),
        **chosen,
        "results": {MODEL: figures(model, bags, answers)},
    }
    out.mkdir(parents=True, exist_ok=True)
    write_slides(out / SLIDES_FILE, model, bags, answers)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def check_encoder(model: MilModel, cohort: Cohort) -> None:
    """RequestError if the features of a cohort are not those that the model was trained on."""
    own, found = model.config.encoder, cohort.encoder
    if own is None or found is None:
        return
    differs = own.fingerprint and found.fingerprint and own.fingerprint != found.fingerprint
    if differs or own.width != found.width:
        raise RequestError(
            f"model {model.config.name}: trained on {own.width} features of {own.name} "
            f"({own.fingerprint[:12] or 'unknown'}), these are {found.width} of {found.name} "
            f"({found.fingerprint[:12] or 'unknown'}): another encoder. Compute the features with that of the training."
        )


def figures(model: MilModel, bags: Sequence[Bag], answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Metrics of predictions of slides, by slide and by patient."""
    task = model.config.task
    if task in ("classes", "ordinal"):
        probs = np.array([one["probability"] for one in answers])
        return class_figures(bags, probs, model.config.classes, ordinal=task == "ordinal")
    return value_figures(bags, np.array([one["value"] for one in answers]), survival=task == "survival")


def write_slides(path: Path, model: MilModel, bags: Sequence[Bag], answers: Sequence[dict[str, Any]]) -> None:
    """One row per slide: truth, probabilities or value, patches, and the effective number of attended ones."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    codes = model.config.classes
    values = model.config.task in ("regression", "survival")
    truth = ["value", "event"] if values else ["label"]
    table.writerow(
        ["slide", "patient", *truth, *(["predicted"] if values else []), *(f"probability_{code}" for code in codes)]
        + ["patches", "attended"]
    )
    for bag, one in zip(bags, answers, strict=True):
        known = [f"{bag.value:g}", int(bag.event)] if values else [codes[bag.label]]
        own = [f"{one['value']:.6g}"] if values else []
        probs = [f"{p:.6f}" for p in one["probability"]]
        attended = 1 / float((one["attention"] ** 2).sum())
        cells = [bag.slide, bag.patient, *known, *own, *probs, len(bag.coords), f"{attended:.1f}"]
        table.writerow([harmless(cell) for cell in cells])
    write_bytes(path, text.getvalue().encode())


def _tested(
    config: MilTrainConfig,
    cohort: Cohort,
    fitted: Sequence[Fitted],
    model: MilModel,
    targets: Targets,
    seen: Sequence[Bag],
    tested: Sequence[Bag],
    answers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Figures of the model, of the networks one by one, and of the floor."""
    found = {MODEL: figures(model, tested, answers)}
    if len(fitted) > 1:
        means = _mean_of_members(fitted, config, cohort, seen, targets, tested)
        found[MEAN_OF_MEMBERS] = figures(model, tested, means)
    if config.classes:
        found[PRIOR] = figures(model, tested, [{"probability": model.config.prior}] * len(tested))
    return found


def _mean_of_members(
    fitted: Sequence[Fitted],
    config: MilTrainConfig,
    cohort: Cohort,
    seen: Sequence[Bag],
    targets: Targets,
    bags: Sequence[Bag],
) -> list[dict[str, Any]]:
    """Predictions of each network by itself, averaged: to compare with the ensemble, which averages before pooling."""
    answers = []
    for one in fitted:
        member = ensemble([one], config, cohort, seen, targets)
        answers.append([member.slide(bag.features) for bag in bags])
    keys = ("probability", "value") if config.task in ("regression", "survival") else ("probability",)
    return [{key: np.mean([one[key] for one in every], axis=0) for key in keys} for every in zip(*answers, strict=True)]


def _folds(config: MilTrainConfig, cohort: Cohort, out: Path) -> tuple[list[Split], dict[str, Any]]:
    """The splits, and their record in `out`; an existing record is read and checked."""
    slides, path = cohort.patch_set(config.task), out / SPLITS_FILE
    wanted = config.split
    if path.exists():
        found = read_splits(path, slides)
    else:
        found = held_out_folds(slides.labels, slides.groups, wanted.folds, test=wanted.test, seed=wanted.seed)
    record = write_splits(path, slides, found, seed=wanted.seed)
    copy = yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    write_bytes(out / CONFIG_COPY, copy.encode())
    return read_splits(path, slides), record


def _settings(config: MilTrainConfig) -> dict[str, Any]:
    """The configuration for the model's folder: names of files instead of paths, as the model may be shared."""
    record = config.model_dump(mode="json")
    if record["data"]["manifest"]:
        record["data"]["manifest"] = Path(record["data"]["manifest"]).name
    record["data"]["group"] = "patient"
    return record
