"""Metadata of a TIFF slide: scanner, pixel size, magnification, colour profile. No pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

from wsikit.lengths import um_per_unit
from wsikit.slides.formats.tiff import philips
from wsikit.slides.formats.tiff.vendors import find_vendor
from wsikit.slides.properties import allowed
from wsikit.slides.scale import NO_SCALE, UNKNOWN, Scale, from_resolution, per_unit, stated, stated_text

_UNITS = {1: "none", 2: "inch", 3: "centimeter", 4: "millimeter", 5: "micrometer"}
"""TIFF ResolutionUnit."""

_SIZE = re.compile(r"(?<![\d(])(\d+)x(\d+)(?![\d)])")
"""Sizes of images in an Aperio description; those of tiles are in brackets."""
_RESIZED = 1.2
"""An image whose size differs from the stated one by this factor, and has its aspect, is a reduced or enlarged copy."""


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
    tiff: tifffile.TiffFile,
    page: tifffile.TiffPage,
    description: philips.Description | None = None,
    ome_image: int | None = None,
) -> TiffMetadata:
    """Metadata of the slide whose finest level is `page`. The vendor's metadata takes precedence over TIFF tags.

    `description` is the XML of a Philips TIFF; `ome_image` is the place of this image among those of an OME-XML, if it
    is known.
    """
    first = tiff.pages[0].aspage() if tiff.is_svs else page
    found: dict[str, Any] = _tags(page)
    aperio = aperio_fields(first.description) if tiff.is_svs else {}
    ome = _ome_fields(tiff.ome_metadata, page, ome_image) if tiff.is_ome else {}
    found.update({f"aperio.{key}": value for key, value in aperio.items()})
    found.update({f"ome.{key}": value for key, value in ome.items()})
    if description is not None:
        found.update({f"philips.{key}": value for key, value in description.fields.items()})
    bits = _number(ome.get("SignificantBits"))
    known = "aperio" if tiff.is_svs else "ome" if tiff.is_ome else "philips" if description else None
    vendor = find_vendor(tiff) if known is None else None
    scale = _scale(tiff, page, aperio, ome) if description is None else _philips_scale(description)
    if scale.mpp is not None and aperio:
        scale = _of_this_size(scale, first.description, page)
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


def _scale(tiff: tifffile.TiffFile, page: tifffile.TiffPage, aperio: dict[str, str], ome: dict[str, str]) -> Scale:
    if aperio:
        # as in OpenSlide, the resolution tags of an Aperio file are not used: the scanner writes a default there
        if "MPP" not in aperio:
            return Scale(None, UNKNOWN, literal=f"AppMag = {aperio['AppMag']}" if "AppMag" in aperio else "")
        text = aperio["MPP"]
        return stated_text(text, text, "vendor property aperio.MPP", f"MPP = {text}")
    in_ome = _ome_scale(ome)
    in_tags = _imagej_scale(tiff, page) if tiff.is_imagej else _tag_scale(page)
    # OME-XML of no use, such as a size in pixels, leaves the tags
    return in_ome if in_ome.mpp or (in_ome.fault and not in_tags.mpp) else in_tags


def _of_this_size(scale: Scale, description: str, page: tifffile.TiffPage) -> Scale:
    """No scale if the Aperio description is of the same picture at another size.

    libvips and others copy the text into the slide that they make smaller, where its MPP is no longer right.
    """
    width, height = int(page.imagewidth), int(page.imagelength)
    sizes = [(int(w), int(h)) for w, h in _SIZE.findall(description)]
    if (width, height) in sizes:
        return scale
    for stated_width, stated_height in sizes:
        times = stated_width / width
        if max(times, 1 / times) > _RESIZED and abs(stated_height / times - height) <= 1:
            fault = (
                f"the file says “{scale.literal}” of an image of {stated_width} × {stated_height} px, and this one has "
                f"{width} × {height} px: its text is probably that of the slide from which it was made"
            )
            return Scale(None, scale.source, fault)
    return scale


def _ome_scale(ome: dict[str, str]) -> Scale:
    """PhysicalSizeX and Y with their units, µm by default. `pixel` and `reference frame` are no lengths: no scale."""
    sizes = [ome.get(f"PhysicalSize{axis}") for axis in "XY"]
    units = [ome.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"]
    if any(um_per_unit(unit) is None for unit in units):
        return NO_SCALE
    words = ", ".join(f"PhysicalSize{axis} = {size} {unit}" for axis, size, unit in zip("XY", sizes, units))
    x, y = (None if size is None else f"{size} {unit}" for size, unit in zip(sizes, units))
    return stated_text(x, y, "OME-XML PhysicalSize", words)


def _tag_scale(page: tifffile.TiffPage) -> Scale:
    unit = int(page.tags.valueof(296, 2))  # TIFF 6.0: inch if the tag is absent
    x, y = (page.tags.valueof(code) for code in (282, 283))
    literal = f"{_resolution_words(x, y)}, ResolutionUnit = {_UNITS.get(unit, unit)}"
    if x is not None and y is not None and unit != 1 and not (_ratio(x) and _ratio(y)):
        return Scale(None, UNKNOWN, f"the file says “{literal}”, which is not a pixel size")
    return from_resolution(_ratio(x), _ratio(y), unit, "TIFF XResolution", literal)


def _imagej_scale(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Scale:
    """ImageJ states the unit of XResolution in words, in the description of the first page; pixel is no length."""
    lines = (line.partition("=") for line in tiff.pages[0].aspage().description.splitlines())
    fields = {key.strip(): value for key, _, value in reversed(list(lines))}
    unit = fields.get("unit")
    if unit is None:
        return _tag_scale(page)
    # the unit of y is written only where it differs
    unit_y = fields.get("yunit", unit)
    x, y = (page.tags.valueof(code) for code in (282, 283))
    literal = f"{_resolution_words(x, y)}, unit={unit}" + (f", yunit={unit_y}" if unit_y != unit else "")
    um_x, um_y = (um_per_unit(name) if name.strip() else None for name in (unit, unit_y))
    per_y = _ratio(y)
    if um_x and um_y and per_y:
        per_y *= um_x / um_y
    return per_unit(_ratio(x), per_y, um_x if um_y else None, "ImageJ unit", literal)


def _resolution_words(x: Any, y: Any) -> str:
    words = []
    for name, value in (("XResolution", x), ("YResolution", y)):
        words.append(f"{name} = {'/'.join(map(str, value)) if isinstance(value, tuple) else value}")
    return ", ".join(words[:1] if x == y else words)


def _philips_scale(description: philips.Description) -> Scale:
    x, y = description.mpp or (None, None)
    literal = f"DICOM_PIXEL_SPACING = {description.fields.get('DICOM_PIXEL_SPACING')}"
    return stated(x, y, "vendor property DICOM_PIXEL_SPACING", literal)


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


def _ome_fields(xml: str | None, page: tifffile.TiffPage, number: int | None) -> dict[str, str]:
    """Attributes of the OME image of this number, or else of the first whose size is that of `page`."""
    try:
        root = ElementTree.fromstring(xml or "")
    except ElementTree.ParseError:  # a text of no use leaves the tags
        return {}
    fields: dict[str, str] = {}
    images = root.findall("{*}Image")
    for pixels in (root if number is None else images[number]).iterfind(".//{*}Pixels"):
        if (pixels.get("SizeX"), pixels.get("SizeY")) == (str(page.imagewidth), str(page.imagelength)):
            fields.update(pixels.attrib)
            break
    for objective in root.iterfind(".//{*}Objective"):
        if "NominalMagnification" in objective.attrib:
            fields["NominalMagnification"] = objective.attrib["NominalMagnification"]
            break
    return fields


def _number(text: str | None) -> float | None:
    """The number at the start of a text such as '40' or '0.2520'; None if there is none."""
    found = re.match(r"\s*([0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?)", text or "")
    return float(found.group(1)) if found else None


def _ratio(value: Any) -> float | None:
    """A TIFF rational, or a number in its place, as a number; None if it is absent or contains a zero."""
    if isinstance(value, (int, float)):
        return float(value) or None
    if not isinstance(value, tuple) or len(value) != 2 or not value[0] or not value[1]:
        return None
    return float(value[0]) / float(value[1])


def _bytes(value: Any) -> bytes | None:
    return bytes(value) if value else None
