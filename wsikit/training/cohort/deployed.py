"""The model of a cohort for new patients: OUT/model, with cohort.json next to the network's own files.

cohort.json names the columns that the model reads, so a table of new patients needs no configuration; the risk that
divides its groups; and hashes of its patients, so that an evaluation on them can be refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import ModelError, RequestError
from wsikit.models.config import CONFIG_FILE, METRICS_FILE, WEIGHTS_FILE, folder_fingerprint
from wsikit.store.atomic import write_json
from wsikit.training.captioner.patients import patient_id
from wsikit.training.cohort.columns import read_bags, read_columns
from wsikit.training.cohort.config import CohortData, CohortTrainConfig
from wsikit.training.cohort.cross_validation import without_outcome
from wsikit.training.cohort.findings import Findings, refuse
from wsikit.training.cohort.learners import load_network, save_network
from wsikit.training.cohort.patient_table import PatientTable
from wsikit.training.cohort.protocol import FittedLearner, Part

ABOUT_FILE = "cohort.json"
FORMAT = 1


@dataclass(frozen=True)
class CohortModel:
    """A trained network with what its table must hold."""

    fitted: FittedLearner
    about: Mapping[str, Any]
    """cohort.json."""
    fingerprint: str = ""
    """sha256 of the files of its folder: equal models have equal ones."""

    @property
    def architecture(self) -> str:
        return str(self.about["architecture"])

    @property
    def cut(self) -> float | None:
        """Median risk of the training, which divides low from high; None without survival."""
        cut = self.about["cut"]
        return None if cut is None else float(cut)

    @property
    def horizons(self) -> tuple[float, ...]:
        """Months at which survival is stated."""
        return tuple(self.about["horizons"])

    def data(self, table: str, *, features: str | None = None) -> CohortData:
        """Where a table of new patients has what the model reads; the columns by their full names."""
        record = {**self.about["data"], "csv": table, "features": features}
        if self.about["slides"] and features is None:
            raise RequestError(
                f"model {self.about['name']}: reads patch features of slides. Give their folder (--features)."
            )
        return CohortData.model_validate(record)

    def seen(self, part: Part) -> int:
        """How many of these patients the model was trained or selected on."""
        known = set(self.about["patients"])
        return sum(patient_id(name) in known for name in part.ids)


def describe_model(
    config: CohortTrainConfig, sha256: str, fitted: FittedLearner, train: Part, validation: Part
) -> dict[str, Any]:
    """What cohort.json holds."""
    risk = fitted.predict(without_outcome(train)).risk
    data = config.data
    return {
        "format": FORMAT,
        "architecture": config.architecture,
        "name": config.name,
        "version": config.version,
        "notice": config.notice,
        "data": {
            "patient": data.patient,
            "slide": data.slide,
            "encoder": data.encoder,
            "columns": {name: list(train.names[name]) for name in train.modalities},
            "age": data.age,
        },
        "slides": train.bags is not None,
        "horizons": list(config.survival.horizons) if config.survival is not None else [],
        "classes": list(train.classes),
        "ordered": train.ordered,
        "cut": None if risk is None else float(np.median(risk)),
        "data_sha256": sha256,
        "patients": sorted(patient_id(name) for name in (*train.ids, *validation.ids)),
    }


def save_cohort_model(
    folder: Path, fitted: FittedLearner, about: Mapping[str, Any], metrics: Mapping[str, Any]
) -> None:
    """Write the model's folder: the network's files, cohort.json, and the metrics of the cross-validation."""
    save_network(str(about["architecture"]), fitted, folder)
    write_json(folder / METRICS_FILE, metrics)
    write_json(folder / ABOUT_FILE, about)


def is_cohort_model(place: str | Path | None) -> bool:
    """Whether this is the folder of a model of patients."""
    return place is not None and (Path(place) / ABOUT_FILE).is_file()


def load_cohort_model(folder: str | Path, *, device: str = "cpu") -> CohortModel:
    """Read a model of patients.

    Raises
    ------
    ModelError
        It is none, or of another version.
    """
    path = Path(folder) / ABOUT_FILE
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file. Give OUT/model of a training of a cohort.") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({error}). Copy the model's folder again.") from error
    if about.get("format") != FORMAT:
        raise ModelError(f"{path}: format {about.get('format')!r}; this version of wsikit reads {FORMAT}.")
    network = load_network(about["architecture"], Path(folder), device=device)
    return CohortModel(network, about, folder_fingerprint(Path(folder), (ABOUT_FILE, CONFIG_FILE, WEIGHTS_FILE)))


def new_patients(model: CohortModel, table: str, *, features: str | None = None) -> Part:
    """The patients of a table as the model reads them; follow-up and labels are not read.

    Raises
    ------
    RequestError
        The table cannot be read, lacks a column of the model, or rows of a patient contradict each other.
    """
    data = model.data(table, features=features)
    main, findings = PatientTable(data.csv, data.patient), Findings(data.csv)
    columns, names = read_columns(data, [main], findings, {}, keep_constant=True)
    bags, _ = read_bags(data, main, findings)
    refuse(tuple(findings.found), strict=False)
    return Part(
        main.patients,
        columns,
        names,
        bags,
        classes=tuple(model.about["classes"]),
        ordered=bool(model.about["ordered"]),
    )
