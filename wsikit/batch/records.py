"""Records of a run: slides.csv, failures/ and one row per slide. The files are the only state.

slides.csv is made from the rows in results/, so several processes can work in one folder without conflicts.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from wsikit.errors import RequestError
from wsikit.store.atomic import atomic_write, is_our_partial, write_json
from wsikit.tables import harmless
from wsikit.voting.result import format_margin

logger = logging.getLogger(__name__)

DONE, FAILED, LOCKED = "done", "failed", "locked"
"""States of a slide. Locked: another run is working on it."""

_LOCK_WAIT_S = 60.0

_FIXED = [
    "slide_id",
    "path",
    "status",
    "label",
    "subtype",
    "margin",
    "value",
    "value_kind",
    "value_unit",
    "abstained",
    "reason",
    "n_patches",
    "tissue_mm2",
    "unreadable_fraction",
    "mpp_x",
    "mpp_y",
    "mpp_source",
    "seconds",
    "error",
    "notes",
]


_LARGEST = 1e15
"""Of the numbers of a row: beyond it, the file was changed."""


@dataclass(frozen=True)
class SlideRow:
    """One row of slides.csv."""

    slide_id: str
    path: str
    status: str
    subtype: str | None = None
    """Class code of the slide; None if the vote abstained or no model was run."""
    probability: Mapping[str, float] = field(default_factory=dict)
    """By class code."""
    margin: float | None = None
    abstained: bool | None = None
    reason: str | None = None
    """Why the vote abstained."""
    n_patches: int | None = None
    tissue_mm2: float | None = None
    unreadable_fraction: float | None = None
    """Fraction of unreadable patches, 0–1; where there are no patches, of the area that was searched for tissue."""
    mpp_x: float | None = None
    mpp_y: float | None = None
    mpp_source: str | None = None
    seconds: float | None = None
    error: str | None = None
    value: float | None = None
    """By a model on labels of slides that gives one number: a value, a risk, or an expected grade; six digits."""
    value_kind: str | None = None
    """What it is: "value", "risk" (higher: earlier), "expected_grade"."""
    value_unit: str | None = None
    """Its unit; of a grade its ends, such as "UD = 1 to D = 3"."""
    label: str = ""
    """Known class of the slide, as the manifest gives it."""
    notes: tuple[str, ...] = ()
    """Remarks on how the slide was processed, such as a shift of its regions of interest."""

    def summary(self) -> str:
        """The result in one line."""
        if self.status != DONE:
            return f"{self.status}: {self.error}" if self.error else self.status
        if self.subtype is None:
            return f"no subtype: {self.reason}{self._value_at_end}"
        margin = "" if self.margin is None else f", margin {format_margin(self.margin)}"
        probability = self.probability.get(self.subtype)
        shown = "" if probability is None else f", p={probability:.2f}"
        return f"{self.subtype}{shown}{margin}{self._value_at_end}"

    @property
    def value_words(self) -> str:
        """What the value is, and its number; empty if there is none."""
        return "" if self.value is None else f"{str(self.value_kind).replace('_', ' ')} {self.value:.4g}"

    @property
    def _value_at_end(self) -> str:
        """The value as the end of a line."""
        unit = f" ({self.value_unit})" if self.value_unit else ""
        return f"; {self.value_words}{unit}" if self.value_words else ""


def write_row(out: Path, row: SlideRow) -> None:
    """Write a slide's row into the folder of its results."""
    write_json(_row_path(out, row.slide_id), asdict(row))


def read_rows(out: Path) -> list[SlideRow]:
    """All rows below `out`, by slide id."""
    found = (_read(path) for path in sorted((out / "results").glob("*/row.json")))
    return [row for row in found if row is not None]


def read_row(out: Path, slide_id: str) -> SlideRow | None:
    """The row of one slide; None if it has none."""
    path = _row_path(out, slide_id)
    return _read(path) if path.is_file() else None


