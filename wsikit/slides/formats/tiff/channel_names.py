"""Names, colours and display windows of channels, as OME-XML, PerkinElmer's descriptions and ImageJ state them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import tifffile

from wsikit.slides.composite import RGB

_MOST_CHARACTERS = 60
_FILE_NAME = re.compile(r"[\\/]|\.(tiff?|czi|nd2|lif|lsm|vsi|oif|oib|ims|qptiff|png|jpe?g)\b", re.IGNORECASE)
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Stated:
    """What a file states about one channel."""

    name: str | None = None
    color: RGB | None = None
    window: tuple[float, float] | None = None


def ome_channels(xml: str | None, number: int, page: tifffile.TiffPage) -> list[Stated]:
    """Channels of the image `number` of OME-XML, whose finest level is `page`; an RGB channel counts once."""
    if not xml:
        return []
    try:
        found = list(ElementTree.fromstring(xml).iterfind(".//{*}Image/{*}Pixels"))
    except ElementTree.ParseError:
        return []
    size = (str(page.imagewidth), str(page.imagelength))
    of_size = [pixels for pixels in found if (pixels.get("SizeX"), pixels.get("SizeY")) == size]
    pixels = found[number] if number < len(found) and found[number] in of_size else next(iter(of_size), None)
    if pixels is None:
        return []
    return [
        Stated(channel.get("Name") or channel.get("Fluor") or None, _ome_color(channel.get("Color")))
        for channel in pixels.iterfind("{*}Channel")
    ]


def _ome_color(text: str | None) -> RGB | None:
    """A signed 32-bit integer, R, G, B, alpha from the highest byte.

    >>> _ome_color("-16776961")
    (255, 0, 0)
    """
    try:
        value = int(text or "")
    except ValueError:
        return None
    return (value >> 24) & 255, (value >> 16) & 255, (value >> 8) & 255


def qpi_field(description: str, name: str) -> str | None:
    """Text of an element directly below the root of a PerkinElmer description (UTF-8 or UTF-16)."""
    try:
        found = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", description.lstrip("\ufeff"))).findtext(name)
    except ElementTree.ParseError:
        return None
    return found.strip() or None if found else None


def qpi_channel(page: tifffile.TiffPage) -> Stated:
    """Biomarker, or name of the dye, and colour "R,G,B" of one directory of a QPTIFF."""
    text = page.description
    parts = (qpi_field(text, "Color") or "").split(",")
    color: RGB | None = None
    if len(parts) >= 3 and all(part.strip().isdigit() and int(part) < 256 for part in parts[:3]):
        color = (int(parts[0]), int(parts[1]), int(parts[2]))
    return Stated(qpi_field(text, "Biomarker") or qpi_field(text, "Name"), color)


def imagej_channels(metadata: dict[str, Any], n: int, *, labels: Sequence[int]) -> list[Stated]:
    """Labels, end colours of the lookup tables, and ranges of an ImageJ file.

    `labels`: number of the image of each channel. Labels that look like the name of a file are left out: ImageJ writes
    the names of the files that a stack was made from, and these can identify a patient.
    """
    names, tables, ranges = (list(metadata.get(key) or ()) for key in ("Labels", "LUTs", "Ranges"))
    if len({str(names[label]) for label in labels if label < len(names)}) == 1:
        names = []  # the title of the image, repeated
    found = []
    for channel in range(n):
        name = str(names[labels[channel]]) if labels[channel] < len(names) else None
        if name is not None:
            name = re.sub(r"^c:\d+/\d+(\s+[zt]:\d+/\d+)*\s*(-\s*)?", "", name.strip()).strip() or None
        if name is not None and (_FILE_NAME.search(name) or len(name) > _MOST_CHARACTERS):
            name = None
        color: RGB | None = None
        if channel < len(tables):
            red, green, blue = (int(part[-1]) for part in tables[channel])
            color = (red, green, blue)
        window = None
        if 2 * channel + 1 < len(ranges) and ranges[2 * channel] < ranges[2 * channel + 1]:
            window = float(ranges[2 * channel]), float(ranges[2 * channel + 1])
        found.append(Stated(name, color, window))
    return found


def shaped_channels(metadata: Any, n: int) -> list[Stated]:
    """Names in the JSON description that tifffile writes (`metadata={"Channel": {"Name": […]}}`)."""
    described = metadata.get("Channel") if isinstance(metadata, dict) else None
    names = described.get("Name") if isinstance(described, dict) else None
    return [Stated(str(name)) for name in names] if isinstance(names, list) and len(names) == n else []


def unique_names(stated: Sequence[Stated]) -> list[str]:
    """One line per name, each different; "channel 1" and so on where none is stated.

    >>> unique_names([Stated("DAPI"), Stated(None), Stated("DAPI")])
    ['DAPI', 'channel 2', 'DAPI (2)']
    """
    found: list[str] = []
    for number, channel in enumerate(stated, 1):
        name = " ".join((channel.name or "").split())[:_MOST_CHARACTERS] or f"channel {number}"
        times = 2
        base = name
        while name in found:
            name = f"{base} ({times})"
            times += 1
        found.append(name)
    return found


def usable_colors(stated: Sequence[Stated]) -> list[RGB | None]:
    """The stated colours; none if all of several channels are white, which writers put where they know no colour."""
    colors = [None if channel.color == _BLACK else channel.color for channel in stated]
    if len(colors) > 1 and all(color in (_WHITE, None) for color in colors):
        return [None] * len(colors)
    return colors
