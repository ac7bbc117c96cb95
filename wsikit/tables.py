"""Tables that a user gives as CSV, as spreadsheets and offices write them: encoding, separator, names of columns.

Column names are compared without case, spaces, punctuation and units. A column that is not used is named in a note,
with the one that was probably meant. No I/O beyond the table itself.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.errors import RequestError

SEPARATORS = (",", ";", "\t", "|")
TABLE_SUFFIXES = (".csv", ".tsv")
SPREADSHEETS = {".xlsx": "an Excel workbook", ".xlsm": "an Excel workbook", ".xls": "an Excel workbook"} | {
    ".ods": "an OpenDocument spreadsheet",
    ".numbers": "an Apple Numbers document",
}
"""Suffixes of spreadsheets, which are refused with what to do."""

_CSV = "CSV (UTF-8)"
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_UNIT_WORDS = re.compile(r"(micrometers?|micrometres?|microns?|µm|μm|um|per|pixels?|px)")
_GBK_PAIR = re.compile(rb"[\x81-\xfe][\x40-\xfe]")
_LIKELY = 0.74
"""Similarity (difflib) above which a column is probably a misspelt one."""


_SPACES = " \t\r\n\v\f\ufeff\xa0\u200b\u200e\u200f\u2007\u202f"
_FORMULA = re.compile(r"[ '\ufeff\xa0]*[=+\-@\t\r\n]")
_NEGATIVE = re.compile(r"-\d+(\.\d+)?(e[+-]?\d+)?", re.ASCII)


def harmless(cell: object) -> object:
    """A cell of a CSV; text that a spreadsheet would take for a formula begins with an apostrophe.

    `read_table` takes the apostrophe off again. Negative numbers are left as they are, also as text.

    >>> harmless("=1+1"), harmless("a.svs"), harmless(-1.5), harmless("-1.5")
    ("'=1+1", 'a.svs', -1.5, '-1.5')
    """
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    return cell if _NEGATIVE.fullmatch(cell) else f"'{cell}"


@dataclass(frozen=True)
class Table:
    """The rows of a table with the columns that are used."""

    path: str
    columns: tuple[str, ...]
    """All column names, as written, without spaces around them."""
    used: tuple[str, ...]
    """Names of the known columns that it has."""
    rows: tuple[tuple[int, dict[str, str]], ...]
    """Line number and cells of each row that holds anything: by known name, or by the name as written."""
    faults: Mapping[int, str]
    """Rows that do not fit the header, by line number."""
    notes: tuple[str, ...]
    """Remarks for the user, one sentence each: columns that are not used, the encoding."""


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether the name is that of a table or spreadsheet, which is never a slide.

    >>> is_table("a.CSV"), is_table("a.xlsx"), is_table("a.svs")
    (True, True, False)
    """
    suffix = Path(path).suffix.lower()
    return suffix in TABLE_SUFFIXES or suffix in SPREADSHEETS


def read_table(
    path: str | os.PathLike[str],
    known: Sequence[str],
    *,
    what: str = "table",
    needed: Sequence[str] = (),
    hints: Mapping[str, str] | None = None,
    content: bytes | None = None,
) -> Table:
    """Read a CSV with a header.

    Parameters
    ----------
    known
        Names of the columns that the caller uses.
    what
        What the table is, for messages.
    needed
        Columns without which the table is refused.
    hints
        Further names, as people write them, of columns that are not accepted, and the column that is probably meant.
    content
        The bytes of the file, if they are known already.

    Raises
    ------
    RequestError
        The file cannot be read, is a spreadsheet or not text, has no header, lacks a needed column, or names a used
        column twice.

    >>> table = read_table("m.csv", ["path", "mpp"], content="\\ufeffPath ;MPP\\na.svs;0,25\\n;\\n".encode())
    >>> table.rows
    ((2, {'path': 'a.svs', 'mpp': '0,25'}),)
    """
    place = os.fspath(path)
    raw = _content(place, what) if content is None else content
    separator, lines, encoding = read_cells(place, raw, known, what=what)
    header = lines[0][1]
    names, unused = _names(place, header, known, what)
    lacking = [name for name in needed if name not in names]
    if lacking:
        raise RequestError(_lacking(place, header, lacking[0], what, hints or {}))
    rows: list[tuple[int, dict[str, str]]] = []
    faults: dict[int, str] = {}
    for line, cells in lines[1:]:
        rows.append((line, {name: cell for name, cell in zip(names, cells) if name}))
        if any(cells[len(names) :]):
            faults[line] = (
                f"{len(cells)} cells, but the header has {len(names)}: put text or numbers that contain "
                f"{_NAMES[separator]} in quotes"
            )
    used = tuple(name for name in known if name in names)
    notes = (*encoding, *_unused_notes(place, unused, known, names, hints or {}))
    return Table(place, tuple(name for name in header if name), used, tuple(rows), faults, notes)


