"""The header of a JPEG 2000 tile, and whether the stream is complete and possible. Nothing is decoded here.

Decoders of JPEG 2000 conceal damage: what cannot be decoded becomes blur, without any error. What the format itself
forbids is therefore looked for before a stream is decoded; damage that leaves a possible stream cannot be known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SIGNATURE = b"\0\0\0\x0cjP  "
_SOC, _SIZ, _COD, _SOT, _SOD = 0xFF4F, 0xFF51, 0xFF52, 0xFF90, 0xFF93
_EOC = b"\xff\xd9"
_IMPOSSIBLE = re.compile(rb"\xff[\x90\x93-\xff]")
_IMPOSSIBLE_WITHOUT_MARKS = re.compile(rb"\xff[\x90-\xff]")
"""Bytes that coded data never hold, so that markers can be found in them (ISO/IEC 15444-1, B.10.1 and C.3.5); 0xFF91
and 0xFF92 (SOP, EPH) are there if the header says so."""
SRGB, SYCC = 16, 18
"""Enumerated colour spaces of JP2 files, which decoders convert to RGB themselves."""


@dataclass(frozen=True)
class Head:
    """Size and type of the pixels of one stream, from its header."""

    width: int
    height: int
    components: int
    bits: int
    """Bits per sample; 0 if the components differ."""
    signed: bool
    subsampled: bool
    """Some components are stored at reduced size."""
    own_transform: bool
    """The decoder converts the components to RGB itself (the multi-component transform of the codestream)."""
    colour_space: int | None = None
    """Enumerated colour space of a JP2 file: 16 sRGB, 17 grey, 18 sYCC; None for a raw codestream."""

    @property
    def plain(self) -> bool:
        """Whether every px has one unsigned 8-bit sample of every component."""
        return self.bits == 8 and not self.signed and not self.subsampled


def read_head(stream: bytes) -> Head | None:
    """The header of a codestream, raw or in a JP2 file; None if it is neither.

    Source: ISO/IEC 15444-1, annex A (markers) and annex I (boxes).
    """
    position = _codestream(stream)
    if position is None or stream[position : position + 2] != _SOC.to_bytes(2, "big"):
        return None
    start = position
    position += 2
    size = b""
    while position + 4 <= len(stream):
        marker, length = int.from_bytes(stream[position : position + 2], "big"), _u16(stream, position + 2)
        segment = stream[position + 4 : position + 2 + length]
        if marker == _SIZ:
            size = segment
        elif marker == _COD and len(segment) >= 5:
            return _head(size, own_transform=segment[4] == 1, colour_space=_colour_space(stream[:start]))
        elif marker == _SOT or marker < 0xFF00:
            return None
        position += 2 + length
    return None


def is_whole(stream: bytes) -> bool:
    """Whether the stream has its end marker: a truncated one decodes to a blurred picture without any error."""
    return stream.rstrip(b"\0").endswith(_EOC)


def damage(stream: bytes) -> str | None:
    """What shows that a codestream, raw or in a JP2 file, is damaged; None if nothing does.

    The end marker must stand where the lengths of the tile-parts say, and coded data must not hold bytes that only
    markers have. Sources: ISO/IEC 15444-1, A.4 (delimiters), B.10.1 and C.3.5 (coded data).
    """
    if not is_whole(stream):
        return "the JPEG 2000 stream ends too early"
    start = _codestream(stream)
    if start is None or stream[start : start + 2] != _SOC.to_bytes(2, "big"):
        return "the JPEG 2000 stream has no begin"
    position, impossible = start + 2, _IMPOSSIBLE_WITHOUT_MARKS
    while (marker := _u16(stream, position)) != _SOT:
        if not 0xFF4F < marker < 0xFF90 or position + 4 > len(stream):
            return "the header of the JPEG 2000 stream is damaged"
        if marker == _COD and position + 4 < len(stream) and stream[position + 4] & 6:
            impossible = _IMPOSSIBLE
        position += 2 + _u16(stream, position + 2)
    while _u16(stream, position) == _SOT:
        stated = _u32(stream, position + 6)
        end = position + stated if stated else len(stream.rstrip(b"\0")) - 2
        data = _coded_data(stream, position, end)
        if data is None:
            return "the parts of the JPEG 2000 stream have other lengths than it states"
        if impossible.search(stream, data, end):
            return "the JPEG 2000 stream holds bytes that coded data cannot have"
        position = end
    if stream[position : position + 2] != _EOC or stream[position + 2 :].strip(b"\0"):
        return "the parts of the JPEG 2000 stream have other lengths than it states"
    return None


def _coded_data(stream: bytes, part: int, end: int) -> int | None:
    """Where the coded data of the tile-part at `part` begin; None if its header does not end before `end`."""
    position = part
    while position + 4 <= end <= len(stream):
        marker = _u16(stream, position)
        if marker == _SOD:
            return position + 2
        if not 0xFF4F < marker < 0xFF93:
            return None
        position += 2 + _u16(stream, position + 2)
    return position + 2 if position + 2 == end <= len(stream) and _u16(stream, position) == _SOD else None


def _codestream(stream: bytes) -> int | None:
    """Start of the codestream: byte 0, or the jp2c box of a JP2 file."""
    if not stream.startswith(_SIGNATURE):
        return 0
    position = 0
    while position + 8 <= len(stream):
        length, kind, head = (
            int.from_bytes(stream[position : position + 4], "big"),
            stream[position + 4 : position + 8],
            8,
        )
        if length == 1:
            length, head = int.from_bytes(stream[position + 8 : position + 16], "big"), 16
        if kind == b"jp2c":
            return position + head
        if length < head:
            return None
        position += length
    return None


def _colour_space(boxes: bytes) -> int | None:
    """The first enumerated colour space of a JP2 header: colr box, method 1, precedence, approximation, uint32."""
    place = boxes.find(b"colr\x01")
    return _u32(boxes, place + 7) if place >= 0 and place + 11 <= len(boxes) else None


def _head(size: bytes, *, own_transform: bool, colour_space: int | None) -> Head | None:
    """From the SIZ segment: capabilities, then eight uint32 (extent, origin, tile, tile origin), then components."""
    if len(size) < 36:
        return None
    right, lower, left, top = (_u32(size, i) for i in (2, 6, 10, 14))
    components = _u16(size, 34)
    parts = size[36 : 36 + 3 * components]
    if components == 0 or len(parts) < 3 * components:
        return None
    depths = set(parts[0::3])
    depth = depths.pop() if len(depths) == 1 else None
    return Head(
        width=right - left,
        height=lower - top,
        components=components,
        bits=(depth & 0x7F) + 1 if depth is not None else 0,
        signed=depth is None or depth > 0x7F,
        subsampled=set(parts[1::3]) | set(parts[2::3]) != {1},
        own_transform=own_transform,
        colour_space=colour_space,
    )


def _u16(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 2], "big")


def _u32(data: bytes, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "big")
