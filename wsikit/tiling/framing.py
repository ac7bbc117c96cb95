"""A slide's own JPEG tiles as chunks of a store: made self-contained and checked, never decoded.

Bytes in, bytes out; no files. The recipe: the shared tables and, where the container says RGB and the stream does not
speak of colour, an Adobe marker are put behind the start marker; the coded data stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from wsikit.slides.jpeg import JpegError, JpegSource, self_contained

_EOI = b"\xff\xd9"
_SOF_KINDS = frozenset({0xC0, 0xC1, 0xC2})
_SOS, _RST0, _RST7, _TEM = 0xDA, 0xD0, 0xD7, 0x01
_MAX_HEADS = 64


@dataclass
class Framer:
    """Frames the tiles of one level. Keeps the heads it has seen: tiles of one encoder differ behind the head only."""

    source: JpegSource
    _heads: dict[bytes, bytes] = field(default_factory=dict)
    """Head of a stored tile → head of the chunk made from it."""
    _lengths: list[int] = field(default_factory=list)
    """Lengths of the known heads, the commonest first."""

    def frame(self, tile: bytes) -> bytes:
        """The chunk for a stored tile; JpegError says why a tile cannot pass."""
        if tile[-2:] != _EOI:
            tile = tile.rstrip(b"\0")  # DICOM pads frames to even length
            if tile[-2:] != _EOI:
                raise JpegError("it does not end as a JPEG does")
        for length in self._lengths:
            head = self._heads.get(tile[:length])
            if head is not None:
                return head + tile[length:]
        return self._frame_new(tile)

    def _frame_new(self, tile: bytes) -> bytes:
        chunk = self_contained(tile, self.source.tables, rgb=self.source.rgb)
        length = check_head(tile, self.source.tile_px)
        if len(self._heads) < _MAX_HEADS:
            self._heads[tile[:length]] = chunk[: len(chunk) - len(tile) + length]
            if length not in self._lengths:
                self._lengths.append(length)
        return chunk


def check_head(tile: bytes, tile_px: tuple[int, int]) -> int:
    """Length of a tile's head, up to where its coded data begin; JpegError if it is not what a chunk may hold."""
    position, framed = 2, False
    while position + 4 <= len(tile):
        if tile[position] != 0xFF:
            raise JpegError(f"its head is damaged at byte {position}")
        marker = tile[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _TEM or _RST0 <= marker <= _RST7:
            position += 2
            continue
        length = int.from_bytes(tile[position + 2 : position + 4], "big")
        if marker in _SOF_KINDS:
            _check_frame(tile[position + 4 : position + 2 + length], tile_px)
            framed = True
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            raise JpegError(f"a kind of JPEG that chunks may not hold (SOF{marker - 0xC0})")
        position += 2 + length
        if marker == _SOS:
            if not framed:
                raise JpegError("it has no frame header")
            return position
    raise JpegError("its head is cut off")


def _check_frame(frame: bytes, tile_px: tuple[int, int]) -> None:
    if len(frame) < 6:
        raise JpegError("its frame header is cut off")
    precision, height, width = frame[0], int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if precision != 8:
        raise JpegError(f"{precision} bits per sample where 8 are expected")
    if (width, height) != tile_px:
        raise JpegError(f"it is {width}×{height} px where {tile_px[0]}×{tile_px[1]} px are expected")
    if frame[5] != 3:
        raise JpegError(f"{frame[5]} components where 3 are expected")
