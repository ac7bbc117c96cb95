"""Compression codes of TIFF: which are read, by which decoder of imagecodecs, and which are refused by name."""

from __future__ import annotations

import imagecodecs

COMPRESSIONS = {
    1: "none",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    22610: "JPEG XR",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    34926: "Zstandard",
    34927: "WebP",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Codes that are read. 33003 to 33005 were assigned by Aperio; Bio-Formats uses them for any JPEG 2000."""

LZW, JPEG = 5, 7
APERIO_J2K_YCBCR, APERIO_J2K_RGB = 33003, 33005
JPEG_2000 = (33003, 33004, 33005, 34712)

_DECODERS = {
    "LZW": "LZW",
    "PackBits": "PACKBITS",
    "JPEG 2000": "JPEG2K",
    "JPEG XR": "JPEGXR",
    "JPEG XL": "JPEGXL",
    "LERC": "LERC",
    "LZMA": "LZMA",
    "PNG": "PNG",
    "WebP": "WEBP",
    "Zstandard": "ZSTD",
}
"""Names of decoders in imagecodecs, of which a build need not have all."""

_REFUSED = {
    2: "CCITT (bilevel fax)",
    3: "CCITT (bilevel fax)",
    4: "CCITT (bilevel fax)",
    6: "old-style JPEG",
    32771: "CCITT (bilevel fax)",
    33007: "a method that Aperio uses for uncompressed YCbCr and Bio-Formats for JPEG",
    34661: "JBIG (bilevel)",
    34892: "lossy JPEG as in camera raw files",
}

_NO_COLOUR_TRANSFORM = frozenset({"none", "LZW", "deflate", "PackBits", "Zstandard", "LZMA", "LERC"})


def codec_fault(code: int) -> str | None:
    """Why images of this compression code are not read, as text with the next step; None if they are."""
    name = COMPRESSIONS.get(code)
    if name is None:
        known = f"{_REFUSED[code]}, TIFF method {code}," if code in _REFUSED else f"method {code},"
        return (
            f"its pixels are compressed by {known} for which there is no decoder here. "
            "If that is not an error in the file, export the slide again with JPEG compression."
        )
    decoder = _DECODERS.get(name)
    if decoder is not None and not getattr(getattr(imagecodecs, decoder, None), "available", False):
        return (
            f"its pixels are compressed with {name}, and the installed imagecodecs {imagecodecs.__version__} has no "
            f"decoder {decoder.lower()}. Install a complete imagecodecs: pip install --upgrade imagecodecs."
        )
    return None


def lzw_is_longer(encoded: bytes, decoded_bytes: int) -> bool:
    """Whether LZW data hold more than a tile does. LZW has no checksum, and its decoder stops when a tile is full.

    >>> data = imagecodecs.lzw_encode(bytes(100))
    >>> lzw_is_longer(data, 100), lzw_is_longer(data, 90)
    (False, True)
    """
    return len(imagecodecs.lzw_decode(encoded, out=decoded_bytes + 1)) > decoded_bytes


def keeps_colours(code: int) -> bool:
    """Whether the decoder returns the colours as they were stored; decoders of pictures convert YCbCr to RGB."""
    return COMPRESSIONS.get(code) in _NO_COLOUR_TRANSFORM
