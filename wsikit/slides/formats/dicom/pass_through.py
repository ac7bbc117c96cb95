"""Why the frames of a DICOM level are not kept as they are, in words. Nothing is read here."""

from __future__ import annotations

from wsikit.slides.formats.dicom.coding import Coding
from wsikit.slides.formats.dicom.levels import Level


def fault(level: Level) -> str | None:
    """Why a store cannot keep the frames of a level, as the end of a sentence; None if it can."""
    if level.source is not None:
        return None
    return "its frames do not lie on one grid, or overlap" if level.places is not None else of_coding(level.coding)


def of_coding(coding: Coding) -> str:
    """Why frames of this coding are not tiles that a store holds."""
    if coding.codec == "native":
        return "its frames are not compressed"
    if coding.codec not in ("jpeg", "jpeg2k"):
        return f"its frames are {coding.compression}, which stores do not hold"
    if coding.white_level != 255:
        return f"its frames have {coding.white_level.bit_length()} bits per sample, not 8"
    if coding.meaning == "white is 0":
        return "its grey frames have 0 as white (MONOCHROME1)"
    if coding.meaning == "palette":
        return "the samples of its frames are indices of a palette"
    if coding.meaning == "ycc" or coding.by_content or coding.jpeg_as is not None:
        return f"its {coding.compression} frames do not state their colours, or wrong ones"
    return f"its {coding.compression} frames are of a kind that not all decoders read (HTJ2K, or colours in a JP2 file)"
