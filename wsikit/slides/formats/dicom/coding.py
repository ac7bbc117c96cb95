"""From the bytes of a frame to RGB: the codec, the meaning of the samples, and why both are believed.

The rule is made once for a level, from some of its frames, and holds for all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsikit.errors import UnsupportedSlideError
from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.base import Pixels
from wsikit.slides.encoded_tiles import TileSource
from wsikit.slides.formats.dicom import colours, native
from wsikit.slides.formats.dicom.header import DicomFile, Samples
from wsikit.slides.formats.dicom.kinds import syntax_in_words
from wsikit.slides.formats.dicom.streams import Claim, Stream, examine, recoloured
from wsikit.slides.to_rgb import to_rgb, ycbcr_to_rgb

Array = npt.NDArray[np.generic]

_BASE = "1.2.840.10008.1.2."
_BY_FRAME = {_BASE + "5": "rle", _BASE + "8.1": "deflated frames", _BASE + "1.98": "native"}
"""Transfer syntaxes whose frames do not begin with a mark of their codec."""
_CODEC_OF = {
    _BASE + "4.50": "jpeg",
    _BASE + "4.57": "lossless jpeg",
    _BASE + "4.70": "lossless jpeg",
    _BASE + "4.80": "jpeg-ls",
    _BASE + "4.81": "jpeg-ls",
    _BASE + "4.90": "jpeg2k",
    _BASE + "4.91": "jpeg2k",
    _BASE + "4.110": "jpeg xl",
    _BASE + "4.111": "jpeg xl",
    _BASE + "4.112": "jpeg xl",
    _BASE + "4.201": "jpeg2k",
    _BASE + "4.202": "jpeg2k",
    _BASE + "4.203": "jpeg2k",
    **_BY_FRAME,
}
_WORDS = {"jpeg": "JPEG", "jpeg2k": "JPEG 2000", "jpeg-ls": "JPEG-LS", "lossless jpeg": "lossless JPEG"}
_WORDS |= {"jpeg xl": "JPEG XL", "rle": "RLE", "native": "none", "deflated frames": "deflate"}
_CODESTREAM, _HT_MARKER = b"\xff\x4f", b"\xff\x50"
"""Begin of a JPEG 2000 code stream, and its marker CAP, which HTJ2K has."""
_GREY = {"MONOCHROME1": True, "MONOCHROME2": False}
"""Photometric interpretations of one channel: whether 0 is white."""
_CONVERT = (
    "Convert it to JPEG baseline (1.2.840.10008.1.2.4.50) or JPEG 2000 (1.2.840.10008.1.2.4.91), for example with "
    "dcmconv or gdcmconv."
)
_EXPORT = "Export it again as RGB, from the scanner's software or with another converter."


@dataclass(frozen=True)
class Coding:
    """How the frames of a level become pixels."""

    codec: str
    channels: int
    samples: Samples
    tile_px: tuple[int, int]
    layout: native.Layout
    meaning: Literal["rgb", "ycc", "grey", "white is 0", "palette"]
    white_level: int
    jpeg_as: Claim | None = None
    """The colour space that a JPEG is said to have, against its own marker."""
    says_rgb: bool = False
    """A JPEG without any marker of its colours is RGB."""
    by_content: bool = False
    """Only the samples themselves show the colour space, so the frames alone do not state what they are."""
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def compression(self) -> str:
        return _WORDS[self.codec]

    def source(self, first: bytes) -> TileSource | None:
        """Properties of the frames as encoded tiles; None if decoding alone does not give the slide's pixels."""
        if self.meaning not in ("rgb", "grey") or self.white_level != 255 or self.by_content:
            return None
        if self.codec == "jpeg" and self.jpeg_as is None:
            return TileSource(self.tile_px, channels=self.channels, rgb=self.says_rgb)
        head = jpeg2k.read_head(first) if self.codec == "jpeg2k" else None
        if head is None or not head.plain or head.components != self.channels:
            return None
        # in a JP2 file, the colours can depend on its boxes; not all decoders know HTJ2K
        if not (head.own_transform or first.startswith(_CODESTREAM)) or _HT_MARKER in first[:256]:
            return None
        return TileSource(self.tile_px, codec="jpeg2k", channels=self.channels)

    def decode(self, data: bytes) -> Pixels:
        """uint8 (h, w, 3) of one frame; an error of any kind if its bytes are damaged."""
        if self.codec == "jpeg":
            stream = recoloured(data, self.jpeg_as) if self.jpeg_as else data
            stream = jpeg.self_contained(stream, None, rgb=self.says_rgb)
            return self._rgb(jpeg.decode(stream, self.tile_px, grey=self.channels == 1))
        return self._rgb(components(self.codec, data, self.channels, self.samples, self.tile_px, self.layout))

    def _rgb(self, samples: Array) -> Pixels:
        if self.meaning == "palette":
            assert self.samples.palette is not None
            found: Pixels = self.samples.palette[samples[..., 0]]
            return found
        rgb = to_rgb(samples, white_level=self.white_level, inverted=self.meaning == "white is 0")
        return ycbcr_to_rgb(rgb) if self.meaning == "ycc" else rgb


