"""What a DICOM file is, in words: a slide, or something else that is named. Headers only.

Names of classes: DICOM PS3.6, annex A.
"""

from __future__ import annotations

import re

_SLIDE_CLASSES = ("1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.5.1.4.1.1.77.1.9")
"""VL Whole Slide Microscopy, Confocal Microscopy Tiled Pyramidal."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_WORDS = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, the list of the files of a DICOM medium",
    _STORAGE + "66.4": "a DICOM segmentation (SEG)",
    _STORAGE + "66.7": "a DICOM segmentation (SEG, label map)",
    _STORAGE + "66.5": "a DICOM surface segmentation",
    _STORAGE + "91.1": "DICOM annotations of a slide (ANN)",
    _STORAGE + "30": "a DICOM parametric map",
    _STORAGE + "104.1": "a PDF document in DICOM",
    _STORAGE + "104.2": "a CDA document in DICOM",
    _STORAGE + "2": "a CT image",
    _STORAGE + "2.1": "a CT image",
    _STORAGE + "4": "an MR image",
    _STORAGE + "4.1": "an MR image",
    _STORAGE + "128": "a PET image",
    _STORAGE + "20": "a nuclear medicine image",
    _STORAGE + "6.1": "an ultrasound image",
    _STORAGE + "3.1": "an ultrasound clip",
    _STORAGE + "1": "a radiograph",
    _STORAGE + "1.1": "a radiograph",
    _STORAGE + "1.2": "a mammogram",
    _STORAGE + "7": "a DICOM secondary capture",
    _STORAGE + "77.1.1": "an endoscopic image (VL Endoscopic)",
    _STORAGE + "77.1.2": "a single field of a microscope (VL Microscopic)",
    _STORAGE + "77.1.3": "a single field of a microscope (VL Slide-Coordinates Microscopic)",
    _STORAGE + "77.1.4": "a photograph (VL Photographic)",
    _STORAGE + "77.1.8": "a confocal microscopy image",
}
_KINDS = (
    (r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.88\.\d+", "a DICOM structured report (SR)"),
    (r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.11\.\d+", "a DICOM presentation state"),
    (r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.7\.\d", "a DICOM secondary capture"),
    (r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.9\.\d+(\.\d)?", "a DICOM waveform"),
    (r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.77\.1\.\d\.1", "a video (VL)"),
    (r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.481\.\d+", "a DICOM radiotherapy object"),
)
_OF_SLIDE = "It belongs to a slide: open both in a DICOM viewer such as Slim, and give wsikit the slide itself."
_NEXT = {
    "1.2.840.10008.1.3.10": "Give a file of the slide itself.",
    _STORAGE + "66.4": _OF_SLIDE,
    _STORAGE + "66.7": _OF_SLIDE,
    _STORAGE + "91.1": _OF_SLIDE,
    _STORAGE + "7": "A picture in DICOM: convert it to PNG or TIFF, for example with dcm2img.",
}
_IMAGES = "It is one picture: convert it to PNG or TIFF, for example with dcm2img, and give its pixel size."
_GIVE_SLIDE = "Give a file of the slide itself (VL Whole Slide Microscopy, modality SM)."
_ONE_PICTURE = re.compile(r"77\.1\.|\.1\.1\.7(\.\d)?$")


def is_slide_class(sop_class: str) -> bool:
    """Whether files of this SOP class are levels, labels and overviews of slides; also if the class is not stated."""
    return sop_class in _SLIDE_CLASSES or not sop_class


def in_words(sop_class: str, modality: str) -> str:
    """What a file of this SOP class is.

    >>> in_words("1.2.840.10008.5.1.4.1.1.66.4", "SEG")
    'a DICOM segmentation (SEG)'
    """
    if sop_class in _WORDS:
        return _WORDS[sop_class]
    for pattern, words in _KINDS:
        if re.fullmatch(pattern, sop_class):
            return words
    from pydicom.uid import UID

    name = UID(sop_class).name
    shown = name if name and name != sop_class else f"of SOP class {re.sub(r'[^0-9.]', '?', sop_class)[:64]}"
    return f"a DICOM file ({shown}{', modality ' + modality if modality.isalnum() else ''})"


def refusal(sop_class: str, modality: str) -> str | None:
    """Why a file of this class is no slide, and the next step; None if it is one."""
    if is_slide_class(sop_class):
        return None
    step = _NEXT.get(sop_class) or (_IMAGES if _ONE_PICTURE.search(sop_class) else _GIVE_SLIDE)
    return f"{in_words(sop_class, modality)}, not a DICOM slide. {step}"


def syntax_in_words(uid: str) -> str:
    """Name and UID of a transfer syntax."""
    from pydicom.uid import UID

    clean = re.sub(r"[^0-9.]", "?", uid)[:64]
    name = UID(clean).name
    return f"{clean} ({name})" if name and name != clean else clean or "unknown"
