"""Structure of a Hamamatsu NDPI: its levels, and the byte ranges of their restart intervals. No pixels.

An NDPI stores each level as one JPEG. Restart markers divide it into intervals, each one row of MCUs high, that can be
decoded separately; the tag McuStarts gives their positions. tifffile handles offsets over 4 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.errors import BrokenSlideError, SlideError, UnsupportedSlideError
from wsikit.slides.base import SlideInfo, true_downsamples
from wsikit.slides.formats.tiff.codecs import JPEG
from wsikit.slides.formats.tiff.directories import check_directories
from wsikit.slides.formats.tiff.layout import is_reduction, structure_fault
from wsikit.slides.formats.tiff.metadata import read_metadata
from wsikit.slides.properties import allowed

TILE_ROWS = 256
"""Height of a tile, px. Less if the level is lower, or its intervals are so wide that tiles would be too large."""

_TILE_PX = 1 << 23
"""Largest tile: 25 MB of pixels, of which the tile cache holds several."""

_WHOLE_PX = 1 << 24
"""Largest level without restart markers that is decoded as one tile: 48 MB of pixels."""

_MACRO = -1.0
"""Magnification of the macro picture; the focus map has -2."""
_MAX_SIDE = 65535
"""Largest side of a JPEG, px."""


@dataclass(frozen=True)
class NdpiLevel:
    """One level. Intervals are numbered row by row; a level without restart markers is one interval and one tile."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    head: bytes
    """Header of the JPEG, up to the coded data, with the size of a tile; empty if the level is one tile."""
    intervals_across: int
    intervals_down: int
    intervals_per_tile: int
    """Number of intervals, one below the other, in a tile."""
    offsets: npt.NDArray[np.int64]
    """Byte offset of each interval in the file."""
    counts: npt.NDArray[np.int64]
    """Number of bytes of each interval, including its end marker."""

    @property
    def whole(self) -> bool:
        """The level is one JPEG without restart markers, and one tile."""
        return not self.head

    @property
    def subsampled(self) -> bool:
        """The tiles have fewer px of chroma than of luma."""
        return not self.whole and any(factors != 0x11 for factors in _sampling_factors(self.head))


@dataclass(frozen=True)
class NdpiLayout:
    """An NDPI: its facts, its levels (finest first), and the directory of its macro picture."""

    info: SlideInfo
    levels: tuple[NdpiLevel, ...]
    macro_page: int | None


def open_ndpi(path: str) -> tifffile.TiffFile:
    """Open a file as NDPI whatever its name: tifffile would decide by the name whether offsets have 64 bits."""
    return tifffile.TiffFile(path, is_ndpi=True)


