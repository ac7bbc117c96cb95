"""JPEG tiles of slide files: completed with their shared tables, and decoded strictly.

libjpeg fills a truncated or overwritten stream with grey and only warns; most decoders built on it drop the warning.
A reader must never return pixels that were not scanned, so a warning is an error here, as in OpenSlide.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]

_SOI = b"\xff\xd8"
_APP0, _APP14, _SOS = 0xE0, 0xEE, 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
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
    try:
        height, width = simplejpeg.decode_jpeg_header(stream, strict=True)[:2]
        if max_size is not None and (width > max_size[0] or height > max_size[1]):
            raise JpegError(f"a JPEG of {width}×{height} px where {max_size[0]}×{max_size[1]} px are expected")
        pixels: Pixels = simplejpeg.decode_jpeg(stream, colorspace="GRAY" if grey else "RGB", strict=True)
        return pixels
    except JpegError:
        raise
    except ValueError as error:
        words = re.sub(
            r"^\w+\(\d*\): ", "", " ".join(str(error).split())
        )  # libjpeg-turbo starts with its function name
        raise JpegError(f"damaged JPEG: {words}") from error


def _without_colour_information(tile: bytes) -> bool:
    """True if the header has neither a JFIF nor an Adobe segment, and the frame has three components of equal size."""
    position = 2
    equal_components = False
    while position + 4 <= len(tile) and tile[position] == 0xFF:
        marker = tile[position + 1]
        if marker in (_APP0, _APP14):
            return False
        if marker in _FRAMES:
            count = tile[position + 9]
            factors = {tile[position + 11 + 3 * i] for i in range(count)}
            equal_components = count == 3 and len(factors) == 1
        if marker == _SOS:
            break
        position += 2 + int.from_bytes(tile[position + 2 : position + 4], "big")
    return equal_components