def components(
    codec: str, data: bytes, channels: int, samples: Samples, tile_px: tuple[int, int], layout: native.Layout
) -> Array:
    """Decoded samples of one frame, (h, w, channels); an error of any kind if its bytes are damaged."""
    if codec == "jpeg":
        return jpeg.decode(recoloured(data, "rgb") if channels == 3 else data, tile_px, grey=channels == 1)
    if codec in ("native", "rle", "deflated frames"):
        if codec == "rle":
            return native.run_lengths(data, samples, tile_px)
        raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data) if codec == "deflated frames" else data
        return native.arrange(raw, samples, tile_px, layout)
    if codec in ("jpeg-ls", "lossless jpeg") and not jpeg2k.is_whole(data):
        # both end with the marker of JPEG 2000; without it CharLS can search for half a minute
        raise ValueError(f"the {_WORDS[codec]} stream ends too early")
    fault = jpeg2k.damage(data) if codec == "jpeg2k" else None
    if fault is not None:
        raise ValueError(fault)
    decoders: dict[str, Callable[[bytes], Array]] = {
        "jpeg2k": imagecodecs.jpeg2k_decode,
        "jpeg-ls": imagecodecs.jpegls_decode,
        "jpeg xl": imagecodecs.jpegxl_decode,
        "lossless jpeg": imagecodecs.jpegsof3_decode,
    }
    decoded = decoders[codec](data)
    return decoded.reshape(*decoded.shape[:2], -1)


def coding_of(
    header: DicomFile, encapsulated: bool, layout: native.Layout, frames: Callable[[], Iterator[bytes]]
) -> tuple[Coding, TileSource | None]:
    """The rule for the frames of one level.

    Parameters
    ----------
    header
        Of the level's first file.
    encapsulated
        Its frames are compressed, or at least wrapped.
    layout
        Of frames that are not compressed.
    frames
        Gives the bytes of some frames, spread over the level, those that can be read.

    Raises
    ------
    UnsupportedSlideError
        Its codec is not known here, or the meaning of its samples cannot be decided.
    """
    first = next(frames(), b"")
    stream = examine(first) if encapsulated else None
    codec, notes = _codec(header, encapsulated, stream)
    if stream is not None:
        _check_alike(header, stream, frames())
    channels = (stream.components if stream else 0) or header.samples.channels
    if channels not in (1, 3) or header.samples.signed:
        kind = "signed samples" if header.samples.signed else f"{channels} samples per px"
        raise _unsupported(header, f"of {kind}, where 1 or 3 unsigned ones are expected. {_EXPORT}")
    bits = _bits(header.samples, stream)
    if codec == "jpeg" and bits != 8:
        raise _unsupported(header, f"whose JPEG frames have {bits} bits. {_CONVERT}")
    if not 1 < bits <= 16:
        raise _unsupported(header, f"of {bits} bits per sample, where 8 to 16 are read. {_EXPORT}")
    if channels != header.samples.channels:
        notes.append(f"the file says {header.samples.channels} samples per px, its frames have {channels}")
    white_level = (1 << bits) - 1

    def shown() -> Claim | None:
        return _content(codec, channels, header, layout, white_level, frames())

    plain = Coding(codec, channels, header.samples, header.tile_px, layout, "rgb", white_level)
    if channels == 1:
        coding = _of_one_channel(header, plain, notes)
    else:
        coding = _of_three_channels(header, plain, stream, layout, shown, notes)
    head = jpeg2k.read_head(first) if codec == "jpeg2k" else None
    if head is not None and head.subsampled:
        raise UnsupportedSlideError(
            f"{header.path}: a DICOM slide of JPEG 2000 with chroma of half resolution. {_CONVERT}"
        )
    return coding, coding.source(first)


def _codec(header: DicomFile, encapsulated: bool, stream: Stream | None) -> tuple[str, list[str]]:
    """The codec of the frames, by their own first bytes where they have a mark; and what must be said of it."""
    stated = _CODEC_OF.get(header.transfer_syntax) if encapsulated else "native"
    if encapsulated and stated is None and (header.transfer_syntax.startswith(_BASE + "4.") or stream is None):
        raise UnsupportedSlideError(
            f"{header.path}: a DICOM file of transfer syntax {syntax_in_words(header.transfer_syntax)}, which is not "
            f"read here. {_CONVERT}"
        )
    if stream is None or (stream.codec == stated and not encapsulated):
        assert stated is not None
        return stated, []
    if stream.codec != stated and header.transfer_syntax not in _BY_FRAME:
        words = f"the file says {syntax_in_words(header.transfer_syntax)}, its frames are {_WORDS[stream.codec]}"
        return stream.codec, [words]
    return (stated or stream.codec) if header.transfer_syntax in _BY_FRAME else stream.codec, []


