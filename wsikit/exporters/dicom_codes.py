"""Codes of classes and of the algorithm in DICOM objects: SNOMED CT where there is one, otherwise a private scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.summary_text import RESEARCH_USE

if TYPE_CHECKING:
    from pydicom import Dataset

PRIVATE_SCHEME = "99WSIKIT"
"""Designator of the private scheme: its code values are the class codes of the model."""

_SNOMED = {
    "adipose tissue": "AdiposeTissue",
    "connective tissue": "ConnectiveTissue",
    "fat": "AdiposeTissue",
    "hemorrhage": "Hemorrhage",
    "inflammation": "InflammationMorphologic",
    "necrosis": "Necrosis",
    "neoplasm": "Neoplasm",
    "tumor": "Neoplasm",
    "tumour": "Neoplasm",
}
"""Class names, in lower case, with a concept of SNOMED CT that DICOM itself uses (pydicom's dictionary)."""


def need_highdicom() -> Any:
    """The package highdicom; RequestError with the command that installs it."""
    try:
        import highdicom
        import highdicom.ann
        import highdicom.seg
    except ModuleNotFoundError as error:
        raise RequestError(
            f"DICOM results need the package {error.name}, not installed: pip install 'wsikit[dicom]'"
        ) from error
    return highdicom


def class_code(class_map: ClassMap, index: int) -> Any:
    """The code of a class.

    The grades of differentiation have no concept of their own that DICOM lists, so they are of the private scheme.
    """
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    name = class_map.class_names[index]
    concept = _SNOMED.get(name.lower())
    if concept is not None:
        return getattr(codes.SCT, concept)
    return Code(class_map.classes[index], PRIVATE_SCHEME, name[:64])


def category_code(class_map: ClassMap, index: int) -> Any:
    """The category of a class: abnormal structure for those that vote, tissue for the others."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    if class_map.classes[index] in class_map.background:
        return Code("85756007", "SCT", "Tissue")  # the name that CID 7150 gives to this code
    return codes.SCT.MorphologicallyAbnormalStructure


def algorithm(model: Mapping[str, Any]) -> Any:
    """Name and version of the model, and that its use is research."""
    from pydicom.sr.codedict import codes

    return need_highdicom().AlgorithmIdentificationSequence(
        name=str(model["name"])[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=str(model["version"])[:64],
        source="wsikit",
        parameters={"use": RESEARCH_USE, "fingerprint": str(model["fingerprint"])},
    )


def equipment(model: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of highdicom that name the software."""
    from wsikit._version import __version__

    return {
        "manufacturer": "wsikit",
        "manufacturer_model_name": "wsikit",
        "software_versions": __version__,
        "device_serial_number": str(model["fingerprint"])[:64] or "0",
        "content_description": RESEARCH_USE,
        "series_number": 1,
        "instance_number": 1,
    }


def name_scheme(dataset: Dataset) -> None:
    """State in `dataset` what the private scheme is."""
    from pydicom import Dataset

    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = "Class codes of wsikit models"
    scheme.CodingSchemeResponsibleOrganization = "wsikit"
    dataset.CodingSchemeIdentificationSequence = [scheme]
