"""Patches whose class is part of their file names, as in public collections: `TUM___TCGA-AA-123_4.jpg`."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from wsikit.errors import RequestError
from wsikit.training.datasets.images import IMAGE_SUFFIXES, ImageFiles, open_files
from wsikit.training.datasets.table import ImageTable


def read_names(images: str | Path, pattern: str) -> ImageTable:
    """Read all images of a folder or zip, with the fields in their names.

    Parameters
    ----------
    images
        A folder or a zip.
    pattern
        Regular expression that the path of every image must match completely, with the group `label` and, if the
        names contain them, the groups `patient` and `slide`.

    Raises
    ------
    RequestError
        If the pattern has no group `label`, there are no images, or a name does not match.

    Examples
    --------
    >>> re.fullmatch(r"(?P<label>.+?)___(?P<patient>.+)_\\d+\\.jpg", "TUM___A-12_7.jpg")["patient"]
    'A-12'
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise RequestError(f"pattern {pattern!r}: not a regular expression ({error}).") from error
    if "label" not in wanted.groupindex or set(wanted.groupindex) - {"label", "patient", "slide"}:
        raise RequestError(
            f"pattern {pattern!r}: groups {sorted(wanted.groupindex)}; expected (?P<label>…) and optionally "
            "(?P<patient>…) and (?P<slide>…)."
        )
    files = open_files(images)
    names = [name for name in files.names() if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    if not names:
        raise RequestError(f"{files.place}: no images ({', '.join(sorted(IMAGE_SUFFIXES))}) found.")
    found = []
    for name in names:
        match = wanted.fullmatch(name)
        if match is None:
            raise RequestError(
                f"{files.place}: {name} does not match {pattern!r}. Correct the pattern, or move the file."
            )
        found.append(match.groupdict())
    return ImageTable(
        files=tuple(names),
        captions=(None,) * len(names),
        classes=tuple(groups["label"] for groups in found),
        patients=tuple(groups.get("patient") for groups in found),
        slides=tuple(groups.get("slide") for groups in found),
        coords=None,
        source=str(files.place),
        pixels=ImageFiles(files, names),
        rows=tuple(range(len(names))),
    )
