"""Which reader opens a file: decided by the content of the file, not by its name. `info.reader` states the choice.

Built-in readers are asked first, then the plug-ins of the entry-point group `wsikit.readers` (see `wsikit.plugins`).
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsikit.errors import (
    BrokenSlideError,
    PluginError,
    RequestError,
    SlideError,
    UnsupportedSlideError,
    WsikitError,
)
from wsikit.plugins import load_plugin, plugin_names
from wsikit.slides.base import BaseSlide
from wsikit.slides.containers import container_fault, folder_fault
from wsikit.slides.formats.dicom.looks import HEAD_BYTES, looks_like_dicom
from wsikit.slides.formats.ome_zarr.nodes import is_store, is_zarr
from wsikit.slides.other_files import drawn_here, what_it_may_be, which_folder
from wsikit.slides.scenes import SceneLike, choose_scene
from wsikit.slides.types import MppLike, Slide
from wsikit.store.paths import is_url

logger = logging.getLogger(__name__)

READERS = {
    "tiff": "wsikit.slides.formats.tiff.reader:TiffSlide",
    "multichannel": "wsikit.slides.formats.tiff.channels:MultichannelTiffSlide",
    "ndpi": "wsikit.slides.formats.ndpi.reader:NdpiSlide",
    "dicom": "wsikit.slides.formats.dicom.reader:DicomSlide",
    "openslide": "wsikit.slides.formats.openslide:OpenSlideSlide",
    "tiffslide": "wsikit.slides.formats.tiffslide:TiffSlideSlide",
    "image": "wsikit.slides.formats.image:ImageSlide",
    "ome-zarr": "wsikit.slides.formats.ome_zarr.reader:OmeZarrSlide",
    "store": "wsikit.slides.store:SlideStore",
}
"""Built-in readers by name, best first."""

_READ_FOLDERS = frozenset({"ome-zarr", "store"})

_READ_BY_TILES = frozenset({None, "aperio", "generic-tiff", "philips"})
"""OpenSlide's vendor names of the TIFF files whose tiles do not overlap, so that wsikit reads them tile by tile."""

_READ_BY_TILES_IF_EQUAL = frozenset({"argos", "huron"})
"""OpenSlide's vendor names of TIFF files that are read tile by tile if tiles of each level agree with OpenSlide."""


def open_slide(
    path: str | os.PathLike[str],
    reader: str = "auto",
    *,
    mpp: MppLike | None = None,
    mpp_source: str = "option",
    scene: SceneLike | None = None,
) -> Slide:
    """Open a slide file or a SlideStore.

    Parameters
    ----------
    path
        SVS, tiled TIFF, OME-TIFF, NDPI, MIRAX, DICOM, …; PNG, JPEG, BMP; a folder of OME-Zarr; or a `.zarr` folder
        made by `wsikit tile`, which may be a URL, such as s3://bucket/slide.zarr.
    reader
        auto, tiff, multichannel, ndpi, dicom, openslide, tiffslide, image, ome-zarr, store, or the name of a plug-in.
        `auto` chooses by the content of the file; `info.reader` states the reader that was used.
    mpp
        µm per level-0 px, one number or (x, y), for a file that states none or a wrong one. It takes precedence over a
        sidecar file `<slide file>.json`, which takes precedence over the slide file.
    mpp_source
        Provenance recorded with `mpp`: option, manifest, assumed.
    scene
        Which of several main images of a file is read: its number from 0, or its name (`info.scenes`). By default the
        largest; of equally large ones, the first. A Leica SCN shows all its areas in one picture by default.

    Raises
    ------
    SlideError
        The file cannot be used as a slide: UnsupportedSlideError or BrokenSlideError, in one line.
    RequestError
        There is no such reader or scene, `mpp` is not a pixel size, or the reader is a plug-in that cannot be imported.

    >>> import os, tempfile
    >>> from PIL import Image
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "region.png")
    >>> Image.new("RGB", (640, 480), "pink").save(path)
    >>> with open_slide(path, mpp=0.5) as slide:
    ...     slide.dimensions, slide.info.reader, slide.read_region(100, 100, 224, 224, mpp=1.0).shape
    ((640, 480), 'image', (224, 224, 3))
    >>> folder.cleanup()
    """
    if reader != "auto" and reader not in READERS and reader not in _plugins():
        raise RequestError(f"there is no reader {reader!r}; choose auto or one of {', '.join(reader_names())}")
    name = os.fspath(path)
    if is_url(name):
        _check_remote(name, reader)
        return _open("store", name, mpp, mpp_source, scene)
    _check_exists(name)
    if reader == "auto":
        return _open_automatically(name, mpp, mpp_source, scene)
    try:
        return _open(reader, name, mpp, mpp_source, scene)
    except SlideError as error:
        can = _others(name, reader)
        if not can:
            # then the reader that fits the file explains best what is wrong
            choose_reader(name)
            raise
        # the next step is then another reader, not the advice of this one
        reason = str(error).removeprefix(f"{name}: ").partition(". ")[0]
        raise type(error)(
            f"{name}: reader {reader!r} cannot open it: {reason}. Readers that can: {', '.join(can)}."
        ) from error


