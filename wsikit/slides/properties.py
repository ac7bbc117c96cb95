"""Which of a slide file's own properties travel with it. One allow-list, with the reason for each group.

Slide files carry names, case numbers, barcodes, dates, operators and file names of the hospital, in fields that differ
by vendor and that nobody can list. So nothing is passed on unless it is known to describe pixels or optics only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPTICS = {
    # scale and optics: what the pixels mean physically
    "aperio.AppMag",
    "aperio.MPP",
    "hamamatsu.SourceLens",
    "hamamatsu.XOffsetFromSlideCentre",
    "hamamatsu.YOffsetFromSlideCentre",
    "leica.aperture",
    "leica.illumination-source",
    "leica.objective",
    "mirax.GENERAL.OBJECTIVE_MAGNIFICATION",
    "ome.NominalMagnification",
    "ome.PhysicalSizeX",
    "ome.PhysicalSizeY",
    "openslide.mpp-x",
    "openslide.mpp-y",
    "openslide.objective-power",
    "philips.DICOM_LOSSY_IMAGE_COMPRESSION_METHOD",
    "philips.DICOM_LOSSY_IMAGE_COMPRESSION_RATIO",
    "philips.DICOM_PIXEL_SPACING",
    "tiff.ResolutionUnit",
    "tiff.XResolution",
    "tiff.YResolution",
    "tiffslide.mpp-x",
    "tiffslide.mpp-y",
    "tiffslide.objective-power",
    "ventana.Magnification",
    "ventana.ScanRes",
}
_DEVICE = {
    # kind of device and software, which explain colour; never serial numbers, which lead to one laboratory
    "dicom.Manufacturer",
    "dicom.ManufacturerModelName",
    "dicom.Modality",
    "philips.DICOM_MANUFACTURER",
    "tiff.Make",
    "tiff.Model",
    "tiff.Software",
}
_LAYOUT = {
    # where the pixels lie and how they are coded
    "aperio.OriginalHeight",
    "aperio.OriginalWidth",
    "aperio.Originalheight",
    "dicom.ImageType[0]",
    "dicom.ImageType[1]",
    "dicom.ImageType[2]",
    "dicom.ImageType[3]",
    "dicom.PhotometricInterpretation",
    "dicom.TransferSyntaxUID",
    "openslide.background-color",
    "openslide.bounds-height",
    "openslide.bounds-width",
    "openslide.bounds-x",
    "openslide.bounds-y",
    "openslide.icc-size",
    "openslide.level-count",
    "openslide.vendor",
    "tiff.BitsPerSample",
    "tiff.PhotometricInterpretation",
    "tiffslide.vendor",
    "wsikit.white-level",
}
ALLOWED = frozenset(_OPTICS | _DEVICE | _LAYOUT)


def allowed(properties: Mapping[str, Any]) -> dict[str, str]:
    """The properties that may travel, as text, sorted by name. All others are dropped before anything sees them."""
    return {name: str(properties[name]) for name in sorted(properties) if name in ALLOWED}
