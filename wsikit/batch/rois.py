"""Regions of interest of the slides of a batch: finds the GeoJSON file of each slide."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from wsikit.batch.manifest import SlideEntry
from wsikit.errors import RequestError

_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".geojson.zip")


def with_rois(entries: Sequence[SlideEntry], roi: str | os.PathLike[str]) -> list[SlideEntry]:
    """Add to each slide the path of its regions of interest (GeoJSON).

    Parameters
    ----------
    entries
        The slides.
    roi
        A file, for a single slide; or a folder with <slide_id>.geojson, or <name of the slide file>.geojson with or
        without the suffix of the slide. A slide without such a file fails later; it is not analysed as a whole.
        Slides that have regions already, from a manifest, keep them.

    Raises
    ------
    RequestError
        There is no such file or folder, or one file for several slides.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "a.geojson").touch()
    >>> [entry] = with_rois([SlideEntry("a", "slides/a.svs")], folder)
    >>> Path(entry.roi).name
    'a.geojson'
    """
    place = Path(roi)
    without = sum(entry.roi is None for entry in entries)
    if place.is_file():
        if without > 1:
            raise RequestError(f"{place}: one file of regions for {without} slides; give a folder of them")
        return [entry if entry.roi is not None else replace(entry, roi=str(place)) for entry in entries]
    if not place.is_dir():
        raise RequestError(f"{place}: no such file or folder. Give the regions as GeoJSON.")
    return [entry if entry.roi is not None else replace(entry, roi=str(_file_of(entry, place))) for entry in entries]


def _file_of(entry: SlideEntry, folder: Path) -> Path:
    slide = PurePath(entry.path)
    names = (entry.slide_id, slide.stem, slide.name)
    found = (folder / f"{name}{suffix}" for name in names for suffix in _SUFFIXES)
    return next((path for path in found if path.is_file()), folder / f"{entry.slide_id}{_SUFFIXES[0]}")