def reader_names() -> tuple[str, ...]:
    """Names of all readers: the built-in ones, best first, then the installed plug-ins. Nothing is imported.

    >>> reader_names()[:4]
    ('tiff', 'multichannel', 'ndpi', 'dicom')
    """
    return (*READERS, *_plugins())


def choose_reader(path: str, scene: SceneLike | None = None) -> str:
    """Name of the best reader for `path`, by its first bytes and its structure; no pixels are read.

    Raises
    ------
    UnsupportedSlideError, BrokenSlideError
        No reader can open it. The message also names the plug-ins that cannot be imported.
    """
    if is_url(path):
        return "store"
    try:
        return _choose_built_in(path, scene)
    except UnsupportedSlideError as error:
        return _choose_plugin(path, error)


def _open_automatically(path: str, mpp: MppLike | None, mpp_source: str, scene: SceneLike | None) -> BaseSlide:
    reader = choose_reader(path, scene)
    logger.debug("%s: read with %s", path, reader)
    try:
        return _open(reader, path, mpp, mpp_source, scene)
    except UnsupportedSlideError as error:
        if reader not in READERS:
            raise
        plugin = _choose_plugin(path, error)
        logger.info("%s; read with the plug-in %s", error, plugin)
        return _open(plugin, path, mpp, mpp_source, scene)


def _choose_built_in(path: str, scene: SceneLike | None) -> str:
    if os.path.isdir(path):
        return _choose_for_folder(path)
    head = _head(path)
    if _is_dicom_slide(path, head):
        # also with the head of a TIFF in its preamble: the TIFF is one level, DICOM is the slide
        return "dicom"
    _check_own_pixels(path, head)
    if _is_tiff(head):
        return _choose_for_tiff(path, scene)
    if looks_like_dicom(head):
        return "dicom"  # its reader explains best what it is
    vendor = _openslide_vendor(path)
    if vendor is not None:
        return "openslide"
    if _is_picture(head):
        if (drawn := drawn_here(head)) is not None:
            raise UnsupportedSlideError(f"{path}: {drawn}")
        return "image"
    raise UnsupportedSlideError(f"{path}: {what_it_may_be(path, head)}")


def _plugins() -> tuple[str, ...]:
    """Names of the installed plug-in readers. A built-in reader's name always means the built-in reader."""
    return tuple(name for name in plugin_names("readers") if name not in READERS and name != "auto")


def plugin_suffixes() -> tuple[frozenset[str], list[str]]:
    """Endings of file names by which plug-in readers want to be found in folders, in lower case; and a sentence for
    each plug-in that cannot be asked.
    """
    found: set[str] = set()
    faults = []
    for name in _plugins():
        try:
            found.update(suffix.lower() for suffix in getattr(load_plugin("readers", name), "suffixes", ()))
        except PluginError as error:
            faults.append(f"slides of the reader {name!r} are not looked for: {error}")
    return frozenset(found), faults