def read_cells(
    path: str, content: bytes, known: Sequence[str], *, what: str = "table"
) -> tuple[str, list[tuple[int, list[str]]], list[str]]:
    """The separator, line number and cells of the header and of each row that holds anything, and notes.

    The separator is the one with which the header names most of the `known` columns. Cells are without the spaces
    around them, the header without empty cells at its end.

    Raises
    ------
    RequestError
        It is a spreadsheet, not text, empty, or its quotes are wrong.
    """
    text, notes = decode(path, content, what)
    skip, separator, header = _header(path, text, known, what)
    before = text[:skip].count("\n")
    reader = csv.reader(io.StringIO(text[skip:], newline=""), delimiter=separator, skipinitialspace=separator != "\t")
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            cleaned = [_clean(cell) for cell in cells]
            if any(cleaned):
                lines.append((reader.line_num + before, cleaned))
    except csv.Error as error:
        raise RequestError(f"{path}: the {what} cannot be read ({error}). Save it as CSV again.") from error
    lines[0] = (lines[0][0], header)
    return separator, lines, notes


_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a |"}


def decode(path: str, content: bytes, what: str = "table", *, form: str = _CSV) -> tuple[str, list[str]]:
    """The text of a table or another text file, and a note if its encoding had to be assumed.

    UTF-8 and UTF-16 with or without byte order mark; else GB 18030 (GBK, as Excel writes CSV in Chinese) if the text is
    then mostly of frequent characters; else Windows-1252, or Latin-1. `form` is what the file should be.

    Raises
    ------
    RequestError
        It is a spreadsheet, or not text.
    """
    if content.startswith((_ZIP, _OLE)) and form == _CSV:
        kind = SPREADSHEETS.get(Path(path).suffix.lower(), "a spreadsheet or archive")
        raise RequestError(f"{path}: {kind}, not a CSV. Save the sheet as CSV (UTF-8) and give that file.")
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return _decoded(path, content, encoding), []
    for encoding, zero in (("utf-16-le", 1), ("utf-16-be", 0)):
        head = content[: min(len(content) & ~1, 400)]
        if len(head) > 3 and head[zero::2].count(0) > 0.7 * len(head[zero::2]) and head[1 - zero :: 2].count(0) == 0:
            return _decoded(path, content, encoding), []
    if b"\0" in content:
        raise RequestError(f"{path}: not a text file. Give the {what} as {form}.")
    try:
        return content.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    if _looks_chinese(content):
        return content.decode("gb18030"), [
            f"{path}: not UTF-8; read as GB 18030. If text is garbled, save it as UTF-8."
        ]
    try:
        text, name = content.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        text, name = content.decode("latin-1"), "Latin-1"
    return text, [f"{path}: not UTF-8; read as {name}. If names with accents are not found, save it as UTF-8."]


def _looks_chinese(content: bytes) -> bool:
    """Whether bytes that are not UTF-8 are GB 18030: all are valid, and most are frequent characters or punctuation.

    Nearly every pair of bytes is valid GBK, also accented letters and what follows them. The 3,755 frequent characters
    of GB 2312 (first byte B0 to D7, second from A1) are not such pairs, as western text has few capitals with accents
    and hardly two of them in a row.
    """
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return False
    pairs = _GBK_PAIR.findall(content)
    frequent = [one for one in pairs if one[1] >= 0xA1 and (0xB0 <= one[0] <= 0xD7 or 0xA1 <= one[0] <= 0xA3)]
    return len(frequent) > 0.8 * len(pairs)


