"""Conversion of a slide's JPEG (and JPEG 2000) tiles to chunks of a store: self-contained and checked, never decoded.

Bytes in, bytes out; no files. The shared tables and, where the container states RGB and the stream does not state its
colour space, an Adobe marker are inserted after the start marker. The coded data are unchanged. JPEG 2000 tiles are
unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsikit.slides import jpeg2k
from wsikit.slides.encoded_tiles import TileSource
from wsikit.slides.jpeg import JpegError, self_contained
from wsikit.store.shards import NO_HEADER, Chunk, SharedHeader

EOI = b"\xff\xd9"
_SOF_KINDS = frozenset({0xC0, 0xC1, 0xC2})
_SOS, _RST0, _RST7, _TEM, _APP14 = 0xDA, 0xD0, 0xD7, 0x01, 0xEE
_NOT_FRAMES = frozenset({0xC4, 0xC8, 0xCC})  # tables, reserved, arithmetic conditioning
_MAX_HEADERS = 64


class ChunkConverter:
    """Converts the tiles of one level to chunks. Headers are cached: tiles of one encoder share their header."""

    def __init__(self, source: TileSource) -> None:
        self.source = source
        self._headers: dict[bytes, SharedHeader] = {}
        """Header of a stored tile → header of the chunk made from it."""
        self._lengths: list[int] = []
        """Lengths of the cached headers, in order of first use."""
        self.latest: tuple[bytes, SharedHeader | None] = (b"", None)
        """Header of the tile that was converted last, as it is stored, and that of its chunk; None before the first,
        and for JPEG 2000, of whose tiles each is checked."""

    def convert(self, tile: bytes | memoryview) -> Chunk:
        """The chunk for a stored tile, in pieces; JpegError with the reason if the tile cannot be passed through."""
        view = memoryview(tile)
        if len(view) < 2 or view[-1] != 0xD9 or view[-2] != 0xFF:
            view = _without_padding(view)  # DICOM pads frames to even length
        for length in self._lengths:
            stored = bytes(view[:length])
            head = self._headers.get(stored)
            if head is not None:
                self.latest = stored, head
                return Chunk(head, bytes(view[length:]))
        return self._convert_new(view)

    def _convert_new(self, view: memoryview) -> Chunk:
        tile = bytes(view)
        if self.source.codec == "jpeg2k":
            _check_jpeg2k(tile, self.source)
            return Chunk(NO_HEADER, tile)
        chunk = self_contained(tile, self.source.tables, rgb=self.source.rgb)
        length = check_header(tile, self.source).length
        head = SharedHeader(chunk[: len(chunk) - len(tile) + length])
        if len(self._headers) < _MAX_HEADERS:
            self._headers[tile[:length]] = head
            self.latest = tile[:length], head
            if length not in self._lengths:
                self._lengths.append(length)
        return Chunk(head, bytes(view[length:]))


@dataclass(frozen=True)
class JpegHeader:
    """Header of a JPEG stream."""

    length: int
    """Bytes before the coded data."""
    width: int
    height: int
    bits: int
    components: int
    subsampling: tuple[int, int]
    """Of the chroma components, along x and y: (1, 1), (2, 1) or (2, 2)."""
    rgb: bool
    """Whether an Adobe marker states that the components are R, G, B."""


def read_header(stream: bytes) -> JpegHeader:
    """Parse a JPEG stream's header; JpegError if it is damaged, truncated, or of an unsupported kind."""
    position, frame, rgb = 2, b"", False
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise JpegError(f"its header is damaged at byte {position}")
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _TEM or _RST0 <= marker <= _RST7:
            position += 2
            continue
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        segment = stream[position + 4 : position + 2 + length]
        if marker in _SOF_KINDS:
            frame = segment
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            raise JpegError(f"an unsupported kind of JPEG (SOF{marker - 0xC0})")
        elif marker == _APP14 and segment[:5] == b"Adobe" and len(segment) >= 12:
            rgb = segment[11] == 0
        position += 2 + length
        if marker == _SOS:
            return _parsed(frame, position, rgb)
    raise JpegError("its header is truncated")


def _parsed(frame: bytes, length: int, rgb: bool) -> JpegHeader:
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
        raise JpegError("it has no complete frame header")
    factors = [divmod(frame[7 + 3 * i], 16) for i in range(frame[5])]
    across, down = factors[0]
    others = factors[1:] or [factors[0]]
    return JpegHeader(
        length=length,
        width=int.from_bytes(frame[3:5], "big"),
        height=int.from_bytes(frame[1:3], "big"),
        bits=frame[0],
        components=frame[5],
        subsampling=(across // max(1, others[0][0]), down // max(1, others[0][1])),
        rgb=rgb,
    )


def check_header(tile: bytes, source: TileSource) -> JpegHeader:
    """A JPEG tile's header; JpegError if its bits, size or components do not fit the level."""
    head = read_header(tile)
    if head.bits != 8:
        raise JpegError(f"{head.bits} bits per sample where 8 are expected")
    _check_shape((head.width, head.height), head.components, source)
    return head


def _check_jpeg2k(tile: bytes, source: TileSource) -> None:
    """JpegError if a JPEG 2000 tile's bits, size or components do not fit the level."""
    head = jpeg2k.read_head(tile)
    if head is None or not head.plain:
        raise JpegError("not a JPEG 2000 stream of 8 bits per sample")
    _check_shape((head.width, head.height), head.components, source)


def _check_shape(size: tuple[int, int], components: int, source: TileSource) -> None:
    if size != source.tile_px:
        width, height = source.tile_px
        raise JpegError(f"it is {size[0]}×{size[1]} px where {width}×{height} px are expected")
    if components != source.channels:
        raise JpegError(f"{components} components where {source.channels} are expected")


def _without_padding(view: memoryview) -> memoryview:
    end = len(bytes(view).rstrip(b"\0"))
    if view[end - 2 : end] != EOI:
        raise JpegError("it has no end marker")
    return view[:end]
