"""Slides read by OpenSlide: MIRAX, Leica, Ventana, uncommon DICOM and NDPI, … Positions are px of the level read.

After one failed read, OpenSlide refuses all further reads with the same handle; the handle is then replaced.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import openslide
import tifffile
from PIL import ImageCms

from wsikit.errors import BrokenSlideError, ReadError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides.base import BaseSlide, MppLike, Pixels, Size, SlideInfo, true_downsamples
from wsikit.slides.formats import leica, openslide_tiles
from wsikit.slides.formats.openslide_areas import in_scene, scanned_areas
from wsikit.slides.formats.tiff.directories import check_tile_bytes
from wsikit.slides.formats.tiff.samples import samples_of
from wsikit.slides.properties import allowed
from wsikit.slides.scale import UNKNOWN, Scale, stated, stated_text
from wsikit.slides.scenes import SceneLike
from wsikit.slides.to_rgb import over_white

logger = logging.getLogger(__name__)

_MPP_SOURCES = {
    "aperio": "vendor property aperio.MPP",
    "dicom": "DICOM PixelSpacing",
    "generic-tiff": "TIFF XResolution",
    "hamamatsu": "TIFF XResolution",
    "leica": "TIFF XResolution",
    "mirax": "vendor property MICROMETER_PER_PIXEL",
    "philips": "vendor property DICOM_PIXEL_SPACING",
    "trestle": "TIFF XResolution",
    "ventana": "vendor property ventana.ScanRes",
    "zeiss": "CZI scaling",
}
"""Source of openslide.mpp-x, by vendor."""

_MPP_FIELDS = {
    "aperio": ("aperio.MPP",),
    "mirax": tuple(f"mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_{axis}" for axis in "XY"),
    "ventana": ("ventana.ScanRes",),
}
"""Fields in which a vendor states the pixel size in µm."""

_READ_PX = 1 << 26
"""Pixels per call: OpenSlide returns 4 bytes per pixel, and very large single reads are not exact in cairo."""


class OpenSlideSlide(BaseSlide):
    """A slide read by OpenSlide. Exact at level 0; at other levels OpenSlide can interpolate by a fraction of a pixel.

    OpenSlide detects most damaged JPEG tiles, but not those whose bytes still decode to wrong pixels. `auto` uses this
    reader only for formats that wsikit's own readers do not support.
    """

    reader: ClassVar[str] = "openslide"

    has_scenes: ClassVar[bool] = True

    def __init__(
        self,
        path: str,
        *,
        mpp: MppLike | None = None,
        mpp_source: str = "option",
        scene: SceneLike | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._closed = False
        check_tile_bytes(path)
        handle = _open(path)
        self._handle: openslide.OpenSlide | None = handle
        try:
            _check_samples(path, handle)
            if handle.properties.get(openslide.PROPERTY_NAME_VENDOR) == "leica":
                leica.check_sizes(path)
            info, self._corner = in_scene(
                _info(path, self.reader, handle),
                scanned_areas(handle.properties),
                handle.level_downsamples,
                scene,
            )
            super().__init__(info, mpp=mpp, mpp_source=mpp_source, scene=scene)
            self._check_readable()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        # not handle.close(): another thread may be reading with it; it closes with its last reference
        with self._lock:
            self._closed, self._handle = True, None

    def pass_through_fault(self, level: int) -> str | None:
        """Why a store cannot keep the tiles of `level` as they are, as the end of a sentence."""
        return self._fault

    @cached_property
    def _fault(self) -> str:
        return openslide_tiles.pass_through_fault(self.path, self.info.vendor)

    def _read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        rows = max(1, _READ_PX // width)
        if height <= rows:
            return self._read_part(level, x, y, width, height)
        parts = [
            self._read_part(level, x, top, width, min(rows, y + height - top)) for top in range(y, y + height, rows)
        ]
        return np.concatenate(parts)

    def _read_part(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        handle = self._shared_handle()
        try:
            return _read(handle, level, self._corner, x, y, width, height)
        except openslide.OpenSlideError:
            # this region may be damaged, or another one that another thread read with the same handle
            self._exchange(handle, None)
        try:
            own = _open(self.path)
            pixels = _read(own, level, self._corner, x, y, width, height)
        except (openslide.OpenSlideError, SlideError) as error:
            raise ReadError(self.path, level, (x, y, width, height), _without_path(error, self.path)) from error
        self._exchange(None, own)
        return pixels

    def _read_associated(self, name: str) -> Pixels:
        handle = _open(self.path)
        try:
            return _rgb(np.asarray(handle.associated_images[name]))
        except openslide.OpenSlideError as error:
            reason = f"associated image {name}: {_without_path(error, self.path)}"
            raise ReadError(self.path, 0, (0, 0, 0, 0), reason) from error

    def _shared_handle(self) -> openslide.OpenSlide:
        with self._lock:
            if self._closed:
                raise RequestError(f"{self.path}: the slide is closed; open it again")
            if self._handle is None:
                self._handle = _open(self.path)
            return self._handle

    def _exchange(self, old: openslide.OpenSlide | None, new: openslide.OpenSlide | None) -> None:
        """Replace the shared handle `old` with `new`, unless another thread has already replaced it."""
        with self._lock:
            if self._handle is old and not self._closed:
                self._handle = new


def _open(path: str) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise UnsupportedSlideError(
            f"{path}: not a slide format that OpenSlide can read. Export it from the scanner's software as SVS, "
            "tiled TIFF or DICOM."
        ) from error
    except openslide.OpenSlideError as error:
        raise _refusal(path, _without_path(error, path)) from error


def _check_samples(path: str, handle: openslide.OpenSlide) -> None:
    """Refuse a plain TIFF whose fourth sample is not stated to be alpha: libtiff takes it for alpha all the same."""
    if handle.properties.get(openslide.PROPERTY_NAME_VENDOR) != "generic-tiff":
        return
    try:
        with tifffile.TiffFile(path) as tiff:
            samples = samples_of(tiff.pages[0].aspage())
    except Exception as error:  # OpenSlide has opened it; tifffile has more demands
        logger.debug("%s: its samples are not examined: %s", path, error)
        return
    if samples.per_pixel > samples.colours and samples.alpha is None:
        raise UnsupportedSlideError(
            f"{path}: a TIFF of {samples.per_pixel} samples per px, none of them stated to be alpha, of which "
            "OpenSlide would take one for alpha. Open it with reader='tiff'."
        )


def _read(handle: openslide.OpenSlide, level: int, corner: Size, x: int, y: int, width: int, height: int) -> Pixels:
    # OpenSlide expects level-0 px and divides them by its own ratio, the mean over both axes
    ratio = handle.level_downsamples[level]
    region = handle.read_region((corner[0] + round(x * ratio), corner[1] + round(y * ratio)), level, (width, height))
    return _rgb(np.asarray(region))


def _rgb(rgba: np.ndarray) -> Pixels:
    """OpenSlide returns areas that were not scanned as transparent: here they are white, like glass.

    The library itself premultiplies colours with alpha; its Python binding has already divided by alpha again.
    """
    return over_white(rgba[..., :3], rgba[..., 3])


def _info(path: str, reader: str, handle: openslide.OpenSlide) -> SlideInfo:
    properties = handle.properties
    vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
    width, height = handle.dimensions
    scale = _scale(properties, vendor)
    info = SlideInfo(
        path=path,
        reader=reader,
        vendor=vendor,
        kind="tiled",
        dimensions=(width, height),
        level_dimensions=tuple(handle.level_dimensions),
        level_downsamples=true_downsamples(handle.level_dimensions),
        mpp=scale.mpp,
        mpp_source=scale.source,
        mpp_fault=scale.fault,
        mpp_literal=scale.literal,
        magnification=_number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
        tile_px=_tile_px(properties),
        compression=_DICOM_COMPRESSIONS.get(properties.get("dicom.TransferSyntaxUID", "")),
        associated=tuple(sorted(name for name in handle.associated_images if name in ("label", "macro", "thumbnail"))),
        icc_profile=_icc_profile(path, handle),
        properties=allowed(properties),
    )
    return replace(info, notes=_notes(info))


def _notes(info: SlideInfo) -> tuple[str, ...]:
    if info.bounds is None or info.bounds == (0, 0, *info.dimensions):
        return ()
    x, y, width, height = info.bounds
    return (
        f"The file states a scanned area (openslide.bounds): {width} × {height} px from x={x}, y={y}. QuPath and "
        "others show only this, and their coordinates count from its corner.",
    )


def _icc_profile(path: str, handle: openslide.OpenSlide) -> bytes | None:
    try:
        profile = handle.color_profile
    except ImageCms.PyCMSError as error:
        logger.warning("%s: its colour profile is damaged and left out (%s)", path, error)
        return None
    return profile.tobytes() if profile is not None else None


_DICOM_COMPRESSIONS = {
    "1.2.840.10008.1.2": "none",
    "1.2.840.10008.1.2.1": "none",
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}


def _scale(properties: Mapping[str, str], vendor: str) -> Scale:
    source = _MPP_SOURCES.get(vendor, f"vendor property ({vendor})")
    fields = [key for key in _MPP_FIELDS.get(vendor, ()) if key in properties]
    literal = ", ".join(f"{key.rpartition('.')[2]} = {properties[key]}" for key in fields)
    mpp_x = _number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    mpp_y = _number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    if mpp_x and mpp_y and mpp_x > 0 and mpp_y > 0:
        return stated(mpp_x, mpp_y, source, literal)
    # OpenSlide reads numbers with a point or a comma; with units or spaces it states none
    if fields:
        return stated_text(properties[fields[0]], properties[fields[-1]], source, literal)
    return Scale(
        None, UNKNOWN, literal=f"AppMag = {properties['aperio.AppMag']}" if "aperio.AppMag" in properties else ""
    )


def _tile_px(properties: Mapping[str, str]) -> Size | None:
    width, height = (properties.get(f"openslide.level[0].tile-{side}") for side in ("width", "height"))
    return (int(width), int(height)) if width and height else None


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _without_path(error: Exception, path: str) -> str:
    """OpenSlide's message on one line, without the path, which is added by the caller."""
    words = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split()))
    return re.sub(rf"(Reading )?{re.escape(path)}: ", "", words)


