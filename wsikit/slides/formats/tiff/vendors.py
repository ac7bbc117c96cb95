"""Scanners whose TIFF files are plain grids of tiles: pixel size, magnification, and what their other images are.

Their tiles are read, and kept in stores, as those of any tiled TIFF; only the statements have a form of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.etree import ElementTree

import tifffile

ARGOS_XML = 65000
"""Private tag of Argos: the metadata of the scan, as XML."""

_MAKE = 271
_NUMBER = r"([0-9]+(?:[.,][0-9]+)?)"


@dataclass(frozen=True)
class Vendor:
    """What the first directory of a file states."""

    name: str
    """Of the scanner's maker, as `SlideInfo.vendor`."""
    mpp: tuple[float, float] | None = None
    """µm per px, where it is not in TIFF's own tags."""
    mpp_source: str = ""
    magnification: float | None = None
    focal_planes: int = 1
    """Number of images of the same place at different depths."""
    fields: dict[str, str] = field(default_factory=dict)


def find_vendor(tiff: tifffile.TiffFile) -> Vendor | None:
    """The scanner that wrote a file, if it is one of these; None for every other file."""
    page = tiff.pages[0].aspage()
    text = page.description
    if page.software.startswith("PerkinElmer-QPI"):
        lens = re.search(rf"<Objective>\s*{_NUMBER}\s*[xX]?\s*</Objective>", text)
        return Vendor("perkinelmer", magnification=_float(lens.group(1)) if lens else None)
    if "3dh_PixelSizeX" in text:
        fields = _fields(text, "|")
        size = _pair(fields.get("3dh_PixelSizeX"), fields.get("3dh_PixelSizeY")) or _pair(*(fields.get("MPP"),) * 2)
        return Vendor("3dhistech", size, "vendor property 3dh_PixelSize", fields=fields)
    for name, start in (("motic", "Motic "), ("mikroscan", "Mikroscan Image Structure")):
        if text.startswith(start) and "AppMag" in text:
            fields = _fields(text, "|")
            size = _pair(fields.get("MPP"), fields.get("MPP"))
            return Vendor(name, size, f"vendor property {name}.MPP", _float(fields.get("AppMag")), fields=fields)
    if str(page.tags.valueof(_MAKE) or "").startswith("Huron") or (
        "Image Dimensions =" in text and "Resolution =" in text
    ):
        fields = _fields(text, "\n")
        words = fields.get("Resolution", "").split()
        size = _pair(words[0], words[0]) if words and words[1:2] in ([], ["um"], ["µm"]) else None
        return Vendor("huron", size, "vendor property huron.Resolution", fields=fields)
    xml = page.tags.valueof(ARGOS_XML)
    return _argos(xml) if isinstance(xml, str) and "Argos.Scan.Metadata" in xml else None


def stated_name(page: tifffile.TiffPage) -> str | None:
    """label, macro or thumbnail, if a directory of these scanners says that it is one."""
    text = page.description.strip()
    if page.is_tiled:
        return None
    kind = re.search(r"<ImageType>\s*(Label|Overview|Thumbnail)\s*</ImageType>", text)
    if kind is not None:
        return {"Label": "label", "Overview": "macro", "Thumbnail": "thumbnail"}[kind.group(1)]
    if text.startswith(("Motic ", "Mikroscan Image Structure")):
        second = text.splitlines()[1].strip() if "\n" in text else ""
        found = re.match(r"(label|macro)\b", second)
        return found.group(1) if found else "thumbnail" if "->" in second else None
    return None


def other_images(tiff: tifffile.TiffFile, vendor: Vendor) -> dict[str, int]:
    """Names of the associated images and the numbers of their directories."""
    pages = [page.aspage() for page in tiff.pages]
    if vendor.name == "argos":
        # by position: the overview of the tissue is the last but one, the photograph of the glass is the last
        places = {"thumbnail": len(pages) - 2, "macro": len(pages) - 1}
        return {name: number for name, number in places.items() if number > 0 and not pages[number].is_tiled}
    found: dict[str, int] = {}
    for page in pages[1:]:
        name = _of_huron(page) if vendor.name == "huron" else stated_name(page)
        if name is not None:
            found.setdefault(name, page.index)
    return dict(sorted(found.items()))


def _of_huron(page: tifffile.TiffPage) -> str | None:
    """Huron writes the order and the flags of Aperio: a thumbnail second, label and macro at the end."""
    if page.is_tiled:
        return None
    if page.index == 1:
        return "thumbnail"
    return {1: "label", 9: "macro"}.get(int(page.subfiletype))


def _argos(xml: str) -> Vendor | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    lowest, highest = (_float(root.findtext(name)) or 0.0 for name in ("MinZ", "MaxZ"))
    magnification = _float(root.findtext("ObjectiveMagnification"))
    return Vendor("argos", magnification=magnification, focal_planes=round(highest - lowest) + 1)


def _fields(text: str, separator: str) -> dict[str, str]:
    """`Key = value` fields."""
    parts = (part.partition("=") for part in text.replace("\r", "\n").split(separator))
    return {key.strip(): value.strip() for key, equals, value in parts if equals}


def _pair(x: str | None, y: str | None) -> tuple[float, float] | None:
    across, down = _float(x), _float(y)
    return (across, down) if across and down else None


def _float(text: str | None) -> float | None:
    found = re.fullmatch(rf"\s*{_NUMBER}\s*", text or "")
    return float(found.group(1).replace(",", ".")) if found else None
