"""Colours of JPEG and JPEG 2000 in TIFF: RGB or YCbCr, by the streams' markers, the tags, and if need be the pixels.

A code stream that states its colours is believed before the container. Where nothing decides, some tiles are decoded:
pixels of RGB pictures, taken as YCbCr, mostly lie outside of the RGB cube; pixels of YCbCr pictures do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.slides import jpeg, jpeg2k
from wsikit.slides.formats.tiff.codecs import APERIO_J2K_RGB, APERIO_J2K_YCBCR, JPEG, JPEG_2000
from wsikit.slides.formats.tiff.samples import RGB, YCBCR
from wsikit.slides.to_rgb import outside_rgb

_TRIED_TILES = 8
"""Tiles of an image that are decoded where nothing else decides, spread evenly."""
_MARGIN = 24
"""Grey levels by which lossy compression may carry a YCbCr pixel out of the RGB cube."""
_MANY, _FEW = 0.05, 0.005
"""Share of pixels outside of the cube: above the first they are no YCbCr, below the second they can be."""
_NEUTRAL, _NEUTRAL_SHARE = 24, 0.02
"""Glass and other greys of YCbCr have chroma within this of 128; at least this share of pixels must be so."""


@dataclass(frozen=True)
class CodedColours:
    """How the streams of one image must be decoded for its colours to be right."""

    ycbcr: bool = False
    """The decoder returns YCbCr, which must be converted."""
    restated: str | None = None
    """JPEG: rgb or ycbcr, contrary to what the streams' markers state; None: as they state."""
    passes: bool = True
    """A decoder alone gives the right colours, so that the streams may be kept as they are."""
    aperio: bool = False
    """YCbCr as Aperio's own encoder writes it, possibly with chroma at reduced size."""
    note: str | None = None
    """What was decided and why."""
    fault: str | None = None
    """Why it cannot be decided, or the streams cannot be decoded."""


_AS_CODED = CodedColours()


def coded_colours(page: tifffile.TiffPage, frame: Any) -> CodedColours:
    """How to decode the tiles or strips of `page`; `frame` has their places in the file.

    >>> import os, tempfile, imagecodecs, numpy, tifffile
    >>> path = os.path.join(tempfile.mkdtemp(), "slide.tif")
    >>> rgb = numpy.full((64, 64, 3), (240, 10, 10), numpy.uint8)
    >>> tifffile.imwrite(path, rgb, tile=(64, 64), photometric="rgb", compression=33003)
    >>> with tifffile.TiffFile(path) as tiff:
    ...     coded_colours(tiff.pages[0], tiff.pages[0]).ycbcr
    False
    """
    code = int(page.compression)
    if code not in (JPEG, *JPEG_2000) or page.samplesperpixel < 3 or int(page.planarconfig) == 2:
        return _AS_CODED
    return _jpeg(page, frame) if code == JPEG else _jpeg2k(page, frame)


def _jpeg(page: tifffile.TiffPage, frame: Any) -> CodedColours:
    streams = [jpeg.self_contained(stream, page.jpegtables, rgb=False) for stream in _first(page, frame, b"\xff\xd8")]
    head = jpeg.read_colours(streams[0]) if streams else None
    if head is None or head.components != 3:
        return _AS_CODED
    if not head.supported:
        return CodedColours(
            fault=f"JPEG of an uncommon kind (SOF{head.frame - 0xC0}: hierarchical or arithmetic coding)"
        )
    by_tag = "rgb" if int(page.photometric) == RGB else "ycbcr"
    if head.stated in (None, by_tag):
        return CodedColours(passes=not head.lossless)
    # chroma at reduced size can only be that of YCbCr
    looks = _space(_decoded(page, frame, _raw_jpeg)) if head.equal else "ycbcr"
    words = f"The tags state {_NAMES[by_tag]}, the JPEG streams {_NAMES[head.stated]}"
    if looks == by_tag:
        return CodedColours(
            restated=by_tag, passes=False, note=f"{words}; the pixels are {_NAMES[by_tag]}, and are read so."
        )
    return CodedColours(passes=not head.lossless, note=f"{words}, as which they are read.")


