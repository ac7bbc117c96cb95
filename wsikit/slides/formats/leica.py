"""Sizes that a Leica SCN states twice: in its XML, by which OpenSlide lays out its levels, and in its directories.

Where a directory is smaller than the XML says, OpenSlide shows what is missing as not scanned, which is white.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from xml.etree import ElementTree

import tifffile

from wsikit.errors import BrokenSlideError
from wsikit.slides.types import Size

logger = logging.getLogger(__name__)

_ROUNDING_PX = 1
"""Difference by rounding the sizes of a pyramid."""


def check_sizes(path: str) -> None:
    """Raise BrokenSlideError if a level of the Leica SCN at `path` has another size than its metadata state.

    Images of the whole glass slide are left out: they are no levels.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            stated = list(_stated(tiff.pages.first.description))
            found = [_size(tiff, directory) for directory, _ in stated]
    except Exception as error:  # OpenSlide has opened it; tifffile has more demands
        logger.debug("%s: its sizes are not compared: %s", path, error)
        return
    for (directory, wanted), own in zip(stated, found, strict=True):
        if any(abs(one - other) > _ROUNDING_PX for one, other in zip(own, wanted, strict=True)):
            raise BrokenSlideError(
                f"{path}: directory {directory} has {own[0]} × {own[1]} px, where the metadata of this Leica SCN state "
                f"{wanted[0]} × {wanted[1]} px. Copy it again from its source."
            )


def _stated(xml: str) -> Iterator[tuple[int, Size]]:
    """Directory and size of each level, as the XML states them."""
    for collection in ElementTree.fromstring(xml).iterfind("{*}collection"):
        for image in collection.iterfind("{*}image"):
            view = image.find("{*}view")
            if view is not None and _pair(view) == _pair(collection):
                continue  # the whole glass slide
            for level in image.iterfind("{*}pixels/{*}dimension"):
                yield int(level.attrib["ifd"]), _pair(level)


def _pair(node: ElementTree.Element) -> Size:
    return int(node.attrib["sizeX"]), int(node.attrib["sizeY"])


def _size(tiff: tifffile.TiffFile, directory: int) -> Size:
    page = tiff.pages[directory].aspage()
    return page.imagewidth, page.imagelength
