"""Structure of a tiled TIFF slide: position and coding of its tiles, read once with tifffile. No pixels."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.errors import BrokenSlideError, SlideError, UnsupportedSlideError
from wsikit.slides.base import SlideInfo, true_downsamples
from wsikit.slides.formats.tiff import philips
from wsikit.slides.formats.tiff.metadata import read_metadata
from wsikit.slides.formats.tiff.vendors import find_vendor, other_images

logger = logging.getLogger(__name__)
# tifffile logs irregularities of a file; without a handler Python would print them on the terminal
logging.getLogger("tifffile").addHandler(logging.NullHandler())

CONVERT = "Convert it first (for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg --Q 90)."

COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32946: "deflate",
    33003: "JPEG 2000 (YCbCr)",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    50000: "Zstandard",
    50001: "WebP",
}
_NO_COLOUR_TRANSFORM = ("none", "LZW", "deflate", "Zstandard")
JPEG = 7
APERIO_J2K_YCBCR = 33003
JPEG_2000 = (33003, 33005, 34712)

GREY_0_IS_WHITE, _GREY, RGB, YCBCR = 0, 1, 2, 6
_PHOTOMETRIC_WORDS = {3: "palette colours", 4: "a transparency mask", 5: "CMYK colours", 8: "CIELab colours"}

_OTHER_READERS = {
    "is_ndpi": "a Hamamatsu NDPI, which stores each level as one JPEG and not in tiles",
    "is_bif": "a Ventana BIF, whose tiles overlap",
    "is_scn": "a Leica SCN, which holds several scanned areas on one slide",
}
"""tifffile's flags of TIFF slides that are not plain grids of tiles."""


@dataclass(frozen=True)
class TiffLevel:
    """One level of a tiled TIFF. Tiles are numbered row by row; planes, if separate, one after the other."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    stored_columns: int
    stored_rows: int
    """Rows and columns of tiles in the file: more than `width` and `height` need in a Philips TIFF (padded levels)."""
    offsets: npt.NDArray[np.int64]
    """Byte offset of each tile in the file."""
    counts: npt.NDArray[np.int64]
    """Number of bytes of each tile; 0 if it is not stored, which the format defines as an empty tile."""
    planes: int
    """1 if a tile has all its channels, else the number of channels, which are stored in separate tiles."""
    compression: int
    """TIFF compression code, a key of COMPRESSIONS."""
    grey: bool
    """True if a tile has one channel."""
    photometric: int
    """TIFF code of the colour space."""
    ycbcr: bool
    """True if the decoder returns YCbCr, which must then be converted to RGB."""
    jpeg_tables: bytes | None
    """Value of JPEGTables: quantisation and Huffman tables shared by the JPEG tiles of the level."""
    decode: Callable[..., tuple[npt.NDArray[Any] | None, Any, Any]]
    """tifffile's decoder of one tile: (bytes, number, jpegtables=…) → samples (1, h, w, channels)."""

    def tile_number(self, column: int, row: int, plane: int = 0) -> int:
        """Index of a tile in `offsets` and `counts`."""
        return (plane * self.stored_rows + row) * self.stored_columns + column

    def byte_range(self, number: int) -> tuple[int, int]:
        """Offset and number of bytes of a tile in the file; no bytes if the file does not store the tile."""
        return int(self.offsets[number]), int(self.counts[number])


@dataclass(frozen=True)
class TiffLayout:
    """A tiled TIFF slide: its facts and its levels (finest first)."""

    info: SlideInfo
    levels: tuple[TiffLevel, ...]
    white_level: int
    """Sample value that becomes 255."""
    associated_pages: dict[str, int]
    """Name of each associated image and the number of its directory."""