def _check_alike(header: DicomFile, first: Stream, frames: Iterator[bytes]) -> None:
    """UnsupportedSlideError if frames of one level state different codecs or colours: one rule does not fit them."""
    for data in frames:
        stream = examine(data)
        if stream is not None and (stream.codec, stream.components, stream.claim) != (
            first.codec,
            first.components,
            first.claim,
        ):
            raise _unsupported(
                header,
                f"whose frames are coded in different ways (first {_WORDS[first.codec]} with {first.marker}, then "
                f"{_WORDS[stream.codec]} with {stream.marker}). {_EXPORT}",
            )


def _bits(samples: Samples, stream: Stream | None) -> int:
    """Bits of a sample that carry signal: the stream can be of 16 bits for samples of 12, or the file say 16 of 12."""
    of_stream, of_file = (stream.bits if stream else 0), samples.bits_stored
    if not of_stream or not of_file or of_stream > samples.bits_allocated:
        return of_stream or of_file
    return min(of_stream, of_file)


def _of_one_channel(header: DicomFile, plain: Coding, notes: list[str]) -> Coding:
    photometric = header.samples.photometric
    changed = {"notes": tuple(notes)}
    if photometric == "PALETTE COLOR":
        if header.samples.palette is None:
            raise UnsupportedSlideError(
                f"{header.path}: a DICOM slide in palette colours without its palette. {_EXPORT}"
            )
        return _with(plain, meaning="palette", **changed)
    if photometric not in _GREY and header.samples.channels == 1:
        raise _unsupported(header, f"of one sample per px that says {_quoted(photometric)}, which cannot be. {_EXPORT}")
    return _with(plain, meaning="white is 0" if _GREY.get(photometric) else "grey", **changed)


def _of_three_channels(
    header: DicomFile,
    plain: Coding,
    stream: Stream | None,
    layout: native.Layout,
    shown: Callable[[], Claim | None],
    notes: list[str],
) -> Coding:
    photometric = header.samples.photometric
    if photometric.startswith("YBR_PARTIAL") or photometric in ("HSV", "ARGB", "CMYK"):
        raise UnsupportedSlideError(
            f"{header.path}: a DICOM slide in {_quoted(photometric)}, which is not read. {_EXPORT}"
        )
    claim, marker = (stream.claim, stream.marker) if stream else (None, "no marker of their colours")
    if stream is not None and stream.codec == "jpeg" and stream.subsampled and claim == "ycc":
        shown = _nothing  # RGB is not stored with two channels of half resolution
    if layout.chroma_halved:
        claim, marker = "ycc", "two bytes per px, as YBR_FULL_422 has"
    elif photometric == "YBR_FULL_422" and plain.codec in ("native", "rle", "deflated frames"):
        # three bytes per px: the name was left behind by a decompression, to RGB or to YCbCr
        photometric = "YBR_FULL_422 with three samples per px"
    decision = colours.decide(photometric, claim, marker, shown)
    if decision.claim is None:
        raise UnsupportedSlideError(
            f"{header.path}: its colours cannot be decided: {_printable(decision.words)}. {_EXPORT}"
        )
    if decision.words:
        words = decision.words
        notes.append(words if ": read as" in words else f"{words}: read as {colours.NAMES[decision.claim]}")
    said = tuple(_printable(note) for note in notes)
    if plain.codec != "jpeg":
        return _with(plain, meaning=decision.claim, by_content=claim is None and bool(decision.words), notes=said)
    forced = decision.claim if claim is not None and decision.claim != claim else None
    return _with(plain, jpeg_as=forced, says_rgb=decision.claim == "rgb", notes=said)


def _content(
    codec: str, channels: int, header: DicomFile, layout: native.Layout, white_level: int, frames: Iterator[bytes]
) -> Claim | None:
    """The colour space that some frames show."""
    found = []
    for data in frames:
        try:
            samples = components(codec, data, channels, header.samples, header.tile_px, layout)
        except Exception:  # noqa: S112 - a damaged frame is no evidence; it is an error where it is read
            continue
        if samples.shape[2] == 3:
            step = max(1, samples.shape[0] // 128)
            found.append(to_rgb(samples[::step, ::step], white_level=white_level).reshape(-1, 3))
            if colours.shown_by(found[-1]) == "rgb":
                return "rgb"  # a proof, which more frames cannot refute
    return colours.shown_by(np.concatenate(found)) if found else None


def _unsupported(header: DicomFile, words: str) -> UnsupportedSlideError:
    return UnsupportedSlideError(f"{header.path}: a DICOM slide {words}")


def _nothing() -> Claim | None:
    return None


def _with(coding: Coding, **changed: object) -> Coding:
    from dataclasses import replace

    return replace(coding, **changed)  # type: ignore[arg-type]


def _quoted(photometric: str) -> str:
    return f"“{_printable(photometric)[:20]}”"


def _printable(words: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in words)
