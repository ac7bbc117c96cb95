"""Follow-up of patients as a table states it: codings of the event, units of time, and what looks wrong in them.

Times become months (a month is 30.4375 days). Nothing is corrected: what looks wrong is a finding.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.training.cohort.config import SurvivalColumns
from wsikit.training.cohort.findings import Findings
from wsikit.training.cohort.patient_table import PatientTable

DAYS_PER_MONTH = 365.25 / 12
MONTHS_OF = {"days": 1 / DAYS_PER_MONTH, "months": 1.0, "years": 12.0}
LONGEST_MONTHS = 600.0
"""50 years: a longer follow-up is a wrong unit."""
FEW = 0.02
"""Share of the patients that may be left out for an impossible time; more is an error."""

_TRUE = {"1", "true", "yes", "y", "dead", "deceased", "died", "1:deceased", "1:dead", "event"}
_FALSE = {"0", "false", "no", "n", "alive", "living", "0:living", "0:alive", "no event"}
_CENSORED = {"censored", "1:censored"}
_NAMES_CENSORING = re.compile(r"cens", re.IGNORECASE)
_NAMES_EVENT = re.compile(r"(^|[_ .-])(event|death|dead|died|deceased|status|vital)([_ .-]|$)", re.IGNORECASE)
_UNIT_IN_NAME = {
    "days": re.compile(r"(^|[_ .\-(])(days?|d)([_ .\-)]|$)", re.IGNORECASE),
    "months": re.compile(r"(^|[_ .\-(])(months?|mo)([_ .\-)]|$)", re.IGNORECASE),
    "years": re.compile(r"(^|[_ .\-(])(years?|yrs?|y)([_ .\-)]|$)", re.IGNORECASE),
}

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def read_follow_up(table: PatientTable, wanted: SurvivalColumns, findings: Findings) -> tuple[Doubles, Bools]:
    """Months of follow-up (N,), NaN where it is not known or impossible, and whether it ended with the event (N,)."""
    column = wanted.event or wanted.censorship
    assert column is not None  # checked by the configuration
    lacking = [name for name in (wanted.time, column) if name not in table]
    for name in lacking:
        findings.error(table.lacking(name).removeprefix(f"{table.path}: "))
    n = len(table.patients)
    if lacking:
        return np.full(n, np.nan), np.zeros(n, dtype=np.bool_)
    try:
        time = table.numbers(wanted.time) * MONTHS_OF[wanted.unit]
        event, known = _events(table, column, censored=wanted.censorship is not None)
    except RequestError as error:
        findings.error(str(error).removeprefix(f"{table.path}: "))
        return np.full(n, np.nan), np.zeros(n, dtype=np.bool_)
    _check_names(wanted, findings)
    lost = ~(np.isfinite(time) & known)
    if lost.any():
        findings.warning(
            f"{_patients(table, lost)} no {wanted.time} or {column}; left out of survival. Complete the follow-up, or "
            "take them out."
        )
    _check_impossible(table, wanted, time, findings)
    time = np.where(lost | (time < 0), np.nan, time)
    event = event & np.isfinite(time)
    known = np.isfinite(time)
    _check_units(table, wanted, time, findings)
    _check_coding(wanted, time[known], event[known], findings)
    return time, event


def _events(table: PatientTable, column: str, *, censored: bool) -> tuple[Bools, Bools]:
    """Whether the event occurred, and whether that is known, both (N,)."""
    event, known = np.zeros(len(table.patients), np.bool_), np.zeros(len(table.patients), np.bool_)
    for index, cell in enumerate(table.text(column)):
        word = cell.casefold().removesuffix(".0")
        if not word:
            continue
        if word in _CENSORED:
            value = censored  # the word is the same in both codings
        elif word in _TRUE | _FALSE:
            value = word in _TRUE
            if censored and word in {"dead", "deceased", "died", "alive", "living", "1:deceased", "0:living"}:
                raise RequestError(
                    f"{table.path}: column {column!r} holds {cell!r}, which states the event, but it is given as "
                    "survival.censorship. Give it as survival.event."
                )
        else:
            raise RequestError(
                f"{table.path}: column {column!r} holds {cell!r} of patient {table.patients[index]!r}; expected 0 or 1 "
                "(or dead, alive, censored)."
            )
        event[index], known[index] = value != censored, True
    return event, known


def _check_names(wanted: SurvivalColumns, findings: Findings) -> None:
    if wanted.event is not None and _NAMES_CENSORING.search(wanted.event):
        findings.error(
            f"column {wanted.event!r} is given as survival.event (1: the event occurred), but its name says censoring. "
            f"Write  censorship: {wanted.event}  instead."
        )
    coded = wanted.censorship
    if coded is not None and _NAMES_EVENT.search(coded) and not _NAMES_CENSORING.search(coded):
        findings.error(
            f"column {coded!r} is given as survival.censorship (1: censored), but its name says event. "
            f"Write  event: {coded}  instead."
        )
    named = [unit for unit, pattern in _UNIT_IN_NAME.items() if pattern.search(wanted.time)]
    if len(named) == 1 and named[0] != wanted.unit:
        findings.error(
            f"column {wanted.time!r} says {named[0]}, but survival.unit is {wanted.unit}. Write  unit: {named[0]}."
        )


def _check_impossible(table: PatientTable, wanted: SurvivalColumns, time: Doubles, findings: Findings) -> None:
    negative = time < 0
    if negative.any():
        text = f"{_patients(table, negative)} a negative {wanted.time}"
        if negative.mean() > FEW:
            findings.error(f"{text}. Compute it as date of last contact minus date of diagnosis.")
        else:
            findings.warning(f"{text}; left out of survival. Correct the dates.")
    zero = time == 0
    if zero.any():
        findings.warning(
            f"{_patients(table, zero)} a {wanted.time} of 0; kept. If the time is not known, leave the cell empty."
        )
    long = time > LONGEST_MONTHS
    if long.any():
        unit = "days" if wanted.unit == "months" else "another unit"
        share = float(long[np.isfinite(time)].mean())
        # of a cohort followed for years and stated in days, a third or more is beyond 600
        advice = f"if all are, set survival.unit: {unit}" if share > 0.2 else ""
        advice = f"{advice}; if only some are, bring" if advice else "bring"
        findings.error(
            f"{_patients(table, long)} a follow-up of more than 50 years if {wanted.time} is in {wanted.unit}: "
            f"these look like {unit}; {advice} all times to one unit."
        )


def _check_units(table: PatientTable, wanted: SurvivalColumns, time: Doubles, findings: Findings) -> None:
    """Whole numbers that are ten times as large as the others are days among months."""
    if wanted.unit == "days":
        days = time[np.isfinite(time)] * DAYS_PER_MONTH
        if len(days) and days.max() < 400 and (~_is_whole(days)).mean() > 0.2:
            findings.warning(
                f"{wanted.time} is in days, but has fractions and ends at {days.max():.0f}: are these months? "
                "Then set survival.unit: months."
            )
        return
    raw = time / MONTHS_OF[wanted.unit]
    known = np.isfinite(raw) & (raw > 0)
    whole = known & _is_whole(raw)
    parts = known & ~whole
    if min(whole.sum(), parts.sum()) < 5 or parts.sum() < whole.sum():
        return
    usual, other = float(np.median(raw[parts])), float(np.median(raw[whole]))
    if other > 10 * usual:
        findings.warning(
            f"{_patients(table, whole)} a {wanted.time} that is a whole number, with a median of {other:.0f}; the "
            f"others have {usual:.1f}: these look like days. Bring all times to one unit."
        )


def _is_whole(values: Doubles) -> Bools:
    """Whether a number is whole, up to what a change of unit rounds; NaN is not."""
    return np.asarray(np.abs(values - np.round(values)) < 1e-6)


def _check_coding(wanted: SurvivalColumns, time: Doubles, event: Bools, findings: Findings) -> None:
    if not event.any() or event.all():
        findings.error(
            f"{wanted.event or wanted.censorship}: {int(event.sum())} of {len(event)} patients have the event. Give "
            "survival.event (1: it occurred) or survival.censorship (1: censored), as the column is coded."
        )
        return
    later = float((time[event][:, None] > time[~event][None, :]).mean())
    # on TCGA GBM-LGG with the reversed coding: 67 % and 55 %
    if event.mean() > 0.5 and later > 0.5 and not wanted.coding_checked:
        findings.warning(
            f"{wanted.event or wanted.censorship}: {event.mean():.0%} of the patients have the event, and mostly after "
            f"the others were censored (in {later:.0%} of pairs): this may be the reversed coding. If so, give the "
            f"column as survival.{'censorship' if wanted.event else 'event'}; else set survival.coding_checked: true."
        )


def _patients(table: PatientTable, chosen: Bools) -> str:
    """ "3 patients (such as 'a') have"."""
    first = table.patients[int(np.flatnonzero(chosen)[0])]
    n = int(chosen.sum())
    return f"patient {first!r} has" if n == 1 else f"{n} patients (such as {first!r}) have"
