"""Files and folders that are no slides: what they are, and what to give instead. Decided by first bytes and name.

Files whose pixels lie elsewhere are in `wsikit.slides.containers`, other objects of DICOM in
`wsikit.slides.formats.dicom.kinds`.
"""

from __future__ import annotations

from pathlib import Path

EXPORT = "Export the slide from the scanner's software as SVS, tiled TIFF, OME-TIFF or DICOM."
_GIVE = "Give the slide itself, or its store"
_LOOKED_AT = 4096
"""Bytes in which a text file is expected to show what it is."""
_SHOWN = 3
"""Stores of a folder that are named."""


def drawn_here(head: bytes) -> str | None:
    """What a PNG is that wsikit drew, such as a map with its legend, and the next step; None for other pictures.

    >>> drawn_here(b"\\x89PNG and the pixels of a scanner") is None
    True
    """
    if head.startswith(b"\x89PNG") and b"tEXtSoftware\0wsikit" in head:
        return f"a picture of results drawn by wsikit, with title and legend, not a slide. {_GIVE}."
    return None


def what_it_may_be(path: str, head: bytes) -> str:
    """What an unknown file appears to be and the next step, in sentences. `head` are its first bytes, 132 or more."""
    found = _of_results(path, head)
    return found if found is not None else f"{_in_words(Path(path).suffix.lower(), head)}. {EXPORT}"


def which_folder(folder: Path) -> str:
    """What a folder is that is no slide, and the next step, in sentences."""
    if (folder / "run.json").is_file():
        stores = sorted(store.relative_to(folder).as_posix() for store in (folder / "slides").glob("*.zarr"))
        what = "results of wsikit run, not a slide"
    else:
        stores = sorted(store.name for store in folder.glob("*.zarr"))
        what = "a folder, not a slide"
    if stores:
        more = f" and {len(stores) - _SHOWN} more" if len(stores) > _SHOWN else ""
        return f"{what}. Give one of its stores: {', '.join(stores[:_SHOWN])}{more}."
    return f"{what}. Give a slide file, a .zarr made by wsikit tile, or an OME-Zarr image."


def _of_results(path: str, head: bytes) -> str | None:
    """Files that a run writes or reads next to slides."""
    suffix = Path(path).suffix.lower()
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"<":
        if b'name="generator" content="wsikit"' in _beginning(path):
            return f"a page of results by wsikit, not a slide: open it in a browser. {_GIVE}."
        return None
    if start[:1] == b"{":
        text = _beginning(path)
        if suffix == ".geojson" or b'"FeatureCollection"' in text or b'"Feature"' in text:
            return (
                "regions as GeoJSON, not a slide. Give the slide, and this file with --roi (wsikit run SLIDE --roi "
                "FILE -o OUT); or wsikit import FILE -o STORE."
            )
        return f"a JSON file, not a slide. {_GIVE}."
    if suffix in (".csv", ".tsv") and b"\0" not in head:
        return "a table, not a slide. Give a slide; a list of slides is given with --manifest (wsikit run)."
    return None


def _beginning(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_LOOKED_AT)


def _in_words(suffix: str, head: bytes) -> str:
    if head.startswith(b"ZISRAWFILE"):
        return "a Zeiss CZI that OpenSlide does not support"
    if head.startswith(b"%PDF"):
        return "a PDF document, not a slide"
    if head.startswith(b"PK\x03\x04"):
        return "a ZIP archive, not a slide; unpack it first"
    if head.startswith((b"\x1f\x8b", b"BZh", b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "a compressed file or archive, not a slide; unpack it first"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the slide itself; fetch it with git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, probably saved by a download that failed; not a slide"
    if head.startswith(b"SQLite format 3"):
        return "an SQLite database that OpenSlide does not support"
    if not head.strip(b"\0"):
        return "the file holds zeros only; its copy was probably interrupted"
    if suffix in (".dcm", ".dicom"):
        return "not a DICOM slide: it lacks the DICOM file header, or is not a whole-slide image"
    if suffix in (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif"):
        return f"damaged, or not a slide: it is named {suffix} but does not begin as such a file does"
    return "not a slide or picture of any format known here"
