"""The OME-XML of a TIFF file: which of its images lie in this file, and in which directories. No pixels.

The text can describe a set of files, of which this is one; and programs that convert a file often copy its text, which
then no longer describes the new file. Only what fits the directories of this file is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import tifffile

from wsikit.lengths import parse_mpp


@dataclass(frozen=True)
class OmeImage:
    """One image of the OME-XML, as far as it lies in this file."""

    number: int
    """Place among the images of the text, from 0."""
    name: str
    width: int
    height: int
    samples: int
    """Samples per pixel of a directory; 0 if the text does not give them."""
    channels: int
    planes: int
    """Number of planes (channels, focal planes, times), wherever they lie; each is one directory."""
    mpp: float | None
    """µm/px along x, if the text gives it."""
    directories: tuple[int, ...]
    """Numbers of the directories of this file that hold its planes, in the order of the planes."""

    @property
    def axes(self) -> str:
        """Axes of the image in this file, as tifffile names them: C for channels, Z for other planes."""
        held = len(self.directories)
        names = "" if held <= 1 else "C" if self.channels >= held else "CZ" if self.channels > 1 else "Z"
        return f"{names}YX" + ("S" if self.samples > 1 else "")


@dataclass(frozen=True)
class OmeSet:
    """The images of an OME-XML."""

    images: tuple[OmeImage, ...] = ()
    """Those of this file, in the order of the text."""
    elsewhere: tuple[str, ...] = ()
    """Names of the other files of the set."""
    notes: tuple[str, ...] = field(default=())


def read_ome(path: str, xml: str, pages: Sequence[tifffile.TiffPage]) -> OmeSet | None:
    """What the OME-XML of the file at `path` describes; None if it does not describe this file's directories.

    `pages` are the directories of the file, without sub-directories.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError):
        return None
    own = _Own(Path(path).name, root.get("UUID", ""), root)
    images, fits = [], True
    only = len(root.findall("{*}Image")) == 1
    for number, element in enumerate(root.iterfind("{*}Image")):
        pixels = element.find("{*}Pixels")
        if pixels is None:
            continue
        image = _image(number, element, pixels, own, pages, only=only)
        if image is None or not all(_fits(image, pages[place]) for place in image.directories if place < len(pages)):
            fits = False
        elif image.directories:
            images.append(image)
    if not fits or not images or any(place >= len(pages) for image in images for place in image.directories):
        return None
    return OmeSet(tuple(images), own.other_files())


def described_elsewhere(path: str, xml: str) -> tuple[int, tuple[str, ...]]:
    """Number of px of the largest image that the OME-XML describes, and the names of the other files it names."""
    try:
        root = ElementTree.fromstring(xml)
        areas = [int(image.get("SizeX", "0")) * int(image.get("SizeY", "0")) for image in root.iterfind(".//{*}Pixels")]
    except (ElementTree.ParseError, ValueError):
        return 0, ()
    names = {element.get("FileName", "") for element in root.iterfind(".//{*}TiffData/{*}UUID")}
    binary = root.find("{*}BinaryOnly")
    if binary is not None:
        names.add(binary.get("MetadataFile", ""))
    return max(areas, default=0), tuple(sorted(names - {"", Path(path).name}))


def companion_of(xml: str) -> str | None:
    """Name of the file that holds the OME-XML of this one, if it says so (BinaryOnly)."""
    try:
        found = ElementTree.fromstring(xml).find("{*}BinaryOnly")
    except (ElementTree.ParseError, ValueError):
        return None
    return None if found is None else Path(found.get("MetadataFile", "")).name


class _Own:
    """Decides whether a TiffData element means this file: by the identifier, then by the name."""

    def __init__(self, name: str, uuid: str, root: ElementTree.Element) -> None:
        self._name, self._uuid = name, uuid.strip().lower()
        references = [element.find("{*}UUID") for element in root.iterfind(".//{*}TiffData")]
        known = [element for element in references if element is not None]
        self._identified = bool(self._uuid) and any(self._same_uuid(element) for element in known)
        self._named = any(element.get("FileName") == name for element in known)
        self._files = {element.get("FileName", "") for element in known} - {""}

    def means(self, data: ElementTree.Element) -> bool:
        reference = data.find("{*}UUID")
        if reference is None:
            return True
        if self._identified:
            return self._same_uuid(reference)
        if self._named:
            return reference.get("FileName") == self._name
        # renamed, and without an identifier: then only the text of a single file can mean it
        return len(self._files) <= 1

    def other_files(self) -> tuple[str, ...]:
        return tuple(sorted(self._files - {self._name})) if len(self._files) > 1 else ()

    def _same_uuid(self, element: ElementTree.Element) -> bool:
        return (element.text or "").strip().lower() == self._uuid


def _image(
    number: int,
    element: ElementTree.Element,
    pixels: ElementTree.Element,
    own: _Own,
    pages: Sequence[tifffile.TiffPage],
    *,
    only: bool,
) -> OmeImage | None:
    """One image, or the `only` one; None if its text is not understood."""
    try:
        width, height = int(pixels.get("SizeX", "")), int(pixels.get("SizeY", ""))
        size_c, size_z, size_t = (int(pixels.get(f"Size{axis}", "1")) for axis in "CZT")
        samples = [int(channel.get("SamplesPerPixel", "1")) for channel in pixels.iterfind("{*}Channel")]
        places = pixels.findall("{*}TiffData")
        if only and not places:
            # the shortest text, which libvips' users write: the planes are the first directories, in order
            places = [ElementTree.Element("TiffData")]
            samples = samples or [pages[0].samplesperpixel]
        channels = max(1, size_c // samples[0]) if samples and samples[0] > 0 else size_c
        planes = channels * size_z * size_t
        numbers: list[int] = []
        for data in places:
            first = int(data.get("IFD", "0"))
            count = int(data.get("PlaneCount", "1" if "IFD" in data.attrib else "0")) or min(planes, len(pages))
            if own.means(data):
                numbers.extend(range(first, first + count))
    except ValueError:
        return None
    found = tuple(dict.fromkeys(numbers))[:planes]
    first = samples[0] if samples else 0
    return OmeImage(number, element.get("Name", ""), width, height, first, channels, planes, _mpp(pixels), found)


def _mpp(pixels: ElementTree.Element) -> float | None:
    try:
        return parse_mpp(f"{pixels.get('PhysicalSizeX', '')} {pixels.get('PhysicalSizeXUnit', 'µm')}")
    except ValueError:
        return None


def _fits(image: OmeImage, page: tifffile.TiffPage) -> bool:
    """Whether the directory can be a plane of the image."""
    stated = (page.imagewidth, page.imagelength) == (image.width, image.height)
    return stated and image.samples in (0, page.samplesperpixel)
