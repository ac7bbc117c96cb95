"""Which reader opens a file: decided by what the file is, not by its name. Never falls back unsaid."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from wsikit.errors import BrokenSlideError, RequestError, SlideError, UnsupportedSlideError, WsikitError
from wsikit.slides.base import BaseSlide, MppLike, Slide
from wsikit.store.paths import is_url

logger = logging.getLogger(__name__)

READERS = {
    "tiff": "wsikit.slides.formats.tiff.reader:TiffSlide",
    "ndpi": "wsikit.slides.formats.ndpi.reader:NdpiSlide",
    "dicom": "wsikit.slides.formats.dicom.reader:DicomSlide",
    "openslide": "wsikit.slides.formats.openslide:OpenSlideSlide",
    "tiffslide": "wsikit.slides.formats.tiffslide:TiffSlideSlide",
    "image": "wsikit.slides.formats.image:ImageSlide",
    "store": "wsikit.slides.store:SlideStore",
}
"""Readers by name, best first."""

_TILED_FOR_US = frozenset({None, "aperio", "generic-tiff", "philips"})
"""What OpenSlide calls the TIFF files whose tiles lie side by side, so that we read them tile by tile ourselves."""

EXPORT = "Export the slide from the scanner's software as SVS, tiled TIFF, OME-TIFF or DICOM."


def open_slide(
    path: str | os.PathLike[str],
    reader: str = "auto",
    *,
    mpp: MppLike | None = None,
    mpp_source: str = "option",
) -> Slide:
    """Open a slide file or a SlideStore.

    Parameters
    ----------
    path
        SVS, tiled TIFF, OME-TIFF, NDPI, MIRAX, DICOM, …; PNG, JPEG, BMP; or a `.zarr` folder made by `wsikit tile`,
        which may lie at a URL, such as s3://bucket/slide.zarr.
    reader
        auto, tiff, ndpi, dicom, openslide, tiffslide, image or store. `auto` picks by what the file is; `info.reader`
        says which.
    mpp
        µm per level-0 px, one number or (x, y), where the file states none or a wrong one. It goes before a sidecar
        file `<slide file>.json`, and that before what the file states.
    mpp_source
        Provenance recorded with `mpp`: option, manifest, assumed.

    Raises
    ------
    SlideError
        The file cannot be used as a slide: UnsupportedSlideError or BrokenSlideError, in one line.
    RequestError
        There is no such reader, or `mpp` is not a pixel size.
    """
    if reader != "auto" and reader not in READERS:
        raise RequestError(f"there is no reader {reader!r}; choose auto or one of {', '.join(READERS)}")
    name = os.fspath(path)
    if is_url(name):
        _check_remote(name, reader)
        return _open("store", name, mpp, mpp_source)
    _check_exists(name)
    if reader == "auto":
        reader = choose_reader(name)
        logger.debug("%s: read with %s", name, reader)
        return _open(reader, name, mpp, mpp_source)
    try:
        return _open(reader, name, mpp, mpp_source)
    except SlideError as error:
        can = _others(name, reader)
        if not can:
            # then what is wrong is best said by the reader that fits the file
            choose_reader(name)
            raise
        # what to do is then not what the reader advised but another reader
        reason = str(error).removeprefix(f"{name}: ").partition(". ")[0]
        raise type(error)(
            f"{name}: reader {reader!r} cannot open it: {reason}. Readers that can: {', '.join(can)}."
        ) from error


def choose_reader(path: str) -> str:
    """Name of the best reader for what lies at `path`. Looks at its first bytes and its structure, not at pixels.

    Raises
    ------
    UnsupportedSlideError, BrokenSlideError
        No reader can open it.
    """
    if is_url(path):
        return "store"
    if os.path.isdir(path):
        return _choose_for_folder(path)
    head = _head(path)
    if _is_tiff(head):
        return _choose_for_tiff(path)
    vendor = _openslide_vendor(path)
    if vendor is not None:
        return "dicom" if vendor == "dicom" else "openslide"
    if _is_picture(head):
        return "image"
    if _is_dicom(head):
        # OpenSlide says best what is wrong with it
        return "openslide"
    raise UnsupportedSlideError(f"{path}: {_what_it_may_be(path, head)}. {EXPORT}")


def reader_class(name: str) -> Callable[..., BaseSlide]:
    """The class behind a reader's name, called as (path, mpp=…, mpp_source=…). Its libraries are imported here."""
    module, attribute = READERS[name].split(":")
    found: Callable[..., BaseSlide] = getattr(importlib.import_module(module), attribute)
    return found


