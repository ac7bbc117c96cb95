"""From the tables of a configuration to a `Cohort`: patients, their columns, slides, follow-up and labels, checked.

All findings are collected before anything starts; nothing is corrected silently.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.columns import listed, read_bags, read_columns
from wsikit.training.cohort.config import CohortTrainConfig, LabelColumn
from wsikit.training.cohort.findings import Finding, Findings
from wsikit.training.cohort.follow_up import read_follow_up
from wsikit.training.cohort.leaks import FOR_CLASSES, FOR_SURVIVAL, leaks, looks_like_glioma
from wsikit.training.cohort.patient_table import PatientTable, unknown
from wsikit.training.cohort.protocol import UNKNOWN, Part

TCGA = re.compile(r"^TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}", re.IGNORECASE)
"""Barcodes of The Cancer Genome Atlas; the group is the tissue source site."""


@dataclass(frozen=True)
class Cohort:
    """All patients of a table, and what the checks found."""

    part: Part
    """Patients with follow-up or a label, in the order of the table."""
    sites: tuple[str, ...] | None
    """Hospital of each patient, (N,); None: not known."""
    slides: int
    """Number of slides with features."""
    findings: tuple[Finding, ...]
    sha256: str
    """Of everything that is learned from: patients, columns, follow-up, labels, sites, names of slides."""
    words: str
    """The cohort in one line."""


def load_cohort(config: CohortTrainConfig, *, keep_constant: bool = False) -> Cohort:
    """Read and check the tables of a configuration; `keep_constant` keeps columns that do not vary.

    Whether the findings allow a start is decided by `wsikit.training.cohort.findings.refuse`.

    Raises
    ------
    RequestError
        A table cannot be read at all, or has no usable patient.
    """
    data = config.data
    main = PatientTable(data.csv, data.patient)
    others = [PatientTable(one.csv, one.patient) for one in config.data.join]
    tables = [main, *others]
    findings = Findings(data.csv)
    for note in (note for table in tables for note in table.notes):
        findings.note(note.removeprefix(f"{data.csv}: "))
    columns, names = read_columns(data, tables, findings, _reserved(config), keep_constant=keep_constant)
    time, event = None, None
    if config.survival is not None:
        time, event = read_follow_up(main, config.survival, findings)
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if config.labels is not None:
        labels, classes = _labels(config.labels, tables, findings)
    bags, files = read_bags(data, main, findings)
    if columns or bags:
        _check_leaks(config, names, classes, findings)
    usable = np.zeros(len(main.patients), dtype=np.bool_)
    usable |= np.isfinite(time) if time is not None else False
    usable |= labels != UNKNOWN if labels is not None else False
    if not usable.any() and not findings.failed:
        raise RequestError(f"{data.csv}: no patient has follow-up or a label.")
    whole = Part(main.patients, columns, names, bags, time, event, labels, classes, _ordered(config))
    sites = _sites(config, main, findings)
    part = whole.take(usable)
    used = None if sites is None else tuple(site for site, kept in zip(sites, usable) if kept)
    kept_files = [of_patient for of_patient, kept in zip(files, usable) if kept]
    n_slides = sum(map(len, kept_files))
    return Cohort(
        part, used, n_slides, tuple(findings.found), _digest(part, used, kept_files), _words(part, used, n_slides)
    )


def _ordered(config: CohortTrainConfig) -> bool:
    return config.labels is not None and config.labels.ordered


def _reserved(config: CohortTrainConfig) -> dict[str, str]:
    """Columns that are the outcome or an id, and what they are."""
    found = {config.data.patient: "the patient id"}
    if config.data.slide is not None:
        found[config.data.slide] = "the slide"
    if config.survival is not None:
        found[config.survival.time] = "the follow-up itself"
        found[config.survival.event or config.survival.censorship or ""] = "the event itself"
    if config.labels is not None:
        found[config.labels.column] = "the label itself"
    return found


def _labels(
    wanted: LabelColumn, tables: list[PatientTable], findings: Findings
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Index of the class of each patient, `UNKNOWN` where it is not known, and the names of the classes."""
    main = tables[0]
    nothing = np.full(len(main.patients), UNKNOWN, dtype=np.int64)
    holder = next((table for table in tables if wanted.column in table), None)
    if holder is None:
        findings.error(main.lacking(wanted.column).removeprefix(f"{main.path}: "))
        return nothing, ()
    try:
        of_patient = dict(zip(holder.patients, holder.text(wanted.column)))
    except RequestError as error:
        findings.error(str(error))
        return nothing, ()
    cells = [of_patient.get(patient, "") for patient in main.patients]
    known = [not unknown(cell, wanted.missing) for cell in cells]
    there = sorted({cell for cell, one in zip(cells, known) if one})
    codes = tuple(one.code for one in wanted.classes) or tuple(there)
    values = {value: one.code for one in wanted.classes for value in (one.values or (one.code,))} or {
        value: value for value in there
    }
    others = [value for value in there if value not in values]
    if others:
        findings.error(
            f"label {wanted.column!r}: {others[0]!r} is in no class ({', '.join(codes)}). Add it to the values of "
            "one, or to labels.missing to leave these patients out."
        )
    labels = nothing.copy()
    for index, cell in enumerate(cells):
        if known[index] and cell in values:
            labels[index] = codes.index(values[cell])
    if (absent := int((~np.array(known)).sum())) and not others:
        first = main.patients[known.index(False)]
        findings.note(
            f"label {wanted.column!r}: {absent} of {len(cells)} patients (such as {first!r}) have none; left out of "
            "this task."
        )
    counts = np.bincount(labels[labels != UNKNOWN], minlength=len(codes))
    if len(codes) < 2 or counts.min() < 1:
        empty = codes[int(counts.argmin())] if len(codes) else "any"
        findings.error(f"label {wanted.column!r}: no patient of class {empty!r}. Two classes or more are needed.")
    return labels, codes


