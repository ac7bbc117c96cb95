"""One row per patient from the results of a run: OUT/patients.csv. Every slide of a patient is listed."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.batch import records
from wsikit.batch.ids import limited
from wsikit.batch.manifest_rows import read_manifest
from wsikit.batch.records import SlideRow
from wsikit.errors import RequestError
from wsikit.store.atomic import atomic_write
from wsikit.store.paths import is_url
from wsikit.tables import harmless
from wsikit.voting.patients import PatientResult, SlideOfPatient, combine_slides

TABLE = "patients.csv"
NOT_RUN = "missing: not in this folder's results"


@dataclass(frozen=True)
class Patients:
    """The patients of a run."""

    results: tuple[PatientResult, ...]
    """Sorted by patient ID."""
    weighted_by: str
    """Weight of the slides: "voting area", or "tissue area" if a result has no voting area."""
    without_patient: tuple[str, ...]
    """Slides of the run that have no patient ID."""

    @property
    def complete(self) -> bool:
        """Whether no slide failed, is missing or has no patient ID. An abstention is a result."""
        reasons = [reason for result in self.results for reason in result.left_out.values()]
        return not self.without_patient and all(reason.startswith("abstained") for reason in reasons)


def combine_patients(out: str | os.PathLike[str], *, manifest: str | os.PathLike[str] | None = None) -> Patients:
    """Aggregate the slide results of each patient.

    Parameters
    ----------
    out
        Folder of a run.
    manifest
        CSV with a column `patient` and `slide_id` or `path` (relative to the CSV's folder, or absolute). By default,
        the patient IDs of the runs' manifests are used.

    Raises
    ------
    RequestError
        If the folder holds no run, or no slide-to-patient mapping is found.
    """
    folder = Path(out)
    rows = {row.slide_id: row for row in records.read_rows(folder)}
    known = records.read_patients(folder) if manifest is None else _from_manifest(Path(manifest), list(rows.values()))
    if not known:
        raise RequestError(
            f"{folder}: no slide-to-patient mapping found. Give --manifest CSV with the columns patient and slide_id."
        )
    areas = {slide_id: _voting_area(folder, slide_id) for slide_id, row in rows.items() if row.subtype is not None}
    by_vote = bool(areas) and all(area is not None for slide_id, area in areas.items() if slide_id in known)
    of_patient: dict[str, list[SlideOfPatient]] = {}
    for slide_id, patient in known.items():
        row = rows.get(slide_id)
        area = areas.get(slide_id) if by_vote else None if row is None else row.tissue_mm2
        of_patient.setdefault(patient, []).append(_slide(slide_id, row, area))
    return Patients(
        tuple(combine_slides(patient, slides) for patient, slides in sorted(of_patient.items())),
        "voting area" if by_vote else "tissue area",
        tuple(sorted(set(rows) - set(known))),
    )


def write_patients(out: str | os.PathLike[str], patients: Patients) -> Path:
    """Write OUT/patients.csv; returns its path."""
    path = Path(out) / TABLE
    codes = list(dict.fromkeys(code for result in patients.results for code in result.probability))
    header = ["patient", "slides", "counted", "mean_subtype", *(f"probability_{code}" for code in codes), "margin"]
    header += ["worst_subtype", "worst_slides", "area_mm2", "weighted_by", "left_out"]
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for one in patients.results:
            probability = [_number(one.probability.get(code)) for code in codes]
            left_out = "; ".join(f"{slide}: {reason}" for slide, reason in one.left_out.items())
            cells = [one.patient, len(one.counted) + len(one.left_out), len(one.counted), one.mean or ""]
            cells += [*probability, _number(one.margin), one.worst or "", "; ".join(one.worst_slides)]
            cells += [_number(one.area_mm2), patients.weighted_by, left_out]
            writer.writerow([harmless(cell) for cell in cells])
    return path


def _slide(slide_id: str, row: SlideRow | None, area_mm2: float | None) -> SlideOfPatient:
    if row is None:
        return SlideOfPatient(slide_id, trouble=NOT_RUN)
    if row.status != records.DONE:
        return SlideOfPatient(slide_id, trouble=f"{row.status}: {row.error or 'no reason recorded'}")
    if row.subtype is None:
        what = "abstained" if row.abstained else "not predicted"
        return SlideOfPatient(slide_id, trouble=f"{what}: {row.reason or 'no reason recorded'}")
    if not area_mm2:
        return SlideOfPatient(slide_id, trouble="its area is unknown")
    return SlideOfPatient(slide_id, row.subtype, row.probability, area_mm2)


def _voting_area(out: Path, slide_id: str) -> float | None:
    """Area that voted, mm²; None if the result does not state it."""
    try:
        record = json.loads((out / "results" / slide_id / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    areas = record.get("areas")
    return float(sum(areas["area_mm2"].values())) if areas else None


def _from_manifest(path: Path, rows: Sequence[SlideRow]) -> dict[str, str]:
    """Patient id by slide id, in the manifest's order; includes slides that were not run."""
    table = read_manifest(path, ("path", "slide_id", "patient"), needed=())
    if "patient" not in table.used or not {"slide_id", "path"} & set(table.used):
        raise RequestError(
            f"{path}: the manifest has columns {', '.join(table.columns) or 'none'}; it needs patient, and slide_id or "
            "path"
        )
    ids = {_real(row.path): row.slide_id for row in rows}
    found: dict[str, str] = {}
    for number, line in table.rows:
        if number in table.faults:
            raise RequestError(f"{path}, line {number}: {table.faults[number]}")
        patient, slide_id = line.get("patient", ""), _slide_id(path, line, ids)
        if not slide_id:
            raise RequestError(f"{path}, line {number}: neither slide_id nor path")
        if found.get(slide_id, patient) != patient:
            raise RequestError(
                f"{path}, line {number}: slide {slide_id} has two patients, {found[slide_id]!r} and {patient!r}"
            )
        if patient:
            found[slide_id] = patient
    return found


def _slide_id(manifest: Path, line: Mapping[str, str], ids: Mapping[str, str]) -> str:
    given, place = line.get("slide_id", ""), line.get("path", "")
    if given or not place:
        return limited(given)
    real = _real(place if is_url(place) else str(manifest.parent / place))
    return ids.get(real, place)


def _real(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)


def _number(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