def _open(reader: str, path: str, mpp: MppLike | None, mpp_source: str) -> BaseSlide:
    opener = reader_class(reader)
    try:
        return opener(path, mpp=mpp, mpp_source=mpp_source)
    except PermissionError:
        raise SlideError(f"{path}: you may not read this file. Ask its owner for permission.") from None


def _others(path: str, refused: str) -> list[str]:
    """Which other readers open the file: for the error of a reader that was asked for by name."""
    can = []
    for name in READERS:
        if name == refused or (name == "store") != os.path.isdir(path):
            continue
        try:
            _open(name, path, None, "option").close()
        except (WsikitError, OSError) as error:
            logger.debug("%s: reader %s cannot open it either: %s", path, name, error)
        else:
            can.append(name)
    return can


def _check_remote(path: str, reader: str) -> None:
    if reader not in ("auto", "store") or Path(path).suffix != ".zarr":
        raise UnsupportedSlideError(
            f"{path}: only slide stores (.zarr) are read from a URL, not slide files. Copy the file to a disk first."
        )


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise SlideError(f"{path}: there is no such file. Check the spelling, and that the drive is mounted.")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise BrokenSlideError(f"{path}: the file is empty. Copy it again from its source.")


def _choose_for_folder(path: str) -> str:
    folder = Path(path)
    if folder.suffix == ".zarr" or (folder / "zarr.json").is_file():
        return "store"
    dicom = sorted(folder.glob("*.dcm"))
    if dicom:
        raise UnsupportedSlideError(f"{path}: a folder of DICOM files. Give one of them, such as {dicom[0].name}.")
    if folder.with_name(folder.name + ".mrxs").is_file():
        raise UnsupportedSlideError(f"{path}: the data folder of a MIRAX slide. Give {folder.name}.mrxs beside it.")
    raise UnsupportedSlideError(f"{path}: a folder, not a slide. Give a slide file, or a .zarr made by wsikit tile.")


def _choose_for_tiff(path: str) -> str:
    vendor = _openslide_vendor(path)
    if vendor == "hamamatsu":
        return _choose_for_ndpi(path)
    if vendor not in _TILED_FOR_US:
        return "openslide"
    from wsikit.slides.formats.tiff.layout import APERIO_J2K_YCBCR, tile_compression

    compression = tile_compression(path)
    if compression is None:
        return "openslide" if vendor is not None else "image"
    # OpenSlide knows how Aperio halves the colour channels in this one; OpenJPEG alone does not
    return "openslide" if compression == APERIO_J2K_YCBCR else "tiff"


def _choose_for_ndpi(path: str) -> str:
    from wsikit.slides.formats.ndpi.layout import read_ndpi_layout

    try:
        read_ndpi_layout(path, "ndpi")
    except SlideError as error:
        logger.info("%s; left to OpenSlide", error)
        return "openslide"
    return "ndpi"


def _openslide_vendor(path: str) -> str | None:
    import openslide

    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(132)
    except PermissionError:
        raise SlideError(f"{path}: you may not read this file. Ask its owner for permission.") from None


def _is_tiff(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_picture(head: bytes) -> bool:
    magic = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"\0\0\0\x0cjP  ")
    return head.startswith(magic) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_dicom(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def _what_it_may_be(path: str, head: bytes) -> str:
    """What an unknown file seems to be, in words."""
    suffix = Path(path).suffix.lower()
    if head.startswith(b"ZISRAWFILE"):
        return "a Zeiss CZI that OpenSlide does not know"
    if head.startswith(b"%PDF"):
        return "a PDF document, not a slide"
    if head.startswith(b"PK\x03\x04"):
        return "a ZIP archive, not a slide; unpack it first"
    if not head.strip(b"\0"):
        return "the file holds zeros only; its copy was probably interrupted"
    if suffix in (".dcm", ".dicom"):
        return "not a DICOM slide: it lacks the DICOM file header, or is no whole-slide image"
    if suffix in (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif"):
        return f"damaged, or not a slide: it is named {suffix} but does not begin as such a file does"
    return "not a slide or picture of any format known here"