_REFUSALS: tuple[tuple[str, type[SlideError], str], ...] = (
    (
        r"Unsupported photometric interpretation (\S+) for (\S+)",
        UnsupportedSlideError,
        "a DICOM file whose colours are coded in a way that OpenSlide does not support ({0}). "
        "Convert it to a DICOM slide with RGB or YBR_FULL_422 frames, or to a tiled TIFF.",
    ),
    (
        r"Couldn't get image flavor|Unsupported image flavor",
        UnsupportedSlideError,
        "a DICOM file that does not state which image of a slide it is (ImageType is empty or wrong). "
        "Export it again as a DICOM whole-slide image with ImageType VOLUME.",
    ),
    (
        r"Slide contains unexpected image",
        UnsupportedSlideError,
        "a DICOM series in whose folder several files hold the same level (copies of one file, focal planes or "
        "colours). Leave one of them in the folder.",
    ),
    (
        r"Attribute TotalPixelMatrixFocalPlanes value (\d+)",
        UnsupportedSlideError,
        "a DICOM slide of {0} focal planes, of which OpenSlide reads none. "
        "Export one plane from the scanner's software.",
    ),
    (
        r"Found only one SOP instance in concatenation",
        BrokenSlideError,
        "one part of a DICOM image that is split into several files; the others are missing. Copy all of them into one "
        "folder.",
    ),
    (
        r"Unsupported transfer syntax (\S+)",
        UnsupportedSlideError,
        "a DICOM file of transfer syntax {0}, which OpenSlide does not decode. Convert it to JPEG baseline "
        "(1.2.840.10008.1.2.4.50) or JPEG 2000 (1.2.840.10008.1.2.4.91).",
    ),
    (
        r'Unrecognized subblock dimension "(\w+)"',
        UnsupportedSlideError,
        "a Zeiss CZI with dimension {0}, as time series and multi-block acquisitions have; only plain slide scans can "
        "be read. Export the scene from ZEN as OME-TIFF (RGB, tiled).",
    ),
    (
        r"Unsupported TIFF compression: (\d+)",
        UnsupportedSlideError,
        "its tiles are compressed by method {0}, which OpenSlide does not decode. "
        "Convert it to a tiled TIFF with JPEG.",
    ),
)


def _refusal(path: str, words: str) -> SlideError:
    """The error for OpenSlide's message, with an explanation and the next step."""
    for pattern, kind, text in _REFUSALS:
        found = re.search(pattern, words)
        if found:
            return kind(f"{path}: {text.format(*found.groups())}")
    return BrokenSlideError(
        f"{path}: damaged or incomplete, OpenSlide cannot open it ({words}). Copy it again from its source."
    )
