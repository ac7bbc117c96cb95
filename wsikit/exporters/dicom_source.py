"""The DICOM slide that a result refers to: its instance, study and frame of reference, without patient data.

The header is made of a list of attributes to copy, so what is not named here is never written. Without a DICOM slide
the identifiers are made from the fingerprint of the slide file: the same slide has the same identifiers.
"""

from __future__ import annotations

import datetime
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikit.errors import RequestError
from wsikit.slides.store import SlideStore

if TYPE_CHECKING:
    from pydicom import Dataset

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage."""

_NAMESPACE = uuid.UUID("b1a2f6c4-0c6e-5d0e-9a57-7d1f0c1f5a10")
_REFERENCE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Rows",
    "Columns",
    "TotalPixelMatrixOriginSequence",
    "ImageOrientationSlide",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_PATIENT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "ContainerIdentifier",
    "IssuerOfTheContainerIdentifierSequence",
    "ContainerTypeCodeSequence",
    "SpecimenDescriptionSequence",
)
_EMPTY = _PATIENT[:2] + _PATIENT[3:10]
"""Attributes of patient and study that must be there, empty where they are not known."""
_TILE_PX = 512
_ORIENTATION = [0.0, -1.0, 0.0, -1.0, 0.0, 0.0]
"""Direction of rows and of columns of a slide with its label to the left (DICOM PS3.3, C.8.12.2)."""


@dataclass(frozen=True, eq=False)
class DicomSource:
    """The slide that is referred to."""

    header: Dataset
    """Header of its finest level, without pixels and, unless it was asked for, without patient data."""
    made_up: bool
    """Whether there is no such instance: identifiers and the place on the glass are made up."""


def uid_of(*words: str) -> str:
    """A DICOM identifier below 2.25 that follows from `words`.

    >>> uid_of("a") == uid_of("a"), uid_of("a")[:5]
    (True, '2.25.')
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(words)).int}"


def dicom_source(
    store: SlideStore, path: str | os.PathLike[str] | None = None, *, with_patient: bool = False
) -> DicomSource:
    """The header to refer to.

    Parameters
    ----------
    store
        The slide's store.
    path
        The slide in DICOM, a file or a folder: its source, or what another tool converted from it. None: made up.
    with_patient
        Copy patient, study and specimen from `path`; by default they are empty.

    Raises
    ------
    RequestError
        `path` is not a DICOM slide, is not of the size of the store, or lacks its frame of reference; or
        `with_patient` without `path`.
    """
    if path is not None:
        return DicomSource(_header_of(store, os.fspath(path), with_patient), made_up=False)
    if with_patient:
        raise RequestError("--dicom-patient: patient data are copied from the slide in DICOM: give --dicom-source, too")
    return DicomSource(_made_up(store), made_up=True)


def _header_of(store: SlideStore, path: str, with_patient: bool) -> Dataset:
    import pydicom

    from wsikit.slides.formats.dicom.files import read_header, same_series, slides_of
    from wsikit.slides.formats.dicom.reader import slide_file

    own = read_header(slide_file(path))
    if own is None or not own.is_level:
        raise RequestError(f"{path}: not a level of a DICOM slide; give a file of the slide, or its folder")
    slide = next((levels for levels in slides_of(same_series(own.path)) if own.glass == levels[0].glass), [own])
    finest = slide[0]
    if finest.size != store.dimensions:
        raise RequestError(
            f"{path}: {finest.size[0]}×{finest.size[1]} px found, expected {store.dimensions[0]}×{store.dimensions[1]} "
            f"px as in {store.slide_id}. Give the DICOM slide that was made from the same scan, uncropped."
        )
    tags: Any = [*_REFERENCE, *_PATIENT, "SpecificCharacterSet"]  # without the frames: of 100,000 they take 14 s
    found = pydicom.dcmread(finest.path, stop_before_pixels=True, specific_tags=tags)
    found.decode()
    if "FrameOfReferenceUID" not in found or "StudyInstanceUID" not in found:
        raise RequestError(
            f"{finest.path}: no frame of reference or study; the result could not be laid over the slide"
        )
    header = _made_up(store)
    for name in (*_REFERENCE, *(_PATIENT if with_patient else ())):
        if name in found:
            setattr(header, name, getattr(found, name))
    return header


def _made_up(store: SlideStore) -> Dataset:
    """A header of the store's geometry, with made-up identifiers."""
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    fingerprint = str(store.record["source"]["fingerprint"])
    (width, height), (mpp_x, mpp_y) = store.dimensions, store.mpp
    header = Dataset()
    for name in _EMPTY:
        setattr(header, name, None)
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = SLIDE_CLASS
    header.SOPInstanceUID = uid_of("level 0", fingerprint)
    header.StudyInstanceUID = uid_of("study", fingerprint)
    header.SeriesInstanceUID = uid_of("series", fingerprint)
    header.FrameOfReferenceUID = uid_of("frame of reference", fingerprint)
    header.PositionReferenceIndicator = "SLIDE_CORNER"
    header.Modality = "SM"
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    header.Rows = header.Columns = _TILE_PX
    header.NumberOfFrames = -(-width // _TILE_PX) * -(-height // _TILE_PX)
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = width, height
    header.DimensionOrganizationType = "TILED_FULL"
    header.ImageOrientationSlide = list(_ORIENTATION)
    origin = Dataset()  # the opposite corner of the image is the corner of the glass
    origin.XOffsetInSlideCoordinateSystem = round(height * mpp_y / 1000, 6)
    origin.YOffsetInSlideCoordinateSystem = round(width * mpp_x / 1000, 6)
    header.TotalPixelMatrixOriginSequence = [origin]
    header.LossyImageCompression = "00"
    header.ContainerIdentifier = store.slide_id[:64]
    header.IssuerOfTheContainerIdentifierSequence = []
    header.ContainerTypeCodeSequence = [_code(codes.SCT.MicroscopeSlide)]
    specimen = Dataset()
    specimen.SpecimenIdentifier = store.slide_id[:64]
    specimen.SpecimenUID = uid_of("specimen", fingerprint)
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    header.SpecimenDescriptionSequence = [specimen]
    measures, shared = Dataset(), Dataset()
    measures.PixelSpacing = [round(mpp_y / 1000, 10), round(mpp_x / 1000, 10)]
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    return header


def _code(code: Any) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def stamp_time(dataset: Dataset, study_uid: str) -> None:
    """Replace what highdicom takes from clock and chance, so that equal input gives equal bytes.

    The time is that of the clock, or SOURCE_DATE_EPOCH, seconds since 1970, if it is set.
    """
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    now = (
        datetime.datetime.now(datetime.UTC)
        if fixed is None
        else datetime.datetime.fromtimestamp(int(fixed), datetime.UTC)
    )
    for kind in ("Content", "InstanceCreation", "Series"):
        for part, text in (("Date", now.strftime("%Y%m%d")), ("Time", now.strftime("%H%M%S"))):
            if f"{kind}{part}" in dataset:
                setattr(dataset, f"{kind}{part}", text)
    for item in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S+0000")
    organization = uid_of("dimensions", study_uid, str(dataset.SOPInstanceUID))
    for sequence in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(sequence, []):
            item.DimensionOrganizationUID = organization
