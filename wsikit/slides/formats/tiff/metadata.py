"""Metadata of a TIFF slide: scanner, pixel size, magnification, colour profile. No pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

from wsikit.slides.formats.tiff import philips
from wsikit.slides.formats.tiff.vendors import find_vendor
from wsikit.slides.properties import allowed
from wsikit.slides.scale import NO_SCALE, Scale, from_resolution, stated

_UM_PER_OME_UNIT = {"nm": 1e-3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}


@dataclass(frozen=True, slots=True)
class TiffMetadata:
    vendor: str
    scale: Scale
    magnification: float | None
    icc_profile: bytes | None
    significant_bits: int | None
    """Bits of a sample that carry signal, if stated: 12 in a 16-bit file of a 12-bit camera."""
    properties: dict[str, str]


def read_metadata(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, description: philips.Description | None = None
) -> TiffMetadata:
    """Metadata of the slide whose finest level is `page`. The vendor's metadata takes precedence over TIFF tags.

    `description` is the XML of a Philips TIFF.
    """
    first = tiff.pages[0].aspage() if tiff.is_svs else page
    found: dict[str, Any] = _tags(page)
    aperio = aperio_fields(first.description) if tiff.is_svs else {}
    ome = _ome_fields(tiff.ome_metadata, page) if tiff.is_ome else {}
    found.update({f"aperio.{key}": value for key, value in aperio.items()})
    found.update({f"ome.{key}": value for key, value in ome.items()})
    if description is not None:
        found.update({f"philips.{key}": value for key, value in description.fields.items()})
    bits = _number(ome.get("SignificantBits"))
    known = "aperio" if tiff.is_svs else "ome" if tiff.is_ome else "philips" if description else None
    vendor = find_vendor(tiff) if known is None else None
    scale = _scale(page, aperio, ome) if description is None else _philips_scale(description)
    if vendor is not None and vendor.mpp is not None:
        scale = stated(*vendor.mpp, vendor.mpp_source)
    lens = _number(aperio.get("AppMag")) or _number(ome.get("NominalMagnification"))
    return TiffMetadata(
        vendor=known or (vendor.name if vendor else "generic-tiff"),
        scale=scale,
        magnification=vendor.magnification if vendor else lens,
        icc_profile=_bytes(page.tags.valueof(34675)),
        significant_bits=int(bits) if bits else None,
        properties=allowed(found),
    )


def aperio_fields(description: str) -> dict[str, str]:
    """The `key = value` fields that an Aperio scanner writes into ImageDescription, separated by `|`."""
    fields = (part.split("=", 1) for part in description.split("|")[1:] if "=" in part)
    return {key.strip(): value.strip() for key, value in fields}


def _scale(page: tifffile.TiffPage, aperio: dict[str, str], ome: dict[str, str]) -> Scale:
    mpp = _number(aperio.get("MPP"))
    if mpp is not None:
        return stated(mpp, mpp, "vendor property aperio.MPP")
    ome_x, ome_y = _ome_um(ome, "X"), _ome_um(ome, "Y")
    if ome_x and ome_y:
        return stated(ome_x, ome_y, "OME-XML PhysicalSize")
    if aperio:
        # as in OpenSlide, the resolution tags of an Aperio file are not used: the scanner writes a default there
        return NO_SCALE
    unit = page.tags.valueof(296, 2)  # TIFF 6.0: inch if the tag is absent
    x_per_unit, y_per_unit = _ratio(page.tags.valueof(282)), _ratio(page.tags.valueof(283))
    return from_resolution(x_per_unit, y_per_unit, int(unit), "TIFF XResolution")


def _philips_scale(description: philips.Description) -> Scale:
    x, y = description.mpp or (None, None)
    return stated(x, y, "vendor property DICOM_PIXEL_SPACING")


def _tags(page: tifffile.TiffPage) -> dict[str, Any]:
    names = {271: "Make", 272: "Model", 305: "Software"}
    found: dict[str, Any] = {f"tiff.{name}": page.tags.valueof(code) for code, name in names.items()}
    found["tiff.XResolution"] = _ratio(page.tags.valueof(282))
    found["tiff.YResolution"] = _ratio(page.tags.valueof(283))
    unit = page.tags.valueof(296)
    found["tiff.ResolutionUnit"] = {2: "inch", 3: "centimeter"}.get(int(unit)) if unit is not None else None
    found["tiff.PhotometricInterpretation"] = getattr(page.photometric, "name", page.photometric)
    found["tiff.BitsPerSample"] = page.bitspersample
    return {name: value for name, value in found.items() if value is not None}


def _ome_fields(xml: str | None, page: tifffile.TiffPage) -> dict[str, str]:
    """Attributes of the OME image whose size is that of `page`."""
    if not xml:
        return {}
    root = ElementTree.fromstring(xml)
    fields: dict[str, str] = {}
    for pixels in root.iterfind(".//{*}Pixels"):
        if (pixels.get("SizeX"), pixels.get("SizeY")) == (str(page.imagewidth), str(page.imagelength)):
            fields.update(pixels.attrib)
            break
    for objective in root.iterfind(".//{*}Objective"):
        if "NominalMagnification" in objective.attrib:
            fields["NominalMagnification"] = objective.attrib["NominalMagnification"]
            break
    return fields


def _ome_um(ome: dict[str, str], axis: str) -> float | None:
    size = _number(ome.get(f"PhysicalSize{axis}"))
    factor = _UM_PER_OME_UNIT.get(ome.get(f"PhysicalSize{axis}Unit", "µm"))
    return size * factor if size and factor else None


def _number(text: str | None) -> float | None:
    """The number at the start of a text such as '40' or '0.2520'; None if there is none."""
    found = re.match(r"\s*([0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?)", text or "")
    return float(found.group(1)) if found else None


def _ratio(value: Any) -> float | None:
    """A TIFF rational as a number; None if it is absent or contains a zero."""
    if not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
        return None
    return float(value[0]) / float(value[1])


def _bytes(value: Any) -> bytes | None:
    return bytes(value) if value else None
