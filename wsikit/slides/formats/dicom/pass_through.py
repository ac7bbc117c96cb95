"""Why the frames of a DICOM level are not kept as they are. Asked only for levels that OpenSlide reads."""

from __future__ import annotations

from wsikit.slides.formats.dicom.files import DicomFile, same_series

_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
_SYNTAXES = {
    "1.2.840.10008.1.2": "are not compressed",
    "1.2.840.10008.1.2.1": "are not compressed",
    "1.2.840.10008.1.2.1.99": "are not compressed one by one (deflated)",
    "1.2.840.10008.1.2.2": "are not compressed",
    "1.2.840.10008.1.2.4.51": "are JPEG with 12 bits",
    "1.2.840.10008.1.2.4.57": "are lossless JPEG, which stores do not hold",
    "1.2.840.10008.1.2.4.70": "are lossless JPEG, which stores do not hold",
    "1.2.840.10008.1.2.4.80": "are JPEG-LS, which stores do not hold",
    "1.2.840.10008.1.2.4.81": "are JPEG-LS, which stores do not hold",
    "1.2.840.10008.1.2.4.201": "are HTJ2K, which stores do not hold",
    "1.2.840.10008.1.2.4.202": "are HTJ2K, which stores do not hold",
    "1.2.840.10008.1.2.4.203": "are HTJ2K, which stores do not hold",
    "1.2.840.10008.1.2.5": "are run-length coded",
}
"""What the frames of a transfer syntax are (DICOM PS3.6, annex A), where they cannot be kept."""
_KEPT = frozenset({_JPEG_BASELINE, "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"})


def fault(path: str, size: tuple[int, int]) -> str:
    """Why the frames of the level of `size`, (width, height) px, are encoded again; as the end of a sentence."""
    files = [file for file in same_series(path) if file.is_level and file.size == size]
    if not files:
        return "its header cannot be read without OpenSlide"
    return f"{len(files)} files of the series hold this level" if len(files) > 1 else of_file(files[0])


def of_file(file: DicomFile) -> str:
    """Why the frames of one file are not the tiles of its level."""
    if file.several:
        return "the file has several focal planes or optical paths, or is one part of a level"
    if file.bits != 8:
        return f"its frames have {file.bits} bits per sample, not 8"
    if file.channels not in (1, 3):
        return f"its frames have {file.channels} channels"
    if file.transfer_syntax in _SYNTAXES:
        return f"its frames {_SYNTAXES[file.transfer_syntax]}"
    if file.transfer_syntax not in _KEPT:
        return f"its frames have transfer syntax {file.transfer_syntax}, which stores do not hold"
    if file.transfer_syntax != _JPEG_BASELINE and file.photometric.startswith("YBR"):
        return f"its JPEG 2000 frames are {file.photometric}, which their streams do not state or do not hold as RGB"
    return "its frames do not cover the level once each, or the header of one cannot be read"
