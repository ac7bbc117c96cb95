"""`wsikit train` for cohorts: checks, folds, cross-validation of a network and its baselines, figures, final model.

OUT holds config.yaml, splits.json, folds/ (one file per learner and fold, by which a run is resumed), metrics.json,
predictions.csv, km.png, calibration.png, and model/ for new patients.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from wsikit._version import __version__
from wsikit.errors import RequestError
from wsikit.models.config import METRICS_FILE
from wsikit.store.atomic import atomic_write, write_json
from wsikit.tables import harmless
from wsikit.training.cohort.baselines import survival_at, usual_baselines
from wsikit.training.cohort.cohort import Cohort, load_cohort
from wsikit.training.cohort.config import CohortTrainConfig
from wsikit.training.cohort.cross_validation import FoldResult, cross_validate
from wsikit.training.cohort.deployed import describe_model, save_cohort_model
from wsikit.training.cohort.evaluate import differences, fold_truths, measure_classes, measure_survival, records
from wsikit.training.cohort.figures import draw_calibration, draw_kaplan_meier
from wsikit.training.cohort.findings import Finding, refuse
from wsikit.training.cohort.folds import decided_split, final_split, make_folds, write_cohort_splits
from wsikit.training.cohort.learners import check_settings, make_network
from wsikit.training.cohort.linear import need_scikit_survival
from wsikit.training.cohort.protocol import Learner, Part
from wsikit.training.cohort.risk_groups import calibration, group_record, groups_of
from wsikit.training.run_record import CONFIG_COPY, SPLITS_FILE
from wsikit.training.splits import TEST, TRAIN, VALIDATION, Split

PREDICTIONS_FILE, FOLDS = "predictions.csv", "folds"

SPREAD = (
    "A model may then gain by recognising a hospital: say so with the results. split.sites: balanced asks for it "
    "without this warning; sites: apart and fewer folds keep hospitals apart."
)

Splits = dict[int, list[Split]]


@dataclass(frozen=True)
class CohortCallbacks:
    """Functions that a run calls to report its progress."""

    message: Callable[[str], None] = lambda text: None
    """Called with one line of text."""
    fold: Callable[[FoldResult, int, int], None] = lambda result, done, total: None
    """Called with each tested fold, the number of those done, and the total."""


def check_cohort(config: CohortTrainConfig, *, strict: bool, message: Callable[[str], None]) -> tuple[Cohort, Splits]:
    """Everything that `wsikit train` checks before it starts: tables, settings, folds. `--dry-run` ends here.

    Raises
    ------
    RequestError
        A finding refuses the cohort, or it cannot be divided into the folds.
    """
    check_settings(config)
    if config.survival is not None:
        need_scikit_survival()
    cohort = load_cohort(config)
    if not any(one.level == "error" for one in cohort.findings) and (reason := decided_split(cohort, config.split)[1]):
        text = f"{config.data.csv}: hospitals are spread over the folds and not kept apart, as {reason}. {SPREAD}"
        cohort = replace(cohort, findings=(*cohort.findings, Finding("warning", text)))
    refuse(cohort.findings, strict=strict, message=message)
    message(f"{config.data.csv}: {cohort.words}; sha256 {cohort.sha256[:12]}")
    splits = {seed: make_folds(cohort, config.split, seed) for seed in config.split.seeds}
    for seed, folds in splits.items():
        sizes = "; ".join("+".join(str(len(fold[name])) for name in (TRAIN, VALIDATION, TEST)) for fold in folds)
        message(f"seed {seed}: {len(folds)} folds of training + validation + test: {sizes}")
    return cohort, splits


def run_cohort_training(
    config: CohortTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    strict: bool = False,
    device: str = "auto",
    callbacks: CohortCallbacks | None = None,
    network: Learner | None = None,
) -> dict[str, Any]:
    """Cross-validate a network and its baselines, write all results into `out`, and return the metrics.

    Parameters
    ----------
    out
        New folder. With `resume`, folds that are done are read from it.
    strict
        Refuse a cohort with warnings, such as columns that may leak the answer.
    network
        Instead of the one that the configuration names; it is not saved.

    Raises
    ------
    RequestError
        The cohort is refused; or `out` holds a finished run, or an unfinished one and `resume` is False.
    """
    callbacks = callbacks or CohortCallbacks()
    if (out / METRICS_FILE).exists():
        raise RequestError(f"{out}: holds a finished run ({METRICS_FILE}); give a new folder, nothing is overwritten.")
    if (out / SPLITS_FILE).exists() and not resume:
        raise RequestError(f"{out}: holds an unfinished run. Resume it (--resume), or give another folder.")
    cohort, splits = check_cohort(config, strict=strict, message=callbacks.message)
    learner = network if network is not None else make_network(config, device=_device(device))
    part = cohort.part
    baselines = usual_baselines(part, age=config.data.age, components=config.components)
    learners = [*([learner] if learner else []), *(baselines if config.baselines else [])]
    record = _start(out, config, cohort, splits)
    results = _cross_validated(out, part, learners, splits, callbacks)
    metrics: dict[str, Any] = {
        "settings": _without_places(config),
        "data": cohort.words,
        "findings": [str(one) for one in cohort.findings],
        "split": record,
        "learner": learner.name if learner else None,
        "seconds": {one.name: round(sum(r.seconds for r in results if r.learner == one.name), 1) for one in learners},
        "versions": _versions(),
    }
    if part.time is not None:
        metrics["survival"] = _survival(config, out, part, results, splits, learner)
    if part.labels is not None:
        measures = measure_classes(part, results, splits, draws=config.draws)
        metrics["classes"] = {"models": records(measures)} | _compared(measures, learner)
    _write_predictions(out / PREDICTIONS_FILE, config, part, results, splits)
    if learner is not None and network is None and config.deploy and not (out / "model").exists():
        callbacks.message("training on all patients, for new ones")
        final = final_split(cohort, config.split)
        train, validation = part.take(final[TRAIN]), part.take(final[VALIDATION])
        fitted = learner.fit(train, validation, config.split.seeds[0])
        about = describe_model(config, cohort.sha256, fitted, train, validation)
        save_cohort_model(out / "model", fitted, about, metrics)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def _start(out: Path, config: CohortTrainConfig, cohort: Cohort, splits: Splits) -> dict[str, Any]:
    """Write configuration and splits; an existing split must be the same."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SPLITS_FILE
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    record = write_cohort_splits(path, cohort, config.split, splits)
    if before is not None and before != json.loads(path.read_text(encoding="utf-8")):
        write_json(path, before)
        raise RequestError(f"{out}: was begun with other data, seeds or folds. Give another output folder.")
    copy = yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    (out / CONFIG_COPY).write_text(copy, encoding="utf-8")
    return record