def _decoded(path: str, content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RequestError(f"{path}: damaged text of encoding {encoding} ({error}). Save it as UTF-8.") from error


def _content(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file. Give the {what} as CSV.") from None
    except OSError as error:
        raise RequestError(f"{path}: the {what} cannot be read ({error.strerror or error})") from error


def _header(path: str, text: str, known: Sequence[str], what: str) -> tuple[int, str, list[str]]:
    """Where the table begins, its separator, and the cells of its header."""
    skip, stated = 0, None
    first = re.match(r"\s*sep=(.)[^\r\n]*(\r\n|\r|\n|$)", text, re.IGNORECASE)  # the first line that Excel reads
    if first:
        skip, stated = first.end(), first[1]
    best: tuple[int, int] = (-1, -1)
    found: tuple[str, list[str]] | None = None
    wanted = {key(name) for name in known}
    skip += _comments(text[skip:], wanted)
    for separator in [stated] if stated else SEPARATORS:
        header = _first_row(path, text[skip:], separator, what)
        score = len({key(cell) for cell in header} & wanted), len(header)
        if any(cell.strip("".join(SEPARATORS)) for cell in header) and score > best:
            best, found = score, (separator, header)
    if found is None:
        raise RequestError(f"{path}: the {what} is empty; it needs a header such as {','.join(known[:3])}")
    separator, header = found
    if len(header) == 1 and stated is None:  # one column: a separator can only be at the ends of the rows
        body = text[skip:]
        separator = next((one for one in SEPARATORS if re.search(rf"{re.escape(one)}\s*$", body, re.M)), separator)
    return skip, separator, header


def _comments(text: str, wanted: set[str]) -> int:
    """Length of the lines before the header that begin with # and name no known column."""
    length = 0
    for line in text.splitlines(keepends=True):
        cells = re.split(r"[,;\t|]", line)
        if line.strip() and (not line.lstrip().startswith("#") or {key(cell) for cell in cells} & wanted):
            break
        length += len(line)
    return length


def _first_row(path: str, text: str, separator: str, what: str) -> list[str]:
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=separator != "\t"):
            row = [_clean(cell) for cell in cells]
            while row and not row[-1]:
                row.pop()
            if row:
                return row
    except csv.Error as error:
        raise RequestError(f"{path}: the {what} cannot be read ({error}). Save it as CSV again.") from error
    return []


def _clean(cell: str) -> str:
    """A cell without the spaces around it, also those that only a word processor writes, and as before `harmless`."""
    cell = cell.strip(_SPACES)
    return cell[1:].strip(_SPACES) if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def key(name: str) -> str:
    """A column name as it is compared.

    >>> key(" Slide ID"), key("MPP (µm/px)"), key("mpp_um_x")
    ('slideid', 'mpp', 'mppx')
    """
    name = unicodedata.normalize("NFC", name).casefold()
    name = re.sub(r"[(\[{].*?[)\]}]", " ", name)
    parts = [part for part in re.split(r"[\W_]+", name) if part]
    kept = [part for part in parts if not _UNIT_WORDS.fullmatch(part)]
    return "".join(kept or parts)


def _names(path: str, header: Sequence[str], known: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """The name of each column: the known one that it is, or its own; and the columns that are not used."""
    of_key = {key(name): name for name in known}
    names = [of_key.get(key(cell), cell) for cell in header]
    for name in known:
        twice = [cell for cell, found in zip(header, names) if found == name]
        if len(twice) > 1:
            shown = " and ".join(repr(cell) for cell in twice)
            raise RequestError(f"{path}: the {what} has the column {name} {len(twice)} times ({shown}). Keep one.")
    return names, [name for name in names if name and name not in known]


def likely(column: str, known: Sequence[str], hints: Mapping[str, str] | None = None) -> str | None:
    """The known column that was probably meant.

    >>> likely("patiant", ["path", "patient"]), likely("diagnosis", ["path", "patient"])
    ('patient', None)
    """
    of_key = {key(name): name for name in known} | {key(hint): name for hint, name in (hints or {}).items()}
    found = difflib.get_close_matches(key(column), of_key, 1, _LIKELY)
    return of_key[found[0]] if found else None


def _unused_notes(
    path: str, unused: Sequence[str], known: Sequence[str], names: Sequence[str], hints: Mapping[str, str]
) -> list[str]:
    notes: list[str] = []
    plain: list[str] = []
    free = [name for name in known if name not in names]
    for column in unused:
        meant = likely(column, known, hints)
        if meant in free:
            notes.append(f"{path}: the column {column!r} is not used; did you mean {meant}?")
        else:
            plain.append(column)
    if plain:
        shown = ", ".join(plain[:8]) + (f" and {len(plain) - 8} more" if len(plain) > 8 else "")
        notes.append(f"{path}: columns not used: {shown}")
    return notes


def _lacking(path: str, header: Sequence[str], lacking: str, what: str, hints: Mapping[str, str]) -> str:
    shown = ", ".join(cell for cell in header if cell)
    meant = next((cell for cell in header if cell and likely(cell, [lacking], hints) == lacking), None)
    advice = f" (rename {meant!r}?)" if meant else ""
    return f"{path}: the {what} has columns {shown or 'none'}; it needs a column {lacking}{advice}"


def number(text: str) -> float:
    """A number with a decimal point or comma; ValueError for anything else, and for two separators.

    >>> number("0,25"), number("1e-3")
    (0.25, 0.001)
    """
    return float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
