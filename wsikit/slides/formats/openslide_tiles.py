"""Why the tiles of a slide that OpenSlide reads cannot be kept as they are: by vendor, and by what our readers refuse.

OpenSlide returns pixels only. Which of these formats have tiles that could be kept was tried: see docs/formats.md.
"""

from __future__ import annotations

from wsikit.errors import SlideError
from wsikit.slides.formats.ndpi.layout import read_ndpi_layout
from wsikit.slides.formats.tiff.codecs import APERIO_J2K_YCBCR, COMPRESSIONS
from wsikit.slides.formats.tiff.layout import first_directory, read_layout

VENDORS = {
    "leica": "its scanned areas lie at places of the whole slide that are not multiples of a tile (Leica SCN)",
    "mirax": "its tiles overlap (MIRAX)",
    "sakura": "its colours are stored in separate tiles (Sakura SVSLIDE)",
    "synthetic": "it is OpenSlide's synthetic test slide",
    "trestle": "its tiles overlap (Trestle)",
    "ventana": "its tiles overlap (Ventana BIF)",
    "zeiss": "its tiles overlap, and are not JPEG in most files (Zeiss CZI)",
}
"""By OpenSlide's name of the vendor: what holds for every file of the format."""


def pass_through_fault(path: str, vendor: str) -> str:
    """Why OpenSlide reads the slide, so that its tiles are encoded again; as the end of a sentence."""
    if vendor in VENDORS:
        return VENDORS[vendor]
    with open(path, "rb") as file:
        is_tiff = first_directory(file.read(16)) is not None
    if vendor == "hamamatsu" and not is_tiff:
        return "its images are whole JPEG files, read by OpenSlide (Hamamatsu VMS or VMU)"
    if not is_tiff:
        return "OpenSlide reads it, which returns pixels, not coded tiles"
    if vendor in ("argos", "huron"):
        from wsikit.slides.formats.tiff.agreement import disagreement

        reason = disagreement(path)
        return _requested("tiff") if reason is None else f"OpenSlide reads it, which returns pixels only; {reason}"
    try:
        if vendor == "hamamatsu":
            read_ndpi_layout(path, "ndpi")
            return _requested("ndpi")
        layout = read_layout(path, "tiff")
    except SlideError as error:
        return f"OpenSlide reads it, which returns pixels only; {_reason(error, path)}"
    code = layout.levels[0].compression
    if code == APERIO_J2K_YCBCR:
        return f"OpenSlide reads it, which returns pixels only: its tiles are {COMPRESSIONS[code]}, code {code}"
    return _requested("tiff")


def _requested(better: str) -> str:
    return f"OpenSlide was requested, which returns pixels, not coded tiles; reader {better} gives access to the tiles"


def _reason(error: SlideError, path: str) -> str:
    """The first sentence of a refusal, without the path."""
    return str(error).removeprefix(f"{path}: ").partition(". ")[0].rstrip(".")