def _choose_plugin(path: str, declined: UnsupportedSlideError) -> str:
    """The first plug-in that reads `path`; otherwise the built-in readers' error `declined` is raised.

    Plug-ins that cannot be imported, or fail when asked, are named in that error: one of them may be the reader that
    the user needs.
    """
    failures = []
    for name in _plugins():
        try:
            if _plugin_reads(name, path):
                return name
        except PluginError as error:
            failures.append(str(error))
    if not failures:
        raise declined
    raise UnsupportedSlideError(f"{declined} Not asked: {' '.join(failures)}") from declined


def _plugin_reads(name: str, path: str) -> bool:
    """Whether the plug-in `name` reads the file or folder at `path`."""
    reader = load_plugin("readers", name)
    _check_name(name, getattr(reader, "reader", name))
    reads = getattr(reader, "reads", None)
    if reads is None:
        raise PluginError(f"plug-in {name!r} for wsikit.readers has no method reads(path, head).")
    try:
        return bool(reads(path, b"" if os.path.isdir(path) else _head(path)))
    except Exception as error:  # a plug-in may fail in any way; the other readers must still be asked
        raise PluginError(
            f"plug-in {name!r} for wsikit.readers failed in reads(): {type(error).__name__}: {error}."
        ) from error


def reader_class(name: str) -> Callable[..., BaseSlide]:
    """The class behind a reader's name, called as (path, mpp=…, mpp_source=…). Its libraries are imported here.

    Raises
    ------
    PluginError
        `name` is neither a built-in reader nor an installed plug-in, or the plug-in cannot be imported.
    """
    found: Any
    if name in READERS:
        module, attribute = READERS[name].split(":")
        found = getattr(importlib.import_module(module), attribute)
    else:
        found = load_plugin("readers", name)
    opener: Callable[..., BaseSlide] = found
    return opener


def _open(reader: str, path: str, mpp: MppLike | None, mpp_source: str, scene: SceneLike | None = None) -> BaseSlide:
    opener = reader_class(reader)
    if reader in READERS and os.path.isfile(path):
        _check_own_pixels(path, _head(path))
    chosen: dict[str, Any] = {}
    if scene is not None and getattr(opener, "has_scenes", False):
        chosen["scene"] = scene
    elif scene is not None:
        choose_scene(path, [""], scene, 0)  # a reader without scenes reads the only one
    try:
        slide = opener(path, mpp=mpp, mpp_source=mpp_source, **chosen)
    except PermissionError:
        raise SlideError(f"{path}: you may not read this file. Ask its owner for permission.") from None
    except WsikitError:
        raise
    except Exception as error:
        if reader in READERS:
            raise
        # a plug-in may fail in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise BrokenSlideError(f"{path}: the plug-in reader {reader!r} cannot open it ({reason}).") from error
    if slide.info.reader != reader:
        slide.close()
        _check_name(reader, slide.info.reader)
    return slide


def _check_name(plugin: str, stated: str) -> None:
    """A reader must be named as its entry point is: stores record the name, and open their source by it."""
    if stated != plugin:
        raise PluginError(
            f"plug-in {plugin!r} for wsikit.readers calls itself {stated!r}: reader and the entry point need one name."
        )


def _others(path: str, refused: str) -> list[str]:
    """The other readers that can open the file, for the error of a reader that was chosen by name."""
    can = []
    for name in reader_names():
        if name == refused:
            continue
        if name in READERS and name != "dicom" and (name in _READ_FOLDERS) != os.path.isdir(path):
            continue
        try:
            if name not in READERS and not _plugin_reads(name, path):
                continue
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


def _check_own_pixels(path: str, head: bytes) -> None:
    """UnsupportedSlideError if the pixels of a slide are not in this file; what it shows can be the label."""
    fault = container_fault(path, head)
    if fault is not None:
        raise UnsupportedSlideError(f"{path}: {fault}")


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise SlideError(f"{path}: there is no such file. Check the spelling, and that the drive is mounted.")
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise BrokenSlideError(f"{path}: the file is empty. Copy it again from its source.")


