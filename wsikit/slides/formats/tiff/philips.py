"""The XML of a Philips TIFF: pixel sizes, true sizes of its padded levels, label and macro. No tiles.

The directories give sizes in whole tiles, which are also the size of level 0; the true size of a coarser level follows
from its pixel size. Source: the format page of OpenSlide; the sizes are the same as OpenSlide's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsikit.errors import ReadError, UnsupportedSlideError
from wsikit.lengths import parse_number
from wsikit.slides import jpeg

Size = tuple[int, int]
_ASSOCIATED = {"LABELIMAGE": "label", "MACROIMAGE": "macro"}
_UM_PER_MM = 1000.0
_MAX_SIDE = 16384
"""Largest side of a label or macro that is decoded, px."""


@dataclass(frozen=True)
class Description:
    """The XML of one file."""

    root: ElementTree.Element

    @property
    def mpp(self) -> tuple[float, float] | None:
        """µm per level-0 px, (x, y)."""
        found = _spacing(self.fields.get("DICOM_PIXEL_SPACING"))
        return (found[0] * _UM_PER_MM, found[1] * _UM_PER_MM) if found else None

    @property
    def fields(self) -> dict[str, str]:
        """Attributes of the file and of its scan, by name; without label, macro and nested objects."""
        return {**_attributes(self.root), **self._image("WSI")}

    @property
    def spacings(self) -> list[tuple[float, float] | None]:
        """Pixel size of each level, (x, y) mm, in the order of the directories."""
        levels = self.root.iterfind(".//DataObject[@ObjectType='PixelDataRepresentation']")
        return [_spacing(_attributes(level).get("DICOM_PIXEL_SPACING")) for level in levels]

    @property
    def associated(self) -> dict[str, str]:
        """Label and macro as JPEG in base64, by name."""
        found = {name: self._image(kind).get("PIM_DP_IMAGE_DATA") for kind, name in _ASSOCIATED.items()}
        return {name: data for name, data in sorted(found.items()) if data}

    def _image(self, kind: str) -> dict[str, str]:
        for image in self.root.iterfind(".//DataObject[@ObjectType='DPScannedImage']"):
            fields = _attributes(image)
            if fields.get("PIM_DP_IMAGE_TYPE") == kind:
                return fields
        return {}


def describe(tiff: tifffile.TiffFile) -> Description | None:
    """The XML of a Philips TIFF; None if the file is not one."""
    first = tiff.pages[0].aspage()
    return Description(ElementTree.fromstring(first.description)) if first.is_philips else None


def level_sizes(path: str, description: Description, stored: Sequence[Size]) -> list[Size]:
    """True width and height of each level, px, from those of the directories, finest first.

    Raises
    ------
    UnsupportedSlideError
        The XML does not give the pixel size of every level.
    """
    spacings = description.spacings
    if len(spacings) != len(stored) or None in spacings:
        known = len([spacing for spacing in spacings if spacing])
        raise UnsupportedSlideError(
            f"{path}: a Philips TIFF of {len(stored)} levels, whose XML gives the pixel size of {known}, so that their "
            "extent is unknown. Export it again."
        )
    first_x, first_y = spacings[0] or (1.0, 1.0)
    sizes = [stored[0]]
    for (width, height), spacing in zip(stored[1:], spacings[1:]):
        x, y = spacing or (1.0, 1.0)
        true_width, true_height = stored[0][0] // max(1, round(x / first_x)), stored[0][1] // max(1, round(y / first_y))
        sizes.append((min(width, true_width), min(height, true_height)))
    return sizes


def read_associated(path: str, name: str) -> np.ndarray:
    """Label or macro, uint8 (h, w, 3); ReadError if it is damaged."""
    with tifffile.TiffFile(path) as tiff:
        description = describe(tiff)
    assert description is not None
    try:
        stream = base64.b64decode(description.associated[name], validate=False)
        return jpeg.decode(stream, (_MAX_SIDE, _MAX_SIDE))
    except (binascii.Error, jpeg.JpegError) as error:
        raise ReadError(path, 0, (0, 0, 0, 0), f"associated image {name}: {error}") from error


def _attributes(element: ElementTree.Element) -> dict[str, str]:
    """Plain attributes of one object of the XML: name → text."""
    found = ((attribute.get("Name", ""), attribute.text or "") for attribute in element.iterfind("Attribute"))
    return {name: text.strip() for name, text in found if text.strip()}


def _spacing(text: str | None) -> tuple[float, float] | None:
    """(x, y) mm from the XML's `"row spacing" "column spacing"`; row spacing is along y. One value is for both axes."""
    try:
        found = [parse_number(part) for part in re.findall(r"[^\s\"'\\;]+", text or "")]
    except ValueError:
        return None
    if len(found) not in (1, 2) or min(found) <= 0:
        return None
    return found[-1], found[0]