def _cross_validated(
    out: Path, part: Part, learners: Sequence[Learner], splits: Splits, callbacks: CohortCallbacks
) -> list[FoldResult]:
    done, total = 0, len(learners) * sum(map(len, splits.values()))

    def count(result: FoldResult) -> None:
        nonlocal done
        done += 1
        callbacks.fold(result, done, total)

    return cross_validate(part, learners, splits, folder=out / FOLDS, on_done=count)


def _survival(
    config: CohortTrainConfig,
    out: Path,
    part: Part,
    results: Sequence[FoldResult],
    splits: Splits,
    learner: Learner | None,
) -> dict[str, Any]:
    """Metrics, differences, groups and calibration of survival; draws km.png and calibration.png."""
    assert config.survival is not None
    horizons = config.survival.horizons
    truths = fold_truths(part, splits, horizons=horizons, at_risk=config.min_at_risk)
    measures = measure_survival(part, results, splits, truths, draws=config.draws)
    seed = config.split.seeds[0]
    of_learner = {name: [one for one in results if one.learner == name] for name in measures}
    groups = {name: groups_of(part, found, splits, seed) for name, found in of_learner.items()}
    calibrated = {
        name: {f"{months:g}": calibration(part, found, splits, truths, months) for months in horizons}
        for name, found in of_learner.items()
    }
    shown = _shown(list(measures), learner)
    draw_kaplan_meier(out / "km.png", part, {name: groups[name] for name in shown})
    draw_calibration(out / "calibration.png", {name: calibrated[name] for name in shown})
    ends = {str(one): [round(truths[one, number].end, 2) for number in range(len(splits[one]))] for one in splits}
    return {
        "measured_until_months": ends,
        "models": records(measures),
        **_compared(measures, learner),
        "groups": {name: group_record(part, found) for name, found in groups.items()},
        "calibration": calibrated,
    }