def _choose_for_folder(path: str) -> str:
    folder = Path(path)
    if folder.suffix == ".zarr" or is_zarr(folder):
        return "ome-zarr" if is_zarr(folder) and not is_store(folder) else "store"
    from wsikit.slides.formats.dicom.reader import folder_slides

    slides = folder_slides(folder)
    if len(slides) == 1:
        return "dicom"
    if slides:
        names = ", ".join(slide.name for slide in slides[:3])
        raise UnsupportedSlideError(f"{path}: a folder of {len(slides)} DICOM slides. Give one of them: {names}.")
    dicom = sorted(folder.glob("*.dcm"))
    if dicom:
        raise UnsupportedSlideError(f"{path}: a folder of DICOM files. Give one of them, such as {dicom[0].name}.")
    fault = folder_fault(path)
    if fault is not None:
        raise UnsupportedSlideError(f"{path}: {fault}")
    raise UnsupportedSlideError(f"{path}: {which_folder(folder)}")


def _choose_for_tiff(path: str, scene: SceneLike | None) -> str:
    from wsikit.slides.formats.tiff.directories import check_directories

    check_directories(path)
    vendor = _openslide_vendor(path)
    if vendor == "hamamatsu":
        return _choose_for_ndpi(path)
    if vendor in _READ_BY_TILES_IF_EQUAL:
        return "tiff" if scene is not None else _choose_by_agreement(path)
    if vendor not in _READ_BY_TILES:
        return "openslide"
    from wsikit.slides.formats.tiff.channel_layout import holds_channels
    from wsikit.slides.formats.tiff.layout import is_aperio_ycbcr, tile_compression

    if vendor in (None, "generic-tiff") and holds_channels(path, scene):
        return "multichannel"
    compression = tile_compression(path, scene)
    if compression is None:
        # OpenSlide would take a reduced image in tiles for the slide
        return "image" if vendor in (None, "generic-tiff") else "openslide"
    # Aperio's YCbCr may have colour at half the resolution, which OpenSlide enlarges as Aperio's software does
    return "openslide" if vendor == "aperio" and is_aperio_ycbcr(path) else "tiff"


def _choose_by_agreement(path: str) -> str:
    from wsikit.slides.formats.tiff.agreement import disagreement

    reason = disagreement(path)
    if reason is None:
        return "tiff"
    logger.info("%s: %s; read with OpenSlide", path, reason)
    return "openslide"


def _choose_for_ndpi(path: str) -> str:
    from wsikit.slides.formats.ndpi.layout import read_ndpi_layout

    try:
        read_ndpi_layout(path, "ndpi")
    except SlideError as error:
        logger.info("%s; read with OpenSlide", error)
        return "openslide"
    return "ndpi"


def _openslide_vendor(path: str) -> str | None:
    import openslide

    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except PermissionError:
        raise SlideError(f"{path}: you may not read this file. Ask its owner for permission.") from None


def _is_tiff(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_picture(head: bytes) -> bool:
    magic = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"GIF8", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
    if head.startswith((*magic, b"\xff\x0a", b"\0\0\0\x0cJXL ")):  # the last two are JPEG XL
        return True
    # AVIF is read; for HEIC the reader of pictures explains that it is not
    brands = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
    return (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or (head[4:8] == b"ftyp" and head[8:12] in brands)


def _is_dicom_slide(path: str, head: bytes) -> bool:
    """Whether a file is a level, the label or the overview of a DICOM slide."""
    if not looks_like_dicom(head):
        return False
    from wsikit.slides.formats.dicom.header import read_header
    from wsikit.slides.formats.dicom.kinds import is_slide_class

    header = read_header(path)
    return header is not None and is_slide_class(header.sop_class) and (bool(header.sop_class) or min(header.size) > 0)
