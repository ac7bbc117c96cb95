"""`wsikit predict` and `wsikit evaluate` with a model of patients: predictions of a new table, and metrics on it.

predict writes OUT/patients.csv (risk, group, survival, probabilities), OUT/curves.csv (survival curves) and
OUT/patients/ID.json and ID.html (what the network made of the patient). evaluate writes OUT/metrics.json, predictions
and figures.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import RequestError
from wsikit.models.config import METRICS_FILE
from wsikit.store.atomic import atomic_write, write_json
from wsikit.tables import harmless
from wsikit.training.cohort.baselines import survival_at
from wsikit.training.cohort.cohort import load_cohort
from wsikit.training.cohort.config import CohortTrainConfig
from wsikit.training.cohort.cross_validation import FoldResult, check_prediction, without_outcome
from wsikit.training.cohort.deployed import CohortModel, new_patients
from wsikit.training.cohort.evaluate import fold_truths, measure_classes, measure_survival, records
from wsikit.training.cohort.figures import draw_calibration, draw_kaplan_meier
from wsikit.training.cohort.findings import refuse
from wsikit.training.cohort.learners import explain_patients, page_writer
from wsikit.training.cohort.protocol import Part, Prediction
from wsikit.training.cohort.risk_groups import calibration, group_record, groups_of
from wsikit.training.run_record import check_no_results
from wsikit.training.splits import TEST, TRAIN, VALIDATION

PATIENTS_FILE, CURVES_FILE, VIEWS = "patients.csv", "curves.csv", "patients"
CURVE_POINTS = 60
MOST_COLUMNS = 20
"""Columns of highest relevance that a patient's JSON lists."""


def predict_new(
    model: CohortModel, table: str, out: Path, *, features: str | None = None, explain: bool = True
) -> tuple[int, int]:
    """Predict the patients of a table; return how many there are, and how many of them the model was trained on.

    Raises
    ------
    RequestError
        `out` already holds predictions, or the table does not fit the model.
    """
    if (out / PATIENTS_FILE).exists():
        raise RequestError(f"{out}: already holds {PATIENTS_FILE}; give a new folder, nothing is overwritten.")
    part = new_patients(model, table, features=features)
    prediction = model.fitted.predict(part)
    check_prediction(str(model.about["name"]), prediction, part)
    out.mkdir(parents=True, exist_ok=True)
    header, rows_of = _table(model, part, prediction)
    if explain:
        _write_views(model, part, prediction, out, [dict(zip(header, row, strict=True)) for row in rows_of])
    if prediction.survival is not None and prediction.times is not None:
        times = np.linspace(0, prediction.times[-1], CURVE_POINTS + 1)
        curves = survival_at(prediction, times)
        rows = ([one, f"{t:.2f}", f"{s:.4f}"] for one, curve in zip(part.ids, curves) for t, s in zip(times, curve))
        _write_csv(out / CURVES_FILE, ["patient", "months", "survival"], rows)
    _write_csv(out / PATIENTS_FILE, header, rows_of)
    return len(part), model.seen(part)


def _write_views(
    model: CohortModel, part: Part, prediction: Prediction, out: Path, rows: Sequence[dict[str, Any]]
) -> None:
    """patients/ID.json and, where the network has one, the page patients/ID.html of each patient."""
    write_page = page_writer(model.architecture)
    curves: Any = [None] * len(part)
    if prediction.survival is not None and prediction.times is not None:
        times = np.linspace(0, prediction.times[-1], CURVE_POINTS + 1)
        curves = [(times, curve) for curve in survival_at(prediction, times)]
    for index, view in enumerate(explain_patients(model.architecture, model.fitted, part)):
        name = _file_name(part.ids[index])
        write_json(out / VIEWS / f"{name}.json", _view_record(view))
        if write_page is None:
            continue
        write_page(
            out / VIEWS / f"{name}.html",
            view,
            None if part.bags is None else part.bags[index],
            model=re.sub(r"[^a-z0-9.-]+", "-", str(model.about["name"]).lower()).strip("-.") or model.architecture,
            fingerprint=model.fingerprint,
            notice=str(model.about["notice"]),
            facts=[(column.replace("_", " "), str(value)) for column, value in rows[index].items() if str(value)][1:],
            curve=curves[index],
        )


