"""JPEG tiles of slide files: completed with their shared tables, and decoded strictly.

libjpeg fills a truncated or overwritten stream with grey and only warns; most decoders built on it drop the warning.
A reader must never return pixels that were not scanned, so a warning is an error here, as in OpenSlide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg

from wsikit.slides.memory import borrowed

Pixels = npt.NDArray[np.uint8]

_SOI = b"\xff\xd8"
_APP0, _APP14, _SOS = 0xE0, 0xEE, 0xDA
_LOSSLESS = 0xC3
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, _LOSSLESS})
_OTHER_FRAMES = frozenset(range(0xC5, 0xD0)) - {0xC8, 0xCC}
"""Hierarchical and arithmetic-coded kinds of JPEG, which no slide has."""
ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00\x00"
"""APP14 segment stating that the three components are R, G, B without a colour transform."""


class JpegError(ValueError):
    """A JPEG stream is damaged, or of a kind that slides do not use. The message explains what is wrong."""


def self_contained(tile: bytes, tables: bytes | None, *, rgb: bool) -> bytes:
    """The stream of a tile with the shared `tables` and the colour coding added to its header; coded data unchanged.

    Parameters
    ----------
    tile
        Bytes of the tile as the file stores them.
    tables
        TIFF's JPEGTables (SOI, tables, EOI), or None.
    rgb
        The container states that the components are R, G, B (Aperio). Used only if the stream itself has no colour
        information: some writers state RGB and store YCbCr in JFIF.
    """
    if not tile.startswith(_SOI):
        raise JpegError("only zero bytes" if not tile.strip(b"\0") else "the bytes do not begin as a JPEG does")
    adobe = ADOBE_RGB if rgb and _without_colour_information(tile) else b""
    shared = tables[2:-2] if tables else b""
    return b"".join((_SOI, adobe, shared, tile[2:])) if adobe or shared else tile


def decode(stream: bytes, max_size: tuple[int, int] | None = None, *, grey: bool = False) -> Pixels:
    """Pixels of a whole stream: uint8 (h, w, 3) RGB, or (h, w, 1) if `grey`. JpegError if anything in it is wrong.

    A stream whose header states a size above `max_size`, (width, height) px, is damaged and is not decoded: one wrong
    byte in the header can request 12 GB.
    """
    if max_size is not None and not grey:
        small = _decoded(stream, borrowed((max_size[1], max_size[0], 3), for_jpeg=True))
        if small is not None and small.shape[0] <= max_size[1] and small.shape[1] <= max_size[0]:
            return small
    try:
        height, width = simplejpeg.decode_jpeg_header(stream, strict=True)[:2]
        if max_size is not None and (width > max_size[0] or height > max_size[1]):
            raise JpegError(f"a JPEG of {width}×{height} px where {max_size[0]}×{max_size[1]} px are expected")
        found: Pixels = simplejpeg.decode_jpeg(stream, colorspace="GRAY" if grey else "RGB", strict=True)
        return found
    except JpegError:
        raise
    except ValueError as error:
        words = re.sub(
            r"^\w+\(\d*\): ", "", " ".join(str(error).split())
        )  # libjpeg-turbo starts with its function name
        raise JpegError(f"damaged JPEG: {words}") from error


def decode_to(stream: bytes, pixels: Pixels) -> bool:
    """Decode a whole stream to `pixels`, uint8 (h, w, 3) RGB, C-contiguous. False if it is damaged or of another size:
    `pixels` are then undefined, and `decode` says what is wrong."""
    found = _decoded(stream, pixels)
    return found is not None and found.shape == pixels.shape


def _decoded(stream: bytes, memory: Pixels) -> Pixels | None:
    """Pixels of a whole stream in `memory`; None if it is damaged or does not fit."""
    try:
        found: Pixels = simplejpeg.decode_jpeg(stream, colorspace="RGB", strict=True, buffer=memory)
    except ValueError:
        return None
    return found


@dataclass(frozen=True)
class Colours:
    """What the header of a stream of three components says about its colours."""

    frame: int
    """Marker of the frame: 0xC0 to 0xC2 sequential or progressive, 0xC3 lossless, others unsupported."""
    components: int
    equal: bool
    """All components have the same number of px."""
    jfif: bool
    adobe: int | None
    """Transform of the Adobe segment: 0 none (RGB), 1 YCbCr; None without that segment."""
    ids: bytes
    """Identifiers of the components."""

    @property
    def stated(self) -> str | None:
        """rgb or ycbcr, as libjpeg decides it; None if the header leaves it open."""
        if self.jfif:
            return "ycbcr"
        if self.adobe is not None:
            return "rgb" if self.adobe == 0 else "ycbcr"
        if self.ids == b"RGB":
            return "rgb"
        return None if self.equal else "ycbcr"

    @property
    def lossless(self) -> bool:
        return self.frame == _LOSSLESS

    @property
    def supported(self) -> bool:
        return self.frame in _FRAMES


def read_colours(stream: bytes) -> Colours | None:
    """What a stream's header says about its colours; None if there is no readable header."""
    jfif, adobe = False, None
    for marker, segment in _segments(stream):
        if marker == _APP0 and segment.startswith(b"JFIF\0"):
            jfif = True
        elif marker == _APP14 and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe = segment[11]
        elif marker in (*_FRAMES, *_OTHER_FRAMES) and _is_frame(segment):
            count = segment[5]
            factors = {segment[7 + 3 * i] for i in range(count)}
            ids = bytes(segment[6 + 3 * i] for i in range(count))
            return Colours(marker, count, len(factors) == 1, jfif, adobe, ids)
    return None


def restated(stream: bytes, *, rgb: bool) -> bytes:
    """The stream with its statements of colour (JFIF, Adobe) replaced: components R, G, B, or Y, Cb, Cr."""
    marker = ADOBE_RGB if rgb else ADOBE_RGB[:-1] + b"\1"
    kept, position = [_SOI, marker], 2
    for kind, segment in _segments(stream):
        length = 4 + len(segment)
        if kind == _SOS:
            break
        if kind not in (_APP0, _APP14):
            kept.append(stream[position : position + length])
        position += length
    return b"".join(kept) + stream[position:]


_last_header: tuple[bytes, bool] = (b"", False)
"""The first bytes of a stream, and what they say: the tiles of a level mostly begin with the same header."""


def _without_colour_information(tile: bytes) -> bool:
    """True if the header has neither a JFIF nor an Adobe segment, and the frame has three components of equal size."""
    global _last_header
    known, answer = _last_header
    if known and tile.startswith(known):
        return answer
    answer, read = False, 2
    for marker, segment in _segments(tile):
        read += 4 + len(segment)
        if marker in (_APP0, _APP14):
            answer = False
            break
        if marker in _FRAMES and _is_frame(segment):
            factors = {segment[7 + 3 * i] for i in range(segment[5])}
            answer = segment[5] == 3 and len(factors) == 1
        if marker == _SOS:
            break
    else:
        return answer  # what is further on could say something else in another tile
    _last_header = tile[:read], answer
    return answer


def _is_frame(segment: bytes) -> bool:
    return len(segment) > 5 and len(segment) >= 6 + 3 * segment[5]


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment of the header, up to the first scan."""
    position = 2
    while position + 4 <= len(stream) and stream[position] == 0xFF:
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        yield stream[position + 1], stream[position + 4 : position + 2 + length]
        if stream[position + 1] == _SOS or length < 2:
            return
        position += 2 + length
