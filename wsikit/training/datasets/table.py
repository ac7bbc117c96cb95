"""Tables of patches: row i of every field is one patch. Read from a CSV with a folder or zip of images.

The format is MMLNB's: file_name, description, class; optionally patient, slide, x, y. Images are decoded on demand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from wsikit.errors import RequestError
from wsikit.tables import key, number, read_cells
from wsikit.training.datasets.images import Files, Image, ImageFiles, Pixels, open_files, same_file

Text = tuple[str | None, ...]

_NOTHING = frozenset(["", "nan", "na", "n/a", "none", "null"])
"""Contents of an empty cell, in lower case, as written by pandas, R and people."""


class Columns(BaseModel):
    """Names of a CSV's columns. A column that you name must exist; the others are optional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = "file_name"
    """Image file, relative to the folder or in the zip. Always needed."""
    description: str | None = "description"
    """Caption; None: not read."""
    label: str | None = "class"
    patient: str | None = "patient"
    slide: str | None = "slide"
    x: str | None = "x"
    y: str | None = "y"
    """Top-left corner of the patch on its slide."""


@dataclass(frozen=True)
class ImageTable:
    """N patches. All fields have length N; a column that the source does not have is None throughout."""

    files: tuple[str, ...]
    """Unique name of each patch."""
    captions: Text
    classes: Text
    patients: Text
    slides: Text
    coords: npt.NDArray[np.float64] | None
    """(N, 2), x then y, as the source gives them."""
    source: str
    """Origin of the table, for messages."""
    pixels: Pixels
    rows: tuple[int, ...]
    """Row of `pixels` behind each patch: a selection keeps its images."""
    mpp: float | None = None
    """µm/px of the images if the source states it (stores do, image files do not)."""
    places_um: npt.NDArray[np.float64] | None = None
    """(N, 2), `coords` in µm, if the source states their scale (stores do)."""

    def __post_init__(self) -> None:
        fields = (self.captions, self.classes, self.patients, self.slides, self.rows)
        n = len(self.files)
        if {len(field) for field in fields} != {n} or (self.coords is not None and self.coords.shape != (n, 2)):
            raise RequestError(f"{self.source}: columns of different lengths; there must be one value per patch")

    def __len__(self) -> int:
        return len(self.files)

    def images(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> list[Image]:
        """Images of these rows, each uint8 (H, W, 3) RGB, decoded by this call.

        Raises
        ------
        WsikitError
            If one cannot be read; the message names it.
        """
        return self.pixels.read([self.rows[row] for row in rows])

    def select(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> ImageTable:
        """The same table with only these rows, in this order, images included."""
        chosen = [int(row) for row in rows]

        def pick(values: Text) -> Text:
            return tuple(values[row] for row in chosen)

        return replace(
            self,
            files=tuple(self.files[row] for row in chosen),
            captions=pick(self.captions),
            classes=pick(self.classes),
            patients=pick(self.patients),
            slides=pick(self.slides),
            coords=None if self.coords is None else self.coords[chosen],
            places_um=None if self.places_um is None else self.places_um[chosen],
            rows=tuple(self.rows[row] for row in chosen),
        )


def read_table(
    csv: str | Path | None, images: str | Path, *, columns: Columns | None = None, needs_class: bool = True
) -> ImageTable:
    """Read a CSV and find its images.

    Parameters
    ----------
    csv
        A path, or the name of a member of the zip `images`. None: the only CSV in the folder or zip of images.
    images
        A folder or a zip.
    columns
        Names of the columns; Default: MMLNB's.
    needs_class
        Whether every row must have a class.

    Raises
    ------
    RequestError
        If a column, a file, a class or a number is missing or wrong, or an image occurs twice. The message names
        the file, the line, what was found, what was expected, and what to do.
    """
    names = columns or Columns()
    files = open_files(images)
    where, content = _find_csv(csv, files)
    lines = _read_lines(where, content, names)
    header, found = lines[0][1], lines[1:]
    places = _places(where, header, names, needs_class)

    def column(key: str) -> Text:
        place = places[key]
        return tuple(None if place is None else _cell(cells[place]) for _, cells in found)

    image_names = _image_names(where, files, [(line, cells[places["file"] or 0]) for line, cells in found])
    classes = column("label")
    if needs_class:
        for (line, _), value in zip(found, classes, strict=True):
            if value is None:
                raise RequestError(
                    f"{where}, line {line}: no class in column {names.label!r}. Fill it in, or remove the row."
                )
    return ImageTable(
        files=image_names,
        captions=column("description"),
        classes=classes,
        patients=column("patient"),
        slides=column("slide"),
        coords=_coords(where, names, [line for line, _ in found], column),
        source=where,
        pixels=ImageFiles(files, image_names),
        rows=tuple(range(len(image_names))),
    )


def _find_csv(given: str | Path | None, files: Files) -> tuple[str, bytes]:
    """Its name for messages, and its content."""
    if given is not None and Path(given).is_file():
        return str(given), Path(given).read_bytes()
    tables = [name for name in files.names() if name.lower().endswith(".csv")]
    if given is None and len(tables) != 1:
        raise RequestError(
            f"{files.place}: {len(tables)} CSV files among the images ({', '.join(tables[:5]) or 'none'}); "
            "name the table."
        )
    name = tables[0] if given is None else str(given)
    if name not in tables:
        raise RequestError(
            f"{given}: no such file, and no such CSV in {files.place} (there: {', '.join(tables[:5]) or 'none'})."
        )
    return f"{files.place}/{name}", files.read([name])[0]


def _read_lines(where: str, content: bytes, names: Columns) -> list[tuple[int, list[str]]]:
    """(line number, cells) of the header and each row that is not blank; all rows as wide as the header."""
    known = [name for name in names.model_dump().values() if name]
    separator, lines, _ = read_cells(where, content, known)
    if len(lines) < 2:
        raise RequestError(f"{where}: {len(lines)} line(s); expected a header and at least one row.")
    width = len(lines[0][1])
    for line, cells in lines:
        while len(cells) > width and not cells[-1]:
            cells.pop()  # a separator at the end of the row
        if len(cells) != width:
            what = "commas" if separator == "," else f"{separator!r}"
            raise RequestError(
                f"{where}, line {line}: {len(cells)} cells but the header has {width}. "
                f"Put texts that contain {what} in quotes."
            )
    return lines


def _places(where: str, header: list[str], names: Columns, needs_class: bool) -> dict[str, int | None]:
    """Index of each used column; None for a missing one."""
    known = {key(name): name for name in names.model_dump().values() if name}
    as_written = ", ".join(header)
    # the case of letters, spaces and units do not matter, unless a column has exactly the name
    header = [name if name in known.values() else known.get(key(name), name) for name in header]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise RequestError(f"{where}: two columns are called {twice[0]!r}. Rename one.")
    needed = {"file", *names.model_fields_set} | ({"label"} if needs_class else set())
    places: dict[str, int | None] = {}
    absent: dict[str, str | None] = {}
    for use, name in names.model_dump().items():
        places[use] = header.index(name) if name in header else None
        if places[use] is None and use in needed and (name is not None or use == "label"):
            absent[use] = name
    if absent:
        missing = ", ".join(f"{name!r} for the {use}" for use, name in absent.items())
        settings = ", ".join(f"{use}: NAME" for use in absent)
        raise RequestError(
            f"{where}: no column {missing} (there: {as_written}). Give the names of your columns: "
            f"data: {{table: {{columns: {{{settings}}}}}}}."
        )
    return places


def _image_names(where: str, files: Files, cells: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for line, cell in cells:
        if not cell:
            raise RequestError(f"{where}, line {line}: no file name. Name the image, or remove the row.")
        name = same_file(cell)
        if name in first:
            raise RequestError(f"{where}, line {line}: {name} duplicates line {first[name]}. Keep one row per image.")
        first[name] = line
    if missing := files.missing(list(first)):
        raise RequestError(
            f"{where}, line {first[missing[0]]}: {missing[0]} is not in {files.place} ({len(missing)} of {len(first)} "
            "images are not). Give the folder or zip that holds them."
        )
    return tuple(first)


def _coords(
    where: str, names: Columns, lines: Sequence[int], column: Callable[[str], Text]
) -> npt.NDArray[np.float64] | None:
    """(N, 2), or None if the table has no coordinates."""
    xs, ys = column("x"), column("y")
    if all(value is None for value in (*xs, *ys)):
        return None
    coords = np.empty((len(lines), 2))
    for axis, (name, values) in enumerate(((names.x, xs), (names.y, ys))):
        for row, value in enumerate(values):
            try:
                coords[row, axis] = number(value or "nan")
            except ValueError:
                coords[row, axis] = math.nan
            if not math.isfinite(coords[row, axis]):
                raise RequestError(
                    f"{where}, line {lines[row]}: {value!r} in column {name!r}; expected a number in every row. "
                    f"Correct it, or set {'xy'[axis]} of columns to null."
                )
    return coords


def _cell(text: str) -> str | None:
    return None if text.lower() in _NOTHING else text
