"""Which properties of a slide file are kept. One allow-list, with the reason for each group.

Slide files contain names, case numbers, barcodes, dates, operators and file names of the hospital, in fields that
differ by vendor and cannot all be listed. A property is kept only if it is known to describe pixels or optics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OPTICS = {
    # scale and optics: the physical meaning of the pixels
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
    # type of device and software, which explain colour; no serial numbers, which identify a laboratory
    "dicom.Manufacturer",
    "dicom.ManufacturerModelName",
    "dicom.Modality",
    "philips.DICOM_MANUFACTURER",
    "tiff.Make",
    "tiff.Model",
    "tiff.Software",
}
_LAYOUT = {
    # position and coding of the pixels
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
    """The properties on the allow-list, as text, sorted by name. All others are dropped when the file is opened.

    >>> allowed({"aperio.MPP": 0.25, "aperio.User": "Doe"})
    {'aperio.MPP': '0.25'}
    """
    return {name: str(properties[name]) for name in sorted(properties) if name in ALLOWED}
