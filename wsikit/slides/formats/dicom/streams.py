"""The codec and the colours of a frame, by its own bytes. Nothing is decoded here.

Sources: ITU-T T.81 annex B (JPEG), T.871 (JFIF), T.872 (Adobe's APP14), T.87 (JPEG-LS), ISO/IEC 18181 (JPEG XL).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsikit.slides import jpeg2k

Claim = Literal["rgb", "ycc"]
"""Colour space of three components: RGB, or YCbCr of full range (BT.601)."""

_SOS, _APP0, _APP14 = 0xDA, 0xE0, 0xEE
_CODECS = {0xC0: "jpeg", 0xC1: "jpeg", 0xC2: "jpeg", 0xC3: "lossless jpeg", 0xF7: "jpeg-ls"}
_JXL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_J2K = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")


@dataclass(frozen=True)
class Stream:
    """Facts from the header of a frame."""

    codec: str
    """jpeg, lossless jpeg, jpeg-ls, jpeg2k, jpeg xl."""
    components: int
    """0 if the header does not state it."""
    bits: int
    """Bits per sample; 0 if the header does not state it."""
    claim: Claim | None
    """Colour space of what a decoder returns, or of the components themselves in a JPEG; None if it is not stated."""
    marker: str
    """The marker that states it, in words."""
    subsampled: bool = False


def examine(data: bytes) -> Stream | None:
    """Facts of a coded frame by its first bytes; None if they are of no codec known here."""
    if data.startswith(b"\xff\xd8\xff"):
        return _jpeg(data)
    if data.startswith(_J2K):
        head = jpeg2k.read_head(data)
        if head is None:
            return None
        if head.own_transform:
            claim: Claim | None = "rgb"
            marker = "a colour transform in their streams"
        elif b"colr\x01\0\0" in data[:200]:  # a JP2 file: the decoder returns RGB whatever it encloses
            claim, marker = "rgb", "the enumerated colour space of JP2"
        else:
            claim, marker = None, "no colour transform in their streams"
        bits = 0 if head.signed else head.bits
        return Stream("jpeg2k", head.components, bits, claim, marker, head.subsampled)
    if data.startswith(_JXL):
        return Stream("jpeg xl", 0, 0, "rgb", "the RGB of JPEG XL")
    return None


def recoloured(stream: bytes, claim: Claim) -> bytes:
    """A JPEG whose header states this colour space: its JFIF and Adobe segments replaced. Coded data unchanged."""
    transform = b"\x01" if claim == "ycc" else b"\0"
    parts, position = [stream[:2], b"\xff\xee\x00\x0eAdobe\x00d\x00\x00\x00\x00" + transform], 2
    for marker, start, end in _segments(stream):
        if marker not in (_APP0, _APP14):
            parts.append(stream[start:end])
        position = end
    return b"".join((*parts, stream[position:]))


def _jpeg(data: bytes) -> Stream | None:
    claim: Claim | None = None
    marker_words, codec, components, bits, ids, factors = "no marker of its colours", "", 0, 0, b"", b""
    for marker, start, end in _segments(data):
        body = data[start + 4 : end]
        if marker == _APP14 and body[:5] == b"Adobe" and len(body) >= 12:
            claim, marker_words = ("rgb" if body[11] == 0 else "ycc"), f"an Adobe marker, transform {body[11]}"
        elif marker == _APP0 and body[:4] == b"JFIF" and not marker_words.startswith("an Adobe"):
            claim, marker_words = "ycc", "a JFIF marker"
        elif marker in _CODECS and len(body) >= 6:
            codec, bits, components = _CODECS[marker], body[0], body[5]
            ids, factors = body[6::3][:components], body[7::3][:components]
    if not codec:
        return None
    subsampled = len(set(factors)) > 1
    if codec != "jpeg":
        return Stream(codec, components, bits, None, "no marker of its colours", subsampled)
    if claim is None and ids == b"RGB":
        claim, marker_words = "rgb", "components named R, G, B"
    if components == 3 and subsampled and claim is None:
        claim, marker_words = "ycc", "chroma of half resolution"
    return Stream(codec, components, bits, claim, marker_words, subsampled)


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of each segment between SOI and the coded data, SOS not included."""
    found, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _SOS:
            break
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        found.append((marker, position, min(end, len(data))))
        position = end
    return found
