"""The rows of a manifest, a table of slides. A row that is wrong becomes one slide that fails, with its line number."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.batch.discovery import why_not_a_file
from wsikit.batch.entry import SlideEntry
from wsikit.batch.ids import limited, unusable
from wsikit.errors import RequestError
from wsikit.lengths import parse_mpp
from wsikit.store.paths import is_url, place
from wsikit.tables import Table, likely, read_table

COLUMNS = ("path", "slide_id", "patient", "mpp", "mpp_x", "mpp_y", "scene", "roi", "reader", "label")
"""Columns of a manifest that are used."""

_SCALE = ("mpp", "mpp_x", "mpp_y")
_HINTS = {
    "file": "path",
    "filename": "path",
    "filepath": "path",
    "slide": "path",
    "slide_path": "path",
    "wsi": "path",
    "wsi_path": "path",
    "image": "path",
    "image_path": "path",
    "pixel_size": "mpp",
    "pixelsize": "mpp",
    "pixel": "mpp",
    "micron": "mpp",
    "resolution": "mpp",
    "spacing": "mpp",
    "spacing_at_level_0": "mpp",
    "scale": "mpp",
    "pixel_size_x": "mpp_x",
    "pixel_size_y": "mpp_y",
    "pixel_width": "mpp_x",
    "pixel_height": "mpp_y",
    "series": "scene",
    "region": "roi",
    "regions": "roi",
    "annotation": "roi",
    "annotations": "roi",
    "geojson": "roi",
    "class": "label",
    "diagnosis": "label",
    "subtype": "label",
    "case": "patient",
    "case_id": "patient",
    "patient_id": "patient",
}
_NOT_GIVEN = {"", "-", "–", "?", "na", "n/a", "nan", "none", "null", "unknown"}


@dataclass(frozen=True)
class Found:
    """A slide and where it was found."""

    root: Path
    """Folder that was given, or that of the manifest; ids are made from the path below it."""
    entry: SlideEntry
    where: str = ""
    """Row of the manifest that names it; empty for a file or a folder."""


def read_manifest(path: Path, columns: Sequence[str] = COLUMNS, needed: Sequence[str] = ("path",)) -> Table:
    """A manifest's table. A column that looks like a pixel size and is not used would change results: it is refused.

    Raises
    ------
    RequestError
        See `wsikit.tables.read_table`.
    """
    table = read_table(path, columns, what="manifest", needed=needed, hints=_HINTS)
    if not set(_SCALE) & set(table.used) and "mpp" in columns:
        for column in table.columns:
            meant = likely(column, columns, _HINTS) if column not in table.used else None
            if meant in _SCALE and _looks_used(table, column):
                raise RequestError(
                    f"{path}: the column {column!r} looks like a pixel size and is not used; name it {meant} (µm per "
                    "pixel at level 0), or remove it"
                )
    return table


def _looks_used(table: Table, column: str) -> bool:
    return any(row.get(column, "").strip().lower() not in _NOT_GIVEN for _, row in table.rows)


def from_manifest(path: Path, notes: list[str]) -> list[Found]:
    """The slides of a manifest; remarks on the table are added to `notes`."""
    table = read_manifest(path)
    notes += table.notes
    if not table.rows:
        notes.append(f"{path}: the manifest has a header and no rows")
    return [_row(path, line, row, table.faults.get(line)) for line, row in table.rows]


def _row(manifest: Path, line: int, row: Mapping[str, str], fault: str | None) -> Found:
    where = f"{manifest}, line {line}"
    text, slide_id = row.get("path", ""), row.get("slide_id", "")
    wrong_id = unusable(slide_id)
    try:
        if fault:
            raise ValueError(fault)
        if wrong_id:
            raise ValueError(wrong_id)
        if not text:
            raise ValueError("the column path is empty")
        slide = _slide_of(manifest.parent, text)
        scene, reader = row.get("scene", ""), row.get("reader", "").lower()
        entry = SlideEntry(
            limited(slide_id),
            str(slide),
            _scale(row),
            patient=row.get("patient", ""),
            scene=None if scene.lower() in _NOT_GIVEN else scene,
            roi=_roi_of(manifest.parent, row.get("roi", "")),
            reader=None if reader in _NOT_GIVEN | {"auto"} else _known_reader(reader),
            label="" if row.get("label", "").lower() in _NOT_GIVEN else row["label"],
        )
    except (ValueError, OSError) as error:  # one wrong row is one failed slide
        text = text.splitlines()[0] if text else ""
        path = str(manifest.parent / text) if text and not _is_url(text) else text or where
        name = "" if wrong_id else limited(slide_id)
        return Found(manifest.parent, SlideEntry(name, path, fault=f"{where}: {error}"), where)
    return Found(manifest.parent, entry, where)


def _is_url(text: str) -> bool:
    try:
        return is_url(text)
    except RequestError:
        return True


def _slide_of(folder: Path, text: str) -> Path:
    """The path in a row: as written, in the other Unicode form, or with the separators of Windows."""
    if is_url(text):
        slide = place(text)
        if not slide.exists():
            raise ValueError(f"{slide}: no such file")
        return slide
    forms = [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD")), text.replace("\\", "/")]
    for form in forms:
        slide = folder / form
        fault = why_not_a_file(slide)
        if fault is not None:
            raise ValueError(f"{slide}: {fault}")
        if slide.exists():
            return slide
    if "\n" in text or "\r" in text:
        first = text.splitlines()[0]
        raise ValueError(f"the cell path goes over several lines ({first!r} …): a quotation mark is not closed")
    raise ValueError(f"{folder / text}: no such file")


def _roi_of(folder: Path, text: str) -> str | None:
    """The file of regions in a row; relative to the manifest, or absolute."""
    if text.lower() in _NOT_GIVEN:
        return None
    for form in (text, text.replace("\\", "/")):
        if (folder / form).is_file():
            return str(folder / form)
    raise ValueError(f"the column roi names {folder / text}, and there is no such file; expected GeoJSON")


def _known_reader(name: str) -> str:
    from wsikit.slides.registry import reader_names

    if name not in reader_names():
        raise ValueError(f"there is no reader {name!r}; expected auto or one of {', '.join(reader_names())}")
    return name


def _scale(row: Mapping[str, str]) -> float | tuple[float, float] | None:
    values: dict[str, float] = {}
    for name in _SCALE:
        text = row.get(name, "")
        if text.lower() in _NOT_GIVEN:
            continue
        try:
            values[name] = parse_mpp(text)
        except ValueError:
            raise ValueError(f"{name} is {text!r}, expected µm per pixel such as 0.25") from None
    if "mpp" in values:
        others = [f"{name} {values[name]:g}" for name in _SCALE if values.get(name, values["mpp"]) != values["mpp"]]
        if others:
            raise ValueError(f"mpp is {values['mpp']:g}, but {' and '.join(others)}. Keep mpp, or mpp_x and mpp_y.")
        return values["mpp"]
    if "mpp_x" in values and "mpp_y" in values:
        return values["mpp_x"], values["mpp_y"]
    if values:
        raise ValueError("give both mpp_x and mpp_y, or mpp")
    return None
