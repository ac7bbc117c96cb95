"""The slides of a batch and their ids. Ids are made from paths, so that equal file names get different ids."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from wsikit.errors import RequestError
from wsikit.slides.formats.dicom.looks import is_unnamed_dicom
from wsikit.store.paths import is_url, place

if TYPE_CHECKING:
    from wsikit.slides.base import Slide

SLIDE_SUFFIXES = frozenset(
    [
        ".svs",
        ".tif",
        ".tiff",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".svslide",
        ".bif",
        ".vms",
        ".vmu",
        ".dcm",
        ".czi",
        ".qptiff",
        ".zarr",
    ]
)
"""Suffixes that are recognised as slides in a folder. A file given by its path is always tried."""

_UNSAFE = re.compile(r"[^\w.+=@-]+")


@dataclass(frozen=True)
class SlideEntry:
    """One slide of a batch."""

    slide_id: str
    path: str
    mpp: float | tuple[float, float] | None = None
    """µm/px at level 0 from the manifest or the caller; it overrides the pixel size in the file."""
    mpp_source: str = "manifest"
    """Source of `mpp`."""
    assume_mpp: float | None = None
    """µm/px at level 0, used if neither manifest nor sidecar nor file gives a credible one."""
    patient: str = ""
    """Patient id from the manifest; empty if there is none."""
    roi: str | None = None
    """GeoJSON file of the regions that are analysed; None: the whole slide."""

    @classmethod
    def of(cls, slide: Slide) -> SlideEntry:
        """The entry of an open slide. A pixel size given at opening is used in the batch too."""
        given: Any = getattr(slide, "given_mpp", (None, ""))
        mpp, source = given
        return cls("", str(slide.path), mpp=mpp, mpp_source=source or "option")

    def open(self) -> Slide:
        """Open the slide with its pixel size.

        Raises
        ------
        SlideError, ScaleError
            The file is not a readable slide; its pixel size is not given anywhere.
        """
        from wsikit.slides.registry import open_slide

        if self.mpp is not None:
            return open_slide(self.path, mpp=self.mpp, mpp_source=self.mpp_source)
        slide = open_slide(self.path)
        if slide.info.mpp is None and self.assume_mpp is not None:
            slide.close()
            slide = open_slide(self.path, mpp=self.assume_mpp, mpp_source="assumed (--assume-mpp)")
        return slide


def collect(
    inputs: Sequence[str | os.PathLike[str]],
    *,
    manifests: Sequence[str | os.PathLike[str]] = (),
    entries: Sequence[SlideEntry] = (),
    assume_mpp: float | None = None,
    taken: Mapping[str, str] | None = None,
) -> list[SlideEntry]:
    """Find the slides of a batch: in a fixed order, each once, with unique ids.

    Parameters
    ----------
    inputs
        Files and folders. Folders are searched recursively for `SLIDE_SUFFIXES`. The DICOM files of one series are one
        slide; its path is the file of the finest level.
    manifests
        CSV files with a column `path` (relative to the CSV's folder, or absolute) and optionally `slide_id`,
        `patient` and `mpp` (µm/px; or `mpp_x` and `mpp_y`).
    entries
        Further slides; an empty `slide_id` is filled in.
    assume_mpp
        µm/px for slides without a credible pixel size in the manifest, the sidecar or the file.
    taken
        Ids already used in the output folder, with their paths. Another path gets another id.

    Raises
    ------
    RequestError
        If no slide is found, a path does not exist, or the manifest cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a.svs", "b.ndpi", "notes.txt"):
    ...     (folder / name).touch()
    >>> [entry.slide_id for entry in collect([folder])]
    ['a', 'b']
    """
    if assume_mpp is not None and not (math.isfinite(assume_mpp) and assume_mpp > 0):
        raise RequestError(f"--assume-mpp {assume_mpp}: expected a positive number of µm per pixel")
    found: list[tuple[Path, SlideEntry]] = []
    for item in inputs:
        found.extend(_from_input(place(item)))
    found = _one_per_series(found)
    for manifest in manifests:
        found.extend(_from_manifest(Path(manifest)))
    found.extend((Path(entry.path).parent, entry) for entry in entries)
    unique: dict[str, tuple[Path, SlideEntry]] = {}
    for root, entry in found:
        key = _real_path(entry.path)
        if key not in unique or entry.mpp is not None or entry.patient:
            unique[key] = (root, entry)
    if not unique:
        where = ", ".join(str(item) for item in (*inputs, *manifests))
        raise RequestError(f"{where or 'no input'}: no slide found. Looked for {' '.join(sorted(SLIDE_SUFFIXES))}.")
    named = _with_ids(list(unique.values()), dict(taken or {}))
    return [entry if assume_mpp is None else replace(entry, assume_mpp=assume_mpp) for entry in named]


def _from_input(path: Path) -> list[tuple[Path, SlideEntry]]:
    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    if path.is_file() or path.suffix == ".zarr":
        return [(path.parent, SlideEntry("", str(path)))]
    return [(path, SlideEntry("", str(slide))) for slide in _slides_below(path)]


def _slides_below(folder: Path) -> list[Path]:
    slides: list[Path] = []
    for child in sorted(folder.iterdir()):
        if child.name.startswith("."):
            continue
        if (
            child.suffix.lower() in SLIDE_SUFFIXES and (child.is_file() or child.suffix == ".zarr")
        ) or is_unnamed_dicom(child):
            slides.append(child)
        elif child.is_dir() and child.suffix != ".zarr":
            slides.extend(_slides_below(child))
    return slides


def _one_per_series(found: list[tuple[Path, SlideEntry]]) -> list[tuple[Path, SlideEntry]]:
    """One entry for each DICOM series: its other levels, its label and its macro image belong to it."""
    dicom = {Path(entry.path) for _, entry in found if entry.path.lower().endswith(".dcm")}
    dicom |= {Path(entry.path) for _, entry in found if is_unnamed_dicom(Path(entry.path))}
    if len(dicom) < 2:
        return found
    from wsikit.slides.formats.dicom.files import level_0_files

    level_0 = level_0_files(sorted(dicom))
    return [
        (root, entry) for root, entry in found if level_0.get(Path(entry.path), Path(entry.path)) == Path(entry.path)
    ]


def _from_manifest(path: Path) -> list[tuple[Path, SlideEntry]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path}: the manifest cannot be read ({error})") from error
    if "path" not in columns:
        raise RequestError(f"{path}: the manifest has columns {', '.join(columns) or 'none'}; it needs a column path")
    known = {"path", "slide_id", "patient", "mpp", "mpp_x", "mpp_y"}
    mistaken = [name for name in columns if name and name.lower() in known - set(columns)]
    if mistaken:
        raise RequestError(f"{path}: column {mistaken[0]!r}: write it in lower case, {mistaken[0].lower()!r}")
    return [(path.parent, _manifest_entry(path, number, row)) for number, row in enumerate(rows, start=2)]


def _manifest_entry(manifest: Path, line: int, row: Mapping[str, str | None]) -> SlideEntry:
    text = (row.get("path") or "").strip()
    if not text:
        raise RequestError(f"{manifest}, line {line}: the column path is empty")
    slide = place(text) if is_url(text) else manifest.parent / text
    if not slide.exists():
        raise RequestError(f"{manifest}, line {line}: {slide}: no such file")
    slide_id, patient = ((row.get(name) or "").strip() for name in ("slide_id", "patient"))
    return SlideEntry(slide_id, str(slide), _manifest_mpp(manifest, line, row), patient=patient)


def _manifest_mpp(manifest: Path, line: int, row: Mapping[str, str | None]) -> float | tuple[float, float] | None:
    values: dict[str, float] = {}
    for name in ("mpp", "mpp_x", "mpp_y"):
        text = (row.get(name) or "").strip()
        if not text:
            continue
        try:
            values[name] = float(text)
        except ValueError:
            raise RequestError(
                f"{manifest}, line {line}: {name} is {text!r}, expected µm per pixel such as 0.25"
            ) from None
    if "mpp" in values:
        return values["mpp"]
    if "mpp_x" in values and "mpp_y" in values:
        return values["mpp_x"], values["mpp_y"]
    if values:
        raise RequestError(f"{manifest}, line {line}: give both mpp_x and mpp_y, or mpp")
    return None


def _with_ids(found: list[tuple[Path, SlideEntry]], taken: dict[str, str]) -> list[SlideEntry]:
    given = [entry.slide_id for _, entry in found if entry.slide_id]
    for slide_id in given:
        if _UNSAFE.search(slide_id) or slide_id.startswith("."):
            raise RequestError(f"slide_id {slide_id!r}: use letters, digits and _ . + = @ - only")
    repeated = [slide_id for slide_id, count in Counter(given).items() if count > 1]
    if repeated:
        raise RequestError(f"slide_id {repeated[0]!r} is given twice (duplicate slide_id): ids must be unique")
    names = [entry.slide_id or _id_below(root, entry.path, suffix=False) for root, entry in found]
    shared = {name for name, count in Counter(names).items() if count > 1}
    entries: list[SlideEntry] = []
    used = set(given)
    for (root, entry), name in zip(found, names, strict=True):
        slide_id = name
        if not entry.slide_id:
            if name in shared or name in given:
                slide_id = _id_below(root, entry.path, suffix=True)
            if slide_id in used or not _same_file(taken.get(slide_id, entry.path), entry.path):
                # equal names from different folders: a digest of the path makes the id unique, the same in every run
                slide_id = f"{slide_id}-{hashlib.sha256(_real_path(entry.path).encode()).hexdigest()[:8]}"
        used.add(slide_id)
        entries.append(replace(entry, slide_id=slide_id))
    return entries


def _id_below(root: Path, path: str, *, suffix: bool) -> str:
    whole, above = PurePath(path), PurePath(str(root))
    relative = whole.relative_to(above) if whole.is_relative_to(above) else PurePath(whole.name)
    name = relative.name if suffix else relative.stem
    parts = [*relative.parts[:-1], name.removesuffix(".zarr")]
    return "__".join(_UNSAFE.sub("_", part).lstrip(".") for part in parts)


def _same_file(one: str, other: str) -> bool:
    return _real_path(one) == _real_path(other)


def _real_path(path: str) -> str:
    return path if is_url(path) else os.path.realpath(path)