def _shown(names: Sequence[str], learner: Learner | None) -> list[str]:
    """Up to three models for the figures: the network, late fusion or the last one, age."""
    wanted = [learner.name] if learner else []
    wanted += [name for name in ("late fusion", "concatenation", "age") if name in names]
    return (wanted or list(names[-1:]))[:3]


def _compared(measures: Any, learner: Learner | None) -> dict[str, Any]:
    if learner is None:
        return {}
    return {"learner": learner.name, "differences": differences(measures, learner.name)}


def _write_predictions(
    path: Path, config: CohortTrainConfig, part: Part, results: Sequence[FoldResult], splits: Splits
) -> None:
    """One row per learner, seed and patient, each predicted by a model that has not seen the patient."""
    horizons = config.survival.horizons if config.survival is not None else ()
    header = ["learner", "seed", "fold", "patient"]
    header += ["months", "event", "risk", "group", *(f"survival_{months:g}m" for months in horizons)] * bool(horizons)
    header += ["label", *(f"prob_{code}" for code in part.classes)] * (part.labels is not None)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([harmless(name) for name in header])
    for result in results:
        tested = part.take(splits[result.seed][result.fold][TEST])
        columns = _prediction_columns(result, tested, horizons)
        for row, patient in enumerate(tested.ids):
            cells = [result.learner, result.seed, result.fold, patient, *(column[row] for column in columns)]
            writer.writerow([harmless(cell) for cell in cells])
    with atomic_write(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def _prediction_columns(result: FoldResult, tested: Part, horizons: Sequence[float]) -> list[list[Any]]:
    found, n = result.prediction, len(tested)
    columns: list[list[Any]] = []
    if tested.time is not None and tested.event is not None and found.risk is not None:
        known = np.isfinite(tested.time)
        columns.append([f"{time:g}" if one else "" for time, one in zip(tested.time, known)])
        columns.append([int(event) if one else "" for event, one in zip(tested.event, known)])
        columns.append([f"{risk:.6g}" for risk in found.risk])
        columns.append(["high" if risk > (result.cut or 0.0) else "low" for risk in found.risk])
        if found.survival is None:
            columns += [[""] * n for _ in horizons]
        else:
            curves = survival_at(found, np.array(horizons))
            columns += [[f"{value:.4f}" for value in curves[:, index]] for index in range(len(horizons))]
    if tested.labels is not None and found.probs is not None:
        columns.append([tested.classes[label] if label >= 0 else "" for label in tested.labels])
        columns += [[f"{value:.4f}" for value in found.probs[:, index]] for index in range(len(tested.classes))]
    return columns


def _without_places(config: CohortTrainConfig) -> dict[str, Any]:
    """The configuration for metrics.json: file names instead of paths."""
    record = config.model_dump(mode="json")
    data = record["data"]
    for inner, key in ((data, "csv"), (data, "features"), *((one, "csv") for one in data["join"])):
        if isinstance(inner[key], str):
            inner[key] = Path(inner[key]).name
    return record


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _versions() -> Mapping[str, str]:
    found = {"wsikit": __version__, "python": platform.python_version()}
    for name in ("numpy", "scikit-learn", "scikit-survival"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
