"""A CSV of patients, one row per patient or one per slide: its columns, patient by patient. They get no meaning here.

Encodings, separators and decimal commas as everywhere (`wsikit.tables`); a zip that holds one CSV is read as well.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.tables import likely, number, read_cells

MISSING = {"", "na", "n/a", "nan", "none", "null", "unknown", "not reported", "not available", "[not available]", "."}
"""Cells that mean: not known; compared in lower case."""


class PatientTable:
    """The cells of a table, by patient in the order of their first rows.

    Parameters
    ----------
    path
        A CSV, or a zip that holds one CSV.
    patient
        Column of patient ids.
    content
        The bytes of the file, if they are known already.

    Raises
    ------
    RequestError
        The file cannot be read, lacks the column, or a row has no patient id.

    >>> table = PatientTable("t.csv", "patient", content=b"patient,slide,age\\na,s1,61\\nb,s2,48\\na,s3,61\\n")
    >>> table.patients, table.text("age"), table.rows_of("slide")
    (('a', 'b'), ['61', '48'], [['s1', 's3'], ['s2']])
    """

    def __init__(self, path: str, patient: str, *, content: bytes | None = None) -> None:
        self.path = path
        raw = _content(path) if content is None else content
        self.sha256 = hashlib.sha256(raw).hexdigest()
        _, lines, self.notes = read_cells(path, _unzipped(path, raw), [patient], what="cohort table")
        self.header: tuple[str, ...] = tuple(lines[0][1])
        twice = sorted({name for name in self.header if name and self.header.count(name) > 1})
        if twice:
            raise RequestError(f"{path}: the column {twice[0]!r} occurs more than once. Keep one.")
        self._place = {name: index for index, name in enumerate(self.header)}
        self._cells = [cells + [""] * (len(self.header) - len(cells)) for _, cells in lines[1:]]
        self._lines = [line for line, _ in lines[1:]]
        if patient not in self._place:
            raise RequestError(self.lacking(patient))
        self._rows: dict[str, list[int]] = {}
        for row, cells in enumerate(self._cells):
            name = cells[self._place[patient]]
            if not name:
                raise RequestError(f"{path}, line {self._lines[row]}: no {patient}. Give each row a patient id.")
            self._rows.setdefault(name, []).append(row)
        if not self._rows:
            raise RequestError(f"{path}: the table has no rows.")
        self._first = np.array([rows[0] for rows in self._rows.values()])
        self._owner = np.empty(len(self._cells), dtype=np.int64)
        for index, rows in enumerate(self._rows.values()):
            self._owner[rows] = index

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(self._rows)

    @property
    def n_rows(self) -> int:
        return len(self._cells)

    def __contains__(self, column: str) -> bool:
        return column in self._place

    def lacking(self, column: str) -> str:
        """The message for a column that is not there."""
        meant = likely(column, [name for name in self.header if name])
        advice = f"; did you mean {meant!r}?" if meant else f"; it has {len(self.header)}, such as {self.header[1:4]}."
        return f"{self.path}: no column {column!r}{advice}"

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Columns that one of the names or patterns names, in the order of the header.

        >>> PatientTable("t.csv", "p", content=b"p,EGFR_mut,EGFR_cnv\\na,1,2\\n").matching(["*_cnv"])
        ['EGFR_cnv']
        """
        return [name for name in self.header if name and any(_matches(name, one) for one in patterns)]

    def rows_of(self, column: str) -> list[list[str]]:
        """The different cells of each patient that hold something, in their order."""
        place = self._place[column]
        cells = ([self._cells[row][place] for row in rows] for rows in self._rows.values())
        return [list(dict.fromkeys(cell for cell in of_patient if cell)) for of_patient in cells]

    def text(self, column: str) -> list[str]:
        """The cell of each patient; "" where it is not known.

        Raises
        ------
        RequestError
            If rows of one patient contradict each other: 61 and 61.0 do not.
        """
        place, found = self._place[column], []
        for patient, rows in self._rows.items():
            cells = [self._cells[row][place] for row in rows]
            known = {_canonical(cell): row for cell, row in zip(reversed(cells), reversed(rows)) if not unknown(cell)}
            if len(known) > 1:
                one, two = sorted(known.values())[:2]
                raise RequestError(
                    f"{self.path}: patient {patient!r} has {column} {self._cells[one][place]!r} in line "
                    f"{self._lines[one]} and {self._cells[two][place]!r} in line {self._lines[two]}. Correct one."
                )
            found.append(next((cell for cell in cells if not unknown(cell)), ""))
        return found

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """The number of each patient, (N,); NaN where it is not known.

        Raises
        ------
        RequestError
            If a cell is no finite number, or rows of one patient contradict each other.
        """
        quick = self._plain_numbers(column)
        if quick is not None:
            return quick
        cells = self.text(column)
        values = np.full(len(cells), np.nan)
        for index, cell in enumerate(cells):
            if not cell:
                continue
            try:
                values[index] = number(cell)
            except ValueError:
                values[index] = np.inf
            if not np.isfinite(values[index]):
                raise RequestError(
                    f"{self.path}: column {column!r} is not numeric: {cell!r} of patient {self.patients[index]!r}. "
                    "Code it as numbers, or take it out of data.columns (exclude: lists columns to leave out)."
                )
        return values

    def _plain_numbers(self, column: str) -> npt.NDArray[np.float64] | None:
        """As `numbers`, for columns of decimal points that agree in all rows; None for all others. 50 times as fast."""
        place = self._place[column]
        try:
            values = np.array([cells[place] or "nan" for cells in self._cells], dtype=np.float64)
        except ValueError:
            return None
        found = values[self._first]
        same = (values == found[self._owner]) | (np.isnan(values) & np.isnan(found[self._owner]))
        return found if same.all() and not np.isinf(values).any() else None


def unknown(cell: str, further: Sequence[str] = ()) -> bool:
    """Whether the cell says that the value is not known."""
    return cell.casefold() in MISSING or cell in further


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (any(sign in pattern for sign in "*?[") and fnmatchcase(name, pattern))


def _canonical(cell: str) -> str | float:
    try:
        return number(cell)
    except ValueError:
        return cell


def _content(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the cohort's table as CSV.") from None
    except OSError as error:
        raise RequestError(f"{path}: the cohort's table cannot be read ({error.strerror or error}).") from error


def _unzipped(path: str, content: bytes) -> bytes:
    """The CSV of a zip (that holds it alone, or one CSV); other content as it is. A workbook is a zip too: its reader
    refuses it."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if "[Content_Types].xml" in names:
            return content
        tables = [name for name in names if name.lower().endswith((".csv", ".tsv"))]
        if len(names) != 1 and len(tables) != 1:
            raise RequestError(
                f"{path}: the zip holds {len(names)} files, {len(tables)} of them CSV; expected one CSV."
            )
        return _unzipped(path, archive.read(tables[0] if len(tables) == 1 else names[0]))
