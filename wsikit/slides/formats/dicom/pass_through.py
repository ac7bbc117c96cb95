"""Why the frames of a DICOM level are not kept as they are."""

from __future__ import annotations

from wsikit.slides.formats.dicom.levels import Level

_KEPT = ("jpeg", "jpeg2k")
_MEANINGS = {
    "ycc": "hold YCbCr that their streams do not state",
    "white is 0": "have 0 as white",
    "palette": "are numbers of a palette",
}


def fault(level: Level) -> str | None:
    """Why a store cannot keep the frames of `level` as they are, as the end of a sentence; None if it can."""
    if level.source is not None:
        return None
    coding = level.coding
    if level.places is not None:
        return "its frames lie on no grid"
    if coding.codec == "native":
        return "its frames are not compressed"
    if coding.codec not in _KEPT:
        return f"its frames are {coding.compression}, not JPEG"
    if coding.meaning in _MEANINGS:
        return f"its frames {_MEANINGS[coding.meaning]}"
    if coding.white_level != 255:
        return f"its frames have {coding.white_level.bit_length()} bits per sample, not 8"
    if coding.by_content or coding.jpeg_as is not None:
        return "only their samples show the colours of its frames"
    return f"its {coding.compression} frames do not state their colours, or have a form that not every decoder reads"