def evaluate_new(
    model: CohortModel,
    config: CohortTrainConfig,
    out: Path,
    *,
    allow_seen: bool = False,
    message: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Metrics of a model on the patients of a configuration's table, none of whom it may have been trained on.

    Censoring weights are those of this table, as the follow-up of the training is not part of the model.

    Raises
    ------
    RequestError
        Patients of the training are among them (unless `allow_seen`), the table is refused, or `out` holds results.
    """
    check_no_results(out)
    slides = config.data.features if model.about["slides"] else None
    wanted = model.data(config.data.csv, features=slides)
    data = config.data.model_copy(update={"columns": wanted.columns, "exclude": (), "features": slides, "site": None})
    whole = config.split.model_copy(update={"sites": "ignore"})  # nothing is divided here, so hospitals are not read
    cohort = load_cohort(config.model_copy(update={"data": data, "split": whole}), keep_constant=True)
    refuse(cohort.findings, strict=False, message=message)
    message(f"{data.csv}: {cohort.words}")
    part, seen = cohort.part, model.seen(cohort.part)
    if seen and not allow_seen:
        raise RequestError(
            f"model {model.about['name']} was trained or selected on {seen} of these patients, so metrics on them are "
            "biased. Give a table of others (--data), or pass --allow-seen; it is recorded."
        )
    if part.labels is not None and list(part.classes) != list(model.about["classes"]):
        raise RequestError(f"classes: {', '.join(part.classes)}; the model has {', '.join(model.about['classes'])}.")
    prediction = model.fitted.predict(without_outcome(part))
    name = str(model.about["name"])
    check_prediction(name, prediction, part)
    everything, nothing = np.arange(len(part)), np.zeros(0, dtype=np.int64)
    splits = {0: [{TRAIN: everything, VALIDATION: nothing, TEST: everything}]}
    results = [FoldResult(name, 0, 0, part.ids, prediction, model.cut)]
    metrics: dict[str, Any] = {
        "model": {key: model.about[key] for key in ("name", "version", "architecture", "data_sha256")},
        "data": cohort.words,
        "data_sha256": cohort.sha256,
        "patients_seen_in_training": seen,
    }
    out.mkdir(parents=True, exist_ok=True)
    if part.time is not None and config.survival is not None:
        horizons = config.survival.horizons
        truths = fold_truths(part, splits, horizons=horizons, at_risk=config.min_at_risk)
        groups = groups_of(part, results, splits, 0)
        calibrated = {f"{months:g}": calibration(part, results, splits, truths, months) for months in horizons}
        metrics["survival"] = {
            "measured_until_months": round(truths[0, 0].end, 2),
            "models": records(measure_survival(part, results, splits, truths, draws=config.draws)),
            "groups": {name: group_record(part, groups)},
            "calibration": {name: calibrated},
        }
        draw_kaplan_meier(out / "km.png", part, {name: groups})
        draw_calibration(out / "calibration.png", {name: calibrated})
    if part.labels is not None:
        metrics["classes"] = {"models": records(measure_classes(part, results, splits, draws=config.draws))}
    header, rows = _table(model, part, prediction)
    _write_csv(out / PATIENTS_FILE, header, rows)
    write_json(out / METRICS_FILE, metrics)
    return metrics


def _table(model: CohortModel, part: Part, prediction: Prediction) -> tuple[list[str], list[list[Any]]]:
    """patients.csv: one row per patient."""
    header: list[str] = ["patient"]
    columns: list[list[Any]] = [list(part.ids)]
    if prediction.risk is not None:
        header += ["risk", "group"]
        columns.append([f"{risk:.6g}" for risk in prediction.risk])
        columns.append(["high" if model.cut is not None and risk > model.cut else "low" for risk in prediction.risk])
    if prediction.survival is not None and prediction.times is not None:
        curves = survival_at(prediction, np.array(model.horizons))
        within = [months <= prediction.times[-1] for months in model.horizons]
        for index, months in enumerate(model.horizons):
            header.append(f"survival_{months:g}m")
            columns.append([f"{value:.4f}" if within[index] else "" for value in curves[:, index]])
        header.append("median_months")
        columns.append([_median(curve, prediction.times) for curve in prediction.survival])
    if prediction.probs is not None:
        header += ["class", *(f"prob_{code}" for code in part.classes)]
        columns.append([part.classes[index] for index in prediction.probs.argmax(axis=1)])
        columns += [[f"{value:.4f}" for value in prediction.probs[:, j]] for j in range(len(part.classes))]
    return header, [list(row) for row in zip(*columns)]


def _median(curve: Any, times: Any) -> str:
    """Months at which survival falls to one half; "" if it does not within the follow-up of the training."""
    below = np.flatnonzero(np.asarray(curve) <= 0.5)
    return f"{times[below[0]]:.1f}" if len(below) else ""


def _view_record(view: Any) -> dict[str, Any]:
    """A patient's view as JSON: small arrays as lists, of the patches only the strongest of each prototype."""
    record: dict[str, Any] = {}
    for field in dataclasses.fields(view):
        value = getattr(view, field.name)
        if isinstance(value, np.ndarray):
            if field.name not in ("assignment", "attention"):  # one row per patch: these are columns of the store
                whole = np.issubdtype(value.dtype, np.integer)
                record[field.name] = value.tolist() if whole else np.round(value.astype(float), 5).tolist()
        elif field.name == "relevance":
            record[field.name] = {name: _strongest(columns) for name, columns in value.items()}
        else:
            record[field.name] = value
    prototypes = int(record.get("prototypes", 0))
    if prototypes and len(view.attention):
        record["prototype"] = [
            {
                "share_of_patches": round(float(view.shares_of_patches[index]), 5),
                "top_patches": view.top_patches(index).tolist(),
                "tied": list(view.tied(index)),
            }
            for index in range(prototypes)
        ]
    return record


def _strongest(columns: dict[str, float]) -> dict[str, float]:
    chosen = sorted(columns, key=lambda name: -abs(columns[name]))[:MOST_COLUMNS]
    return {name: round(float(columns[name]), 6) for name in chosen}


def _write_csv(path: Path, header: Sequence[str], rows: Any) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([harmless(name) for name in header])
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    with atomic_write(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def _file_name(patient: str) -> str:
    return re.sub(r"[^\w.-]+", "_", patient)