def _check_leaks(
    config: CohortTrainConfig, names: dict[str, tuple[str, ...]], classes: tuple[str, ...], findings: Findings
) -> None:
    found: dict[str, list[str]] = {}
    if config.labels is not None:
        values = [value for one in config.labels.classes for value in (one.code, one.name or "", *one.values)]
        glioma = looks_like_glioma(config.labels.column, [*values, *classes])
        found |= leaks(names, of=FOR_CLASSES, glioma=glioma)
    if config.survival is not None:
        found |= leaks(names, of=FOR_SURVIVAL)
    for reason, columns in found.items():
        findings.warning(
            f"{listed(columns)} may leak the answer: {reason}. List them in data.exclude, or report results with and "
            "without them."
        )


def _sites(config: CohortTrainConfig, main: PatientTable, findings: Findings) -> tuple[str, ...] | None:
    if config.data.site is not None:
        if config.data.site not in main:
            findings.error(main.lacking(config.data.site).removeprefix(f"{main.path}: "))
            return None
        try:
            found = main.text(config.data.site)
        except RequestError as error:
            findings.error(str(error).removeprefix(f"{findings.place}: "))
            return None
        if "" in found:
            findings.warning(f"{config.data.site}: {found.count('')} patients without one; they count as one hospital.")
        return tuple(found)
    barcodes = [TCGA.match(patient) for patient in main.patients]
    if all(barcodes):
        return tuple(one[1].upper() for one in barcodes if one)
    if config.split.sites != "ignore":
        findings.note("no hospital is known (data.site); folds are made by patient alone.")
    return None


def _digest(part: Part, sites: tuple[str, ...] | None, files: list[tuple[str, ...]]) -> str:
    """sha256 of all that is learned from, independent of the order of patients and of columns."""
    order = sorted(range(len(part)), key=lambda row: part.ids[row])
    digest = hashlib.sha256()
    digest.update(repr([part.ids[row] for row in order]).encode())
    for modality in sorted(part.columns):
        places = sorted(range(len(part.names[modality])), key=lambda j: part.names[modality][j])
        digest.update(repr((modality, [part.names[modality][j] for j in places])).encode())
        digest.update(np.ascontiguousarray(part.columns[modality][np.ix_(order, places)], dtype="<f4").tobytes())
    for kind, values in (("<f8", part.time), ("?", part.event), ("<i8", part.labels)):
        if values is not None:
            digest.update(np.ascontiguousarray(values[order], dtype=kind).tobytes())
    digest.update(repr((part.classes, [sites[row] for row in order] if sites else None)).encode())
    digest.update(repr([files[row] for row in order]).encode())
    return digest.hexdigest()


def _words(part: Part, sites: tuple[str, ...] | None, slides: int) -> str:
    """ "569 patients of 35 sites, 187 events in 569 follow-ups, rna 1544, clinical 2"."""
    words = [f"{len(part)} patients" + (f" of {len(set(sites))} sites" if sites else "")]
    if part.time is not None and part.event is not None:
        known = np.isfinite(part.time)
        words.append(f"{int(part.event.sum())} events in {int(known.sum())} follow-ups")
    if part.labels is not None:
        counts = np.bincount(part.labels[part.labels != UNKNOWN], minlength=len(part.classes))
        words.append(" + ".join(f"{count} {name}" for name, count in zip(part.classes, counts)))
    words += [f"{name} {values.shape[1]}" for name, values in part.columns.items()]
    if slides:
        words.append(f"{slides} slides")
    return ", ".join(words)