def read_ndpi_layout(path: str, reader: str) -> NdpiLayout:
    """The layout of an NDPI.

    Raises
    ------
    UnsupportedSlideError
        A level cannot be divided into tiles: it is large and has no restart markers, or the markers are at different
        columns in each row; or it is not a colour JPEG of 8 bits.
    BrokenSlideError
        The TIFF structure is damaged.
    """
    try:
        check_directories(path)
        with open_ndpi(path) as tiff:
            return _layout(path, reader, tiff)
    except (SlideError, FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # tifffile raises errors of many kinds for a damaged structure
        raise BrokenSlideError(f"{path}: {structure_fault(path, error)}") from error


def _layout(path: str, reader: str, tiff: tifffile.TiffFile) -> NdpiLayout:
    pages = [page.aspage() for page in tiff.pages]
    if not pages or not pages[0].is_ndpi:
        raise UnsupportedSlideError(f"{path}: not a Hamamatsu NDPI. Open it with reader='auto'.")
    first, *others = _levels_pages(path, pages)
    levels = tuple(_level(path, page) for page in (first, *others))
    level_dimensions = tuple((level.width, level.height) for level in levels)
    macro = next((page.index for page in pages if _magnification(page) == _MACRO), None)
    metadata = read_metadata(tiff, first)
    lens = _magnification(first)
    ndpi = _tags(first)
    properties = {
        **metadata.properties,
        "hamamatsu.SourceLens": f"{lens:g}",
        "hamamatsu.XOffsetFromSlideCentre": ndpi.get("XOffsetFromSlideCenter", ""),
        "hamamatsu.YOffsetFromSlideCentre": ndpi.get("YOffsetFromSlideCenter", ""),
    }
    info = SlideInfo(
        path=path,
        reader=reader,
        vendor="hamamatsu",
        kind="tiled",
        dimensions=level_dimensions[0],
        level_dimensions=level_dimensions,
        level_downsamples=true_downsamples(level_dimensions),
        mpp=metadata.scale.mpp,
        mpp_source=metadata.scale.source,
        mpp_fault=metadata.scale.fault,
        mpp_literal=metadata.scale.literal,
        magnification=lens,
        tile_px=(levels[0].tile_width, levels[0].tile_height),
        compression="JPEG",
        associated=() if macro is None else ("macro",),
        icc_profile=metadata.icc_profile,
        properties=allowed({name: value for name, value in properties.items() if value != ""}),
    )
    return NdpiLayout(info, levels, macro)


def _levels_pages(path: str, pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """Directories of the levels, finest first. Of several focal planes, the one at depth 0, as in OpenSlide."""
    found: dict[int, tifffile.TiffPage] = {}
    for page in pages:
        in_focus = _tags(page).get("ZOffsetFromSlideCenter", 0) == 0
        if _magnification(page) > 0 and in_focus:
            found.setdefault(page.imagewidth, page)
    if not found:
        raise BrokenSlideError(f"{path}: an NDPI without any image of the slide. Copy it again from its source.")
    first, *others = (found[width] for width in sorted(found, reverse=True))
    return [first, *(page for page in others if is_reduction(page, first))]


def _tags(page: tifffile.TiffPage) -> dict[str, Any]:
    return page.ndpi_tags or {}


def _magnification(page: tifffile.TiffPage) -> float:
    return float(_tags(page).get("Magnification", 0.0))


def _level(path: str, page: Any) -> NdpiLevel:
    width, height = page.imagewidth, page.imagelength
    if int(page.compression) != JPEG or page.samplesperpixel != 3 or page.bitspersample != 8:
        raise UnsupportedSlideError(
            f"{path}: an NDPI whose image of {width}×{height} px is not a colour JPEG of 8 bits. {_ELSEWHERE}"
        )
    if page.jpegheader is None:
        return _whole_level(path, page)
    across, down = math.ceil(width / page.tilewidth), math.ceil(height / page.tilelength)
    mcu = _mcu_width(page.jpegheader)
    even = math.ceil(width / mcu) * mcu == across * page.tilewidth
    if not even or len(page.dataoffsets) != across * down or page.tilewidth > _MAX_SIDE:
        raise UnsupportedSlideError(
            f"{path}: an NDPI whose image of {width}×{height} px cannot be divided at its restart markers. {_ELSEWHERE}"
        )
    rows = min(TILE_ROWS, _TILE_PX // page.tilewidth)
    per_tile = min(max(1, rows // page.tilelength), down)
    tile_width, tile_height = page.tilewidth, page.tilelength * per_tile
    return NdpiLevel(
        width=width,
        height=height,
        tile_width=tile_width,
        tile_height=tile_height,
        head=_with_size(page.jpegheader, tile_width, tile_height),
        intervals_across=across,
        intervals_down=down,
        intervals_per_tile=per_tile,
        offsets=np.asarray(page.dataoffsets, dtype=np.int64),
        counts=np.asarray(page.databytecounts, dtype=np.int64),
    )


def _whole_level(path: str, page: Any) -> NdpiLevel:
    width, height = page.imagewidth, page.imagelength
    if width * height > _WHOLE_PX or len(page.dataoffsets) != 1:
        raise UnsupportedSlideError(
            f"{path}: an NDPI whose image of {width}×{height} px has no restart markers. {_ELSEWHERE}"
        )
    offsets, counts = np.asarray(page.dataoffsets, dtype=np.int64), np.asarray(page.databytecounts, dtype=np.int64)
    return NdpiLevel(width, height, width, height, b"", 1, 1, 1, offsets, counts)


_ELSEWHERE = "Open it with reader='openslide'."


def _segments(head: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of each segment of a JPEG header, after its start marker."""
    position = 2
    while position + 4 <= len(head):
        yield head[position + 1], position
        position += 2 + int.from_bytes(head[position + 2 : position + 4], "big")


def _sampling_factors(head: bytes) -> list[int]:
    """Sampling factors of each component, from the frame segment: horizontal in the upper four bits, vertical below."""
    start = next(position for marker, position in _segments(head) if marker == 0xC0)
    return [head[start + 11 + 3 * i] for i in range(head[start + 9])]


def _mcu_width(head: bytes) -> int:
    """Width of an MCU, px."""
    return 8 * max(factors >> 4 for factors in _sampling_factors(head))


def _with_size(head: bytes, width: int, height: int) -> bytes:
    """The header with another image size in the frame segment."""
    start = next(position for marker, position in _segments(head) if marker == 0xC0)
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return head[: start + 5] + size + head[start + 9 :]
