"""The slides of a batch, from files, folders and manifests: each once, with an id; what is passed over is named."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wsikit.batch.claims import belongs
from wsikit.batch.discovery import (
    SLIDE_SUFFIXES,
    pictures_in,
    slide_suffixes,
    slides_below,
    stores_of_slides,
    why_not_a_file,
)
from wsikit.batch.entry import SlideEntry
from wsikit.batch.ids import make_ids, real_path, unusable
from wsikit.batch.manifest_rows import Found, from_manifest
from wsikit.errors import RequestError
from wsikit.slides.formats.dicom.looks import is_unnamed_dicom
from wsikit.slides.formats.ome_zarr.nodes import is_zarr
from wsikit.store.paths import place

__all__ = ["SLIDE_SUFFIXES", "Collected", "Manifest", "SlideEntry", "collect", "find_slides"]


@dataclass(frozen=True)
class Manifest:
    """A table of slides, whatever the suffix of its name."""

    path: str


@dataclass(frozen=True)
class Collected:
    """The slides of a batch."""

    entries: tuple[SlideEntry, ...]
    """In a fixed order, each once, with unique ids."""
    notes: tuple[str, ...] = ()
    """What is passed over, read differently than stated, or not used; one sentence each."""


def collect(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    manifests: Sequence[str | os.PathLike[str]] = (),
    entries: Sequence[SlideEntry] = (),
    assume_mpp: float | None = None,
    scene: int | str | None = None,
    taken: Mapping[str, str] | None = None,
) -> list[SlideEntry]:
    """The slides of a batch, without the remarks; see `find_slides`.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.svs", "b.ndpi", "notes.txt"):
    ...     (folder / name).touch()
    >>> [entry.slide_id for entry in collect([folder])]
    ['a', 'b']
    """
    found = find_slides(inputs, manifests=manifests, entries=entries, assume_mpp=assume_mpp, scene=scene, taken=taken)
    return list(found.entries)


def find_slides(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    manifests: Sequence[str | os.PathLike[str]] = (),
    entries: Sequence[SlideEntry] = (),
    assume_mpp: float | None = None,
    scene: int | str | None = None,
    taken: Mapping[str, str] | None = None,
    out: Path | None = None,
) -> Collected:
    """Find the slides of a batch: in a fixed order, each once, with unique ids.

    Parameters
    ----------
    inputs
        Files and folders. Folders are searched recursively for `SLIDE_SUFFIXES`; names that begin with a dot are
        ignored. The DICOM files of one series are one slide; its path is the file of the finest level. A store whose
        source slide is found too is left out.
    manifests
        CSV files with a column `path` (relative to the CSV's folder, or absolute) and optionally `slide_id`,
        `patient`, `scene`, `mpp` (µm/px; or `mpp_x` and `mpp_y`), `roi` (GeoJSON), `reader` and `label`. A row that is
        wrong becomes an entry with a `fault`.
    entries
        Further slides; an empty `slide_id` is filled in.
    assume_mpp
        µm/px for slides without a credible pixel size in the manifest, the sidecar or the file.
    scene
        Which main image of each file is read, by number or name, where the manifest does not state it.
    taken
        Ids already used in the output folder, with their paths. Another path gets another id.
    out
        The output folder; stores in it are results, not slides.

    Raises
    ------
    RequestError
        If no slide is found, or every row of a manifest is wrong; a path does not exist; a manifest cannot be read.
    """
    if assume_mpp is not None and not (math.isfinite(assume_mpp) and assume_mpp > 0):
        raise RequestError(f"--assume-mpp {assume_mpp}: expected a positive number of µm per pixel")
    notes: list[str] = []
    found: list[Found] = []
    for item in inputs:
        found.extend(_from_input(place(item), out, notes))
    found = _one_per_series(found)
    for manifest in manifests:
        found.extend(from_manifest(Path(manifest), notes))
    found.extend(Found(Path(entry.path).parent, entry) for entry in entries)
    if scene is not None:
        found = [replace(one, entry=_in_scene(one.entry, scene)) for one in found]
    unique = _without_stores_of_slides(_each_once(found, notes), notes)
    if not unique:
        where = ", ".join(str(item) for item in (*inputs, *manifests))
        passed = f" Passed over: {'; '.join(notes[:3])}." if notes else ""
        looked = f" Looked for {' '.join(sorted(slide_suffixes()))}." if inputs else ""
        if pictures := sum(pictures_in(Path(item)) for item in inputs):
            looked += f" There are {pictures} pictures (.png, .jpg …): name them, as in FOLDER/*.png, or in a manifest."
        raise RequestError(f"{where or 'no input'}: no slide found.{looked}{passed}")
    unique = _without_equal_ids(unique)
    faults = [one.entry.fault for one in unique if one.entry.fault]
    if len(faults) == len(unique):
        others = len(faults) - 1
        more = f" ({others} more {'row is' if others == 1 else 'rows are'} wrong)" if others else ""
        raise RequestError(f"{faults[0]}{more}")
    named = _with_ids(unique, taken or {}, notes, out)
    return Collected(tuple(replace(entry, assume_mpp=assume_mpp) for entry in named), tuple(notes))


def _in_scene(entry: SlideEntry, scene: int | str) -> SlideEntry:
    return entry if entry.scene is not None else replace(entry, scene=scene)


def _from_input(path: Path, out: Path | None, notes: list[str]) -> list[Found]:
    fault = why_not_a_file(path) if isinstance(path, Path) else None
    if fault is not None:
        return [Found(path.parent, SlideEntry("", str(path), fault=f"{path}: {fault}"))]
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    if path.is_file() or path.suffix == ".zarr" or (isinstance(path, Path) and is_zarr(path)):
        return [Found(path.parent, SlideEntry("", str(path)))]
    slides, passed = slides_below(path, out=out)
    notes += passed
    return [Found(path, SlideEntry("", str(slide))) for slide in slides]


def _one_per_series(found: list[Found]) -> list[Found]:
    """One entry for each DICOM series: its other levels, its label and its macro image belong to it."""
    dicom = {Path(one.entry.path) for one in found if one.entry.path.lower().endswith(".dcm")}
    dicom |= {Path(one.entry.path) for one in found if is_unnamed_dicom(Path(one.entry.path))}
    if len(dicom) < 2:
        return found
    from wsikit.slides.formats.dicom.files import level_0_files

    level_0 = level_0_files(sorted(dicom))
    return [one for one in found if level_0.get(Path(one.entry.path), Path(one.entry.path)) == Path(one.entry.path)]


def _each_once(found: Sequence[Found], notes: list[str]) -> list[Found]:
    """Each scene of a file once. A manifest's row counts more than a folder; contradicting rows are a fault."""
    unique: dict[tuple[str, str], Found] = {}
    for one in found:
        key = real_path(one.entry.path), str(one.entry.scene)
        before = unique.get(key)
        if before is None:
            unique[key] = one
        elif before.where and one.where:
            unique[key] = _same_slide(before, one, notes)
        elif one.where or one.entry.mpp is not None or one.entry.patient or one.entry.slide_id:
            unique[key] = one
    return list(unique.values())


def _same_slide(before: Found, one: Found, notes: list[str]) -> Found:
    """What two rows of a manifest say of one slide."""
    first, second = before.entry, one.entry
    if first.fault or second.fault:
        return before if first.fault else one
    text = f"{one.where}: {Path(second.path).name} is named in {before.where.rsplit(', ', 1)[-1]} too"
    for what in ("mpp", "patient", "roi", "reader", "label"):
        a, b = getattr(first, what), getattr(second, what)
        if a != b:
            shown = " and ".join("none" if value in (None, "") else repr(value) for value in (a, b))
            return replace(before, entry=replace(first, fault=f"{text}, with another {what} ({shown}). Keep one row."))
    if first.slide_id != second.slide_id and second.slide_id:
        kept = first.slide_id or second.slide_id
        notes.append(f"{text}, as {first.slide_id or 'no id'} and as {second.slide_id}; it is run once, as {kept}")
        return replace(before, entry=replace(first, slide_id=kept))
    notes.append(f"{text}; it is run once")
    return before


def _without_stores_of_slides(found: list[Found], notes: list[str]) -> list[Found]:
    sources = stores_of_slides([one.entry.path for one in found])
    for store, slide in sources.items():
        notes.append(f"{store}: passed over, the store of a slide that is in the input too ({slide})")
    return [one for one in found if one.entry.path not in sources]


def _without_equal_ids(found: Sequence[Found]) -> list[Found]:
    """Rows of a manifest that give one id to different slides are wrong: nothing shows which of them is meant."""
    given = Counter(one.entry.slide_id for one in found if one.entry.slide_id)
    of_rows = {one.entry.slide_id for one in found} - {one.entry.slide_id for one in found if not one.where}
    return [
        one
        if given[one.entry.slide_id] < 2 or one.entry.slide_id not in of_rows
        else replace(one, entry=replace(one.entry, slide_id="", fault=_given_twice(one.entry.slide_id, found)))
        for one in found
    ]


def _given_twice(slide_id: str, found: Sequence[Found]) -> str:
    wheres = [one.where or one.entry.path for one in found if one.entry.slide_id == slide_id]
    return f"slide_id {slide_id!r} is given twice (duplicate slide_id: {' and '.join(wheres)}): ids must be unique"


def _with_ids(found: Sequence[Found], taken: Mapping[str, str], notes: list[str], out: Path | None) -> list[SlideEntry]:
    given = Counter(one.entry.slide_id for one in found if one.entry.slide_id)
    for slide_id, count in given.items():
        if reason := unusable(slide_id):
            raise RequestError(reason)
        if count > 1:
            raise RequestError(_given_twice(slide_id, found))
    mine = None if out is None else partial(belongs, out)
    scenes = ["" if one.entry.scene is None else str(one.entry.scene) for one in found]
    ids = make_ids([(one.root, one.entry.path, one.entry.slide_id) for one in found], taken, scenes, mine)
    for one, slide_id in zip(found, ids, strict=True):
        if one.entry.slide_id and slide_id != one.entry.slide_id:
            notes.append(f"{one.where or one.entry.path}: the slide_id {one.entry.slide_id} is used as {slide_id}")
    return [
        replace(one.entry, slide_id=slide_id, id_requested=one.entry.slide_id == slide_id)
        for one, slide_id in zip(found, ids, strict=True)
    ]
