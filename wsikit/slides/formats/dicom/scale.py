"""The pixel size that a DICOM slide states: PixelSpacing, checked against the size of the imaged volume."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wsikit.slides.formats.dicom.header import DicomFile
from wsikit.slides.scale import DICOM_SPACING, NO_SCALE, UNKNOWN, Scale

_VOLUME = "DICOM ImagedVolumeWidth"
_AGREE = 0.1
"""Relative difference up to which two statements of one size agree."""


def scale_of(files: Sequence[DicomFile]) -> tuple[Scale, list[str]]:
    """The scale of the first, finest level, not yet checked for plausibility, and what must be said of it.

    PixelSpacing is used. Where it is absent, the width and height of the imaged volume divided by the matrix are, if
    both axes agree.
    """
    first = files[0]
    spacing, volume = first.spacing, _um_of_volume(first)
    if spacing is None:
        return _from_volume(first, volume), []
    literal = f"PixelSpacing = {spacing[1] / 1000:.6g}\\{spacing[0] / 1000:.6g} mm"
    if not all(math.isfinite(value) and value > 0 for value in spacing):
        return Scale(None, UNKNOWN, f"the file says “{literal}”, which is not a pixel size"), []
    notes = []
    if volume is not None and not _close(spacing[0], volume[0]) and not _close(spacing[1], volume[1]):
        words = (
            f"{literal} and an imaged volume of {_mm(first)}, which would be {volume[0]:.4g} × {volume[1]:.4g} µm/px"
        )
        if spacing[0] > 20 or spacing[0] < 0.05:  # then one of the two must be in a wrong unit
            return Scale(None, DICOM_SPACING, f"the file contradicts itself: it says {words}"), []
        notes.append(f"the file says {words}: PixelSpacing is used")
    for level in files[1:]:
        expected = spacing[0] * first.size[0] / level.size[0]
        if level.spacing is not None and not _close(level.spacing[0], expected):
            notes.append(
                f"the file of {level.size[0]} × {level.size[1]} px says {level.spacing[0]:.4g} µm/px, its size below "
                f"the finest level is that of {expected:.4g} µm/px: the latter is used"
            )
    return Scale(spacing, DICOM_SPACING, literal=literal), notes


def _from_volume(first: DicomFile, volume: tuple[float, float] | None) -> Scale:
    if volume is None:
        return (
            Scale(None, UNKNOWN, "the file states no pixel size (PixelSpacing is missing)")
            if not first.lens
            else NO_SCALE
        )
    if not _close(*volume):
        words = (
            f"PixelSpacing is missing, and an imaged volume of {_mm(first)} for {first.size[0]} × {first.size[1]} px"
        )
        return Scale(
            None, UNKNOWN, f"the file states no pixel size: {words} is {volume[0]:.4g} × {volume[1]:.4g} µm/px"
        )
    return Scale(volume, _VOLUME, literal=f"imaged volume of {_mm(first)}")


def _um_of_volume(file: DicomFile) -> tuple[float, float] | None:
    """µm per px (x, y) of the imaged volume."""
    if file.volume_mm is None or min(file.volume_mm) <= 0 or not all(map(math.isfinite, file.volume_mm)):
        return None
    return file.volume_mm[0] * 1000 / file.size[0], file.volume_mm[1] * 1000 / file.size[1]


def _mm(file: DicomFile) -> str:
    assert file.volume_mm is not None
    return f"{file.volume_mm[0]:.4g} × {file.volume_mm[1]:.4g} mm"


def _um(mpp: tuple[float, float]) -> str:
    return f"{mpp[0]:.4g} × {mpp[1]:.4g} µm/px"


def _close(one: float, other: float) -> bool:
    return abs(one / other - 1) <= _AGREE