def _read(path: Path) -> SlideRow | None:
    """A row; None if its file is damaged: the slide is then not finished, and processed again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        row = SlideRow(**{**record, "notes": tuple(record.get("notes") or ())})
        _check_row(row, path.parent.name)
        return row
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s: damaged (%s); the slide is taken for unfinished", path, error)
        return None


def _check_row(row: SlideRow, slide_id: str) -> None:
    """ValueError if an entry has another type than `SlideRow` states, or cannot be: the file was changed."""
    texts: list[Any] = [row.path, row.status, row.label, *row.notes, *row.probability]
    may: tuple[Any, ...] = (row.subtype, row.reason, row.mpp_source, row.error, row.value_kind, row.value_unit)
    texts += [one for one in may if one is not None]
    may = (row.margin, row.n_patches, row.tissue_mm2, row.unreadable_fraction, row.mpp_x, row.mpp_y)
    may += (row.value, row.seconds)
    numbers: list[Any] = [one for one in may if one is not None] + list(row.probability.values())
    if row.slide_id != slide_id:
        raise ValueError(f"slide_id {repr(row.slide_id)[:60]}, expected {slide_id!r}")
    if wrong := [one for one in texts if not isinstance(one, str)]:
        raise ValueError(f"{repr(wrong[0])[:60]} where a text is expected")
    if wrong := [one for one in numbers if not _is_number(one)]:
        raise ValueError(f"{repr(wrong[0])[:60]} where a number is expected")
    contradicts = row.subtype is not None and row.probability and row.subtype not in row.probability
    if row.abstained not in (None, True, False) or contradicts:
        raise ValueError("its result contradicts itself")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def flat_row(row: SlideRow) -> dict[str, Any]:
    """A row with one entry per class probability, as in slides.csv."""
    record = asdict(row)
    record["notes"] = "; ".join(row.notes)
    probability = record.pop("probability")
    return {**record, **{f"probability_{code}": value for code, value in probability.items()}}


def write_table(out: Path, rows: Sequence[SlideRow] | None = None) -> None:
    """Write slides.csv from all rows below `out`, which may be given if they were just read."""
    rows = read_rows(out) if rows is None else rows
    classes = list(dict.fromkeys(code for row in rows for code in row.probability))
    cut = _FIXED.index("margin")
    columns = [*_FIXED[:cut], *(f"probability_{code}" for code in classes), *_FIXED[cut:]]
    # a byte of a file name that is not UTF-8 is written as its escape
    with (
        atomic_write(out / "slides.csv") as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: harmless(cell) for name, cell in flat_row(row).items()})


@contextlib.contextmanager
def tables_lock(out: Path) -> Iterator[None]:
    """Write files of the output folder itself, one run at a time; temporary files that a killed run left are removed.

    Raises
    ------
    TimeoutError
        Another run has held the lock for a minute.
    """
    try:
        lock = FileLock(out / ".tables.lock", timeout=_LOCK_WAIT_S)
        with lock:
            for left in out.glob("*.partial"):
                if is_our_partial(left.name) and left.name.startswith(("slides.csv.", "index.html.", "run.json.")):
                    left.unlink(missing_ok=True)
            yield
    except Timeout as error:
        raise TimeoutError(f"another run has been writing the tables in {out} for {_LOCK_WAIT_S:g} s") from error


def taken_ids(out: Path) -> dict[str, str]:
    """Slide ids in use below `out`, and the paths they belong to."""
    return {row.slide_id: row.path for row in read_rows(out)}


def failure_path(out: Path, slide_id: str) -> Path:
    """File with the traceback of a failed slide."""
    return out / "failures" / f"{slide_id}.txt"


def clear_failure(out: Path, slide_id: str) -> None:
    """Remove the traceback of an earlier attempt of a slide that is now done."""
    failure_path(out, slide_id).unlink(missing_ok=True)


def read_patients(out: Path) -> dict[str, str]:
    """Patient id by slide id, from the manifests of the runs; includes slides without a result."""
    path = out / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise RequestError(f"{path}: damaged ({error}). Remove it; wsikit run writes it again.") from error
    return dict(record.get("patients", {}))


def _row_path(out: Path, slide_id: str) -> Path:
    return out / "results" / slide_id / "row.json"