def _jpeg2k(page: tifffile.TiffPage, frame: Any) -> CodedColours:
    head = next((jpeg2k.read_head(stream) for stream in _first(page, frame)), None)
    code, photometric = int(page.compression), int(page.photometric)
    aperio = bool(page.parent.is_svs)
    if head is None:
        return CodedColours(ycbcr=photometric == YCBCR or (aperio and code == APERIO_J2K_YCBCR))
    if head.components < 3 or photometric not in (RGB, YCBCR):
        return _AS_CODED
    stated = head.own_transform or head.colour_space in (jpeg2k.SRGB, jpeg2k.SYCC)
    if aperio and code == APERIO_J2K_YCBCR and not stated:
        # where chroma has fewer px, the decoder converts the colours together with enlarging it
        note = "Aperio's JPEG 2000 (33003) is YCbCr, whatever PhotometricInterpretation states."
        return CodedColours(ycbcr=not head.subsampled, passes=False, aperio=True, note=note)
    if stated or head.subsampled:
        passes = head.colour_space != jpeg2k.SYCC
        if code != APERIO_J2K_YCBCR and photometric == RGB:
            return CodedColours(passes=passes)
        how = "have a colour transform of their own" if head.own_transform else "state their colours themselves"
        how = "have chroma at reduced size" if head.subsampled else how
        return CodedColours(passes=passes, note=f"The JPEG 2000 streams {how}: their decoder gives RGB.")
    if aperio and code == APERIO_J2K_RGB:
        return _AS_CODED
    if photometric == YCBCR:
        return CodedColours(
            ycbcr=True, passes=False, note="JPEG 2000 without a colour transform, of YCbCr by its tags."
        )
    looks = _space(_decoded(page, frame, imagecodecs.jpeg2k_decode))
    if code != APERIO_J2K_YCBCR and looks != "ycbcr":
        return _AS_CODED
    words = "JPEG 2000 without a colour transform, stated to be RGB"
    if looks is None:
        return CodedColours(
            fault=f"{words} by PhotometricInterpretation and YCbCr by its compression code {code}; the pixels do not "
            "show which is right"
        )
    return CodedColours(
        ycbcr=looks == "ycbcr", passes=False, note=f"{words}; its pixels are {_NAMES[looks]}, and are read so."
    )


_NAMES = {"rgb": "RGB", "ycbcr": "YCbCr"}


def _space(samples: npt.NDArray[np.uint8]) -> str | None:
    """rgb, ycbcr, or None if these px (n, 3), as the streams hold them, could be either."""
    if not len(samples):
        return None
    outside = outside_rgb(samples, _MARGIN).mean()
    if outside > _MANY:
        return "rgb"
    luma, chroma = samples[:, 0], samples[:, 1:].astype(np.int16)
    neutral = (np.abs(chroma - 128) < _NEUTRAL).all(axis=1) & ((luma >= 200) | (luma <= 50))
    return "ycbcr" if outside < _FEW and neutral.mean() > _NEUTRAL_SHARE else None


def _decoded(page: tifffile.TiffPage, frame: Any, decode: Any) -> npt.NDArray[np.uint8]:
    """Px (n, 3) of some tiles spread over the image, unconverted; tiles that cannot be decoded are left out."""
    found = [np.empty((0, 3), np.uint8)]
    for stream in _spread(page, frame):
        try:
            if int(page.compression) == JPEG:
                stream = jpeg.self_contained(stream, page.jpegtables, rgb=False)
            pixels = np.asarray(decode(stream))
        except Exception:  # noqa: S112 - decoders raise errors of many kinds; other tiles may do
            continue
        if pixels.ndim == 3 and pixels.dtype == np.uint8:
            found.append(pixels[..., :3].reshape(-1, 3))
    return np.concatenate(found)


def _raw_jpeg(stream: bytes) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = imagecodecs.jpeg8_decode(
        jpeg.restated(stream, rgb=True), colorspace="RGB", outcolorspace="RGB"
    )
    return pixels


def _first(page: tifffile.TiffPage, frame: Any, start: bytes = b"\xff") -> Iterator[bytes]:
    """The first stored streams of an image that begin as such, at most one."""
    for stream in _read(page, frame, np.flatnonzero(np.asarray(frame.databytecounts))[:_TRIED_TILES]):
        if stream.startswith(start) or stream[4:8] == b"jP  ":
            yield stream
            return


def _spread(page: tifffile.TiffPage, frame: Any) -> Iterator[bytes]:
    stored = np.flatnonzero(np.asarray(frame.databytecounts))
    if len(stored):
        chosen = np.linspace(0, len(stored) - 1, _TRIED_TILES).round().astype(np.intp)
        yield from _read(page, frame, stored[np.unique(chosen)])


def _read(page: tifffile.TiffPage, frame: Any, numbers: Any) -> Iterator[bytes]:
    handle = page.parent.filehandle
    for number in numbers:
        offset, count = int(frame.dataoffsets[number]), int(frame.databytecounts[number])
        if not offset or offset + count > handle.size:
            continue
        with handle.lock:
            handle.seek(offset)
            stream = handle.read(count)
        yield stream
