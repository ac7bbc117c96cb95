"""What a model of patients reads of their tables: columns by modality, and where the patch features of slides are.

What cannot be read is a finding; nothing is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.bags import SUFFIXES, SlideBag, find_bag
from wsikit.training.cohort.config import CohortData
from wsikit.training.cohort.findings import Findings
from wsikit.training.cohort.patient_table import PatientTable
from wsikit.training.cohort.protocol import Bag


def read_columns(
    data: CohortData,
    tables: list[PatientTable],
    findings: Findings,
    reserved: Mapping[str, str],
    *,
    keep_constant: bool = False,
) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, tuple[str, ...]]]:
    """The numbers of each modality and their names; what cannot be read is a finding.

    `reserved` are columns that may not be among them, with what they are.
    """
    columns: dict[str, npt.NDArray[np.float32]] = {}
    names: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for modality, patterns in data.columns.items():
        values: list[npt.NDArray[np.float64]] = []
        kept: list[str] = []
        for pattern in patterns:
            found = [(i, one) for i, table in enumerate(tables) for one in table.matching([pattern])]
            if not found and not any(sign in pattern for sign in "*?["):
                findings.error(tables[0].lacking(pattern).removeprefix(f"{tables[0].path}: "))
            elif not found:
                findings.warning(f"columns {modality}: no column matches {pattern!r}; left out.")
            for index, name in found:
                if tables[index].matching(data.exclude).count(name) or name in kept:
                    continue
                if name in reserved:
                    findings.error(f"column {name!r} is {reserved[name]}, and also in data.columns ({modality}).")
                    continue
                if owner.setdefault(name, modality) != modality:
                    findings.error(f"column {name!r} is in two modalities, {owner[name]} and {modality}. Keep one.")
                    continue
                try:
                    values.append(_matched(tables, index, tables[index].numbers(name)))
                    kept.append(name)
                except RequestError as error:
                    findings.error(str(error).removeprefix(f"{findings.place}: "))
        if kept and keep_constant:
            columns[modality], names[modality] = np.stack(values, axis=1).astype(np.float32), tuple(kept)
        elif kept:
            columns[modality], names[modality] = _varying(modality, np.stack(values, axis=1), kept, findings)
    return {name: values for name, values in columns.items() if values.shape[1]}, {
        name: found for name, found in names.items() if found
    }


def read_bags(
    data: CohortData, main: PatientTable, findings: Findings
) -> tuple[tuple[Bag | None, ...] | None, list[tuple[str, ...]]]:
    """Where each patient's patch features are; None for a patient without any."""
    none: list[tuple[str, ...]] = [()] * len(main.patients)
    if data.features is None:
        return None, none
    if data.slide is None or data.slide not in main:
        findings.error("data.features needs data.slide, the column with the slides' names.")
        return None, none
    folder = Path(data.features)
    if not folder.is_dir():
        findings.error(f"data.features: {folder}: no such folder.")
        return None, none
    bags: list[Bag | None] = []
    files: list[tuple[str, ...]] = []
    absent: list[str] = []
    for slides in main.rows_of(data.slide):
        found = {slide: find_bag(folder, slide) for slide in slides}
        absent += [slide for slide, path in found.items() if path is None]
        there = tuple(path for path in found.values() if path is not None)
        bags.append(SlideBag(there, data.encoder) if there else None)
        files.append(tuple(path.name for path in there))
    if not any(files):
        named = next((path.name for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES), "no file of features")
        findings.error(
            f"{folder}: features of none of {len(absent)} slides, such as {absent[0]!r}; it holds {named}. Files have "
            "the names of the slides; give the folder that holds them itself."
        )
    elif absent:
        without = sum(bag is None for bag in bags)
        findings.warning(
            f"{folder}: no features of {len(absent)} slides, such as {absent[0]!r}; {without} patients have no slide."
        )
    return tuple(bags), files


def _matched(tables: list[PatientTable], index: int, found: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Numbers of a joined table in the order of the main one; NaN for patients who are not in it."""
    if index == 0:
        return found
    of_patient = dict(zip(tables[index].patients, found.tolist()))
    return np.array([of_patient.get(patient, np.nan) for patient in tables[0].patients])


def _varying(
    modality: str, values: npt.NDArray[np.float64], names: list[str], findings: Findings
) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Without columns that are constant or empty over the whole cohort, which is noted."""
    measured = np.isfinite(values)
    low = np.where(measured, values, np.inf).min(axis=0)
    varies = low < np.where(measured, values, -np.inf).max(axis=0)
    constant = [name for name, kept in zip(names, varies) if not kept]
    if constant:
        findings.note(f"columns {modality}: {listed(constant)} constant or empty, left out.")
    lacking = (~measured[:, varies]).mean(axis=0) if varies.any() else np.zeros(0)
    if (lacking > 0).any():
        worst = int(lacking.argmax())
        name = str(np.array(names)[varies][worst])
        findings.note(
            f"columns {modality}: {int((lacking > 0).sum())} of {int(varies.sum())} have missing values (at most "
            f"{lacking[worst]:.0%}, {name!r}); the median of the training part fills them."
        )
    return values[:, varies].astype(np.float32), tuple(name for name, kept in zip(names, varies) if kept)


def listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