def read_layout(path: str, reader: str) -> TiffLayout:
    """The layout of a tiled TIFF slide.

    Raises
    ------
    UnsupportedSlideError
        The file is not tiled, or this reader does not decode its type of tiles.
    BrokenSlideError
        The TIFF structure is damaged.
    """
    try:
        # tifffile would crop the levels of a Philips TIFF by a rule that differs slightly from OpenSlide's
        with tifffile.TiffFile(path, is_philips=False) as tiff:
            return _layout(path, reader, tiff)
    except (SlideError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


def tile_compression(path: str) -> int | None:
    """Compression code of the tiles of a TIFF slide's finest level; None if it is not stored in tiles."""
    try:
        with tifffile.TiffFile(path) as tiff:
            page = _main_series(tiff).keyframe
            return int(page.compression) if page.is_tiled else None
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


def structure_fault(path: str, error: Exception) -> str:
    """What is wrong with the structure of a file, as text, and the next step."""
    with open(path, "rb") as file:
        head = file.read(16)
        size = file.seek(0, 2)
    start = first_directory(head)
    if start is None:
        return "not a TIFF file. Open it with reader='auto'."
    if start >= size:
        what = f"the file is cut off: it has {size} bytes, and its directory should begin at byte {start}"
    else:
        what = f"the TIFF structure is damaged ({type(error).__name__}: {' '.join(str(error).split())})"
    return f"{what}. Copy it again from its source."


def first_directory(head: bytes) -> int | None:
    """Byte offset of the first directory, from a file's first 16 bytes; None if the file is not a TIFF."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    version = struct.unpack(order + "H", head[2:4])[0]
    if version == 42:
        return int(struct.unpack(order + "I", head[4:8])[0])
    if version == 43:
        return int(struct.unpack(order + "Q", head[8:16])[0])
    return None


def _layout(path: str, reader: str, tiff: tifffile.TiffFile) -> TiffLayout:
    if not tiff.pages:
        raise BrokenSlideError(f"{path}: a TIFF file without any image. Copy it again from its source.")
    for flag, words in _OTHER_READERS.items():
        if getattr(tiff, flag):
            better = "ndpi" if flag == "is_ndpi" else "openslide"
            raise UnsupportedSlideError(f"{path}: {words}. Open it with reader='{better}'.")
    main = _main_series(tiff)
    page = main.keyframe
    fault = refusal(page, main, tiled=True)
    if fault is not None:
        raise UnsupportedSlideError(f"{path}: {fault}")
    description = philips.describe(tiff)
    levels = _levels(path, tiff, main) if description is None else _philips_levels(path, tiff, description)
    metadata = read_metadata(tiff, page, description)
    white = white_level(page, metadata.significant_bits)
    associated = _associated(tiff, main)
    level_dimensions = tuple((level.width, level.height) for level in levels)
    width, height = level_dimensions[0]
    properties = dict(metadata.properties)
    if white != 255:
        properties["wsikit.white-level"] = str(white)
    info = SlideInfo(
        path=path,
        reader=reader,
        vendor=metadata.vendor,
        kind="tiled",
        dimensions=(width, height),
        level_dimensions=level_dimensions,
        level_downsamples=true_downsamples(level_dimensions),
        mpp=metadata.scale.mpp,
        mpp_source=metadata.scale.source,
        magnification=metadata.magnification,
        tile_px=(levels[0].tile_width, levels[0].tile_height),
        compression=COMPRESSIONS[levels[0].compression],
        associated=tuple(associated if description is None else description.associated),
        icc_profile=metadata.icc_profile,
        properties=properties,
    )
    return TiffLayout(info, levels, white, associated)


def _main_series(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The series of the slide itself: the first in a scanner's file, the largest in an OME file of several images."""
    if tiff.is_ome:
        return max(tiff.series, key=lambda series: series.keyframe.imagewidth * series.keyframe.imagelength)
    return tiff.series[0]


def refusal(page: tifffile.TiffPage, series: tifffile.TiffPageSeries, *, tiled: bool) -> str | None:
    """Why an image cannot be read as a slide in tiles (or in strips), with the next step; or None."""
    code = int(page.compression)
    if code not in COMPRESSIONS:
        return (
            f"its pixels are compressed by method {code}, for which there is no decoder here. "
            "If that is not an error in the file, export the slide again with JPEG compression."
        )
    if page.is_tiled != tiled:
        return f"a TIFF in strips, not in tiles. {CONVERT}" if tiled else "a TIFF in tiles. Open it with reader='tiff'."
    fault = _unfit_samples(page, series)
    return None if fault is None else f"{fault}. {CONVERT}"


def _unfit_samples(page: tifffile.TiffPage, series: tifffile.TiffPageSeries) -> str | None:
    """What is wrong with the channels and the sample type of an image, as text, or None."""
    channels = math.prod(series.shape[series.axes.index(axis)] for axis in series.axes if axis not in "YXS")
    if channels > 1:
        return f"an image of {channels} channels or planes ({series.axes}), where RGB or one grey channel is expected"
    if page.dtype is None or page.dtype.kind != "u" or page.dtype.itemsize > 2:
        return f"samples of type {page.dtype}, where 8- or 16-bit unsigned numbers are expected"
    photometric = int(page.photometric)
    if photometric not in (GREY_0_IS_WHITE, _GREY, RGB, YCBCR):
        words = _PHOTOMETRIC_WORDS.get(photometric, f"colours of TIFF type {photometric}")
        return f"an image with {words}, where RGB or grey is expected"
    if int(page.compression) == JPEG and (page.samplesperpixel not in (1, 3) or page.dtype.itemsize > 1):
        channels, bits = page.samplesperpixel, page.bitspersample
        return f"JPEG tiles of {channels} channels of {bits} bits, where 1 or 3 channels of 8 bits are expected"
    if page.samplesperpixel > 4 or (photometric == RGB and page.samplesperpixel < 3):
        return f"an image of {page.samplesperpixel} channels, where RGB or one grey channel is expected"
    return None


def _levels(path: str, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> tuple[TiffLevel, ...]:
    """The finest image and all its reduced versions, finest first.

    Directories are compared by their size: tifffile accepts a level only if the ratio is a whole number, and would
    lose a level with ratio 3.9985.
    """
    first = series.keyframe
    # in OME-TIFF the other directories are other planes, and the levels are in sub-directories of the first
    candidates = [] if tiff.is_ome else [page.aspage() for page in tiff.pages]
    candidates += [page.aspage() for page in first.pages or ()]
    levels = {first.imagewidth: _level(first, series.pages[0])}
    for page in candidates:
        if page.imagewidth in levels:
            continue
        if is_reduction(page, first) and refusal(page, series, tiled=True) is None:
            levels[page.imagewidth] = _level(page, page)
        elif page.is_tiled:
            logger.info("%s: an image of %d × %d px is not a level", path, page.imagewidth, page.imagelength)
    return tuple(levels[width] for width in sorted(levels, reverse=True))


def is_reduction(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Whether `page` can be the same picture as `first` with fewer pixels: same type, smaller, same aspect ratio."""
    if (page.samplesperpixel, page.dtype) != (first.samplesperpixel, first.dtype):
        return False
    shrink_x, shrink_y = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    # the smallest levels are rounded to whole pixels
    return shrink_x > 1 and (
        abs(shrink_x / shrink_y - 1) < 0.01 or abs(first.imagelength / shrink_x - page.imagelength) <= 1.5
    )


def _philips_levels(path: str, tiff: tifffile.TiffFile, description: philips.Description) -> tuple[TiffLevel, ...]:
    """The levels of a Philips TIFF, with their size without padding."""
    pages = [page.aspage() for page in tiff.pages]
    pages = [page for page in pages if page.is_tiled and not page.description.startswith(("Macro", "Label"))]
    sizes = philips.level_sizes(path, description, [(page.imagewidth, page.imagelength) for page in pages])
    return tuple(_level(page, page, size) for page, size in zip(pages, sizes))


def _level(page: tifffile.TiffPage, frame: Any, size: tuple[int, int] | None = None) -> TiffLevel:
    counts = np.asarray(frame.databytecounts, dtype=np.int64)
    offsets = np.asarray(frame.dataoffsets, dtype=np.int64)
    planes = page.samplesperpixel if int(page.planarconfig) == 2 and page.samplesperpixel > 1 else 1
    level = TiffLevel(
        width=size[0] if size else page.imagewidth,
        height=size[1] if size else page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        stored_columns=math.ceil(page.imagewidth / page.tilewidth),
        stored_rows=math.ceil(page.imagelength / page.tilelength),
        offsets=offsets,
        # an offset of 0 is the file header: GDAL and others write it for a tile that is not stored
        counts=np.where(offsets == 0, 0, counts),
        planes=planes,
        compression=int(page.compression),
        grey=planes > 1 or page.samplesperpixel == 1,
        photometric=int(page.photometric),
        ycbcr=_decodes_to_ycbcr(int(page.compression), int(page.photometric)),
        jpeg_tables=page.jpegtables,
        decode=page.decode,
    )
    expected = level.stored_columns * level.stored_rows * planes
    if len(offsets) != expected or len(counts) != expected:
        raise ValueError(f"{len(offsets)} tiles listed where {expected} are needed")
    return level


def _decodes_to_ycbcr(compression: int, photometric: int) -> bool:
    """Decoders of JPEG, JPEG 2000 and WebP convert colours themselves, except for Aperio's JPEG 2000 in YCbCr, whose
    streams do not state their colour space."""
    return compression == APERIO_J2K_YCBCR or (
        photometric == YCBCR and COMPRESSIONS[compression] in _NO_COLOUR_TRANSFORM
    )


def white_level(page: tifffile.TiffPage, significant_bits: int | None) -> int:
    """The sample value that becomes 255: stated by the file, else the maximum of the type."""
    if page.dtype is not None and page.dtype.itemsize == 1:
        return 255
    stated = page.tags.valueof(281)  # MaxSampleValue
    if isinstance(stated, tuple):
        stated = max(stated)
    if stated and 255 < stated <= 65535:
        return int(stated)
    if significant_bits and 8 < significant_bits <= 16:
        return (1 << significant_bits) - 1
    return 65535


def _associated(tiff: tifffile.TiffFile, main: tifffile.TiffPageSeries) -> dict[str, int]:
    """Names of the other images of an SVS or OME file; a plain TIFF does not state what its other images are."""
    vendor = None if tiff.is_svs or tiff.is_ome else find_vendor(tiff)
    if vendor is not None:
        return other_images(tiff, vendor)
    if not (tiff.is_svs or tiff.is_ome):
        return {}
    named: dict[str, int] = {}
    for series in tiff.series:
        name = series.name.strip().lower()
        kind = next((known for known in ("thumbnail", "label", "macro") if known in name), None)
        # other names are free text, which can identify a patient
        if series is not main and kind is not None and kind not in named:
            named[kind] = series.keyframe.index
    return dict(sorted(named.items()))
