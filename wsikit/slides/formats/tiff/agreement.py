"""Whether the tiles of a scanner's TIFF are the slide that OpenSlide shows, before they are read without it.

For vendors that OpenSlide reads by a rule of its own, a file may hold what that rule handles and a plain grid of tiles
does not: focal planes, overlaps, tiles that are left out. Some tiles of every level are compared.
"""

from __future__ import annotations

import numpy as np
import openslide
import tifffile

from wsikit.errors import ReadError, SlideError
from wsikit.slides.formats.tiff.reader import TiffSlide
from wsikit.slides.formats.tiff.vendors import find_vendor
from wsikit.slides.to_rgb import over_white

TILES_PER_LEVEL = 3
"""First, middle and last of the tiles that a level stores."""

MOST_DIFFERENCE = 2.0
"""Mean difference of a tile, grey levels: two JPEG decoders differ by less than one, other colours or tiles by tens."""


def disagreement(path: str) -> str | None:
    """Why the tiles at `path` are not read without OpenSlide, as the end of a sentence; None if they agree with it."""
    try:
        with tifffile.TiffFile(path) as tiff:
            vendor = find_vendor(tiff)
        if vendor is not None and vendor.focal_planes > 1:
            return f"it has {vendor.focal_planes} focal planes, of which OpenSlide reads the middle one"
        with TiffSlide(path) as slide, openslide.OpenSlide(path) as truth:
            if slide.level_dimensions != truth.level_dimensions:
                return f"its tiles cover {slide.level_dimensions} px, OpenSlide finds {truth.level_dimensions} px"
            for level in range(len(slide.level_dimensions)):
                fault = _compare(slide, truth, level)
                if fault is not None:
                    return fault
    except SlideError as error:
        return str(error).removeprefix(f"{path}: ").partition(". ")[0].rstrip(".")
    except (openslide.OpenSlideError, ValueError) as error:
        return f"it could not be compared with OpenSlide ({' '.join(str(error).split())})"
    return None


def _compare(slide: TiffSlide, truth: openslide.OpenSlide, level: int) -> str | None:
    places = slide.stored_tiles(level)
    chosen = (
        {places[round(share * (len(places) - 1))] for share in np.linspace(0, 1, TILES_PER_LEVEL)} if places else ()
    )
    width, height = slide.level_dimensions[level]
    tile_width, tile_height = slide.tile_px(level)
    for column, row in sorted(chosen):
        x, y = column * tile_width, row * tile_height
        size = min(tile_width, width - x), min(tile_height, height - y)
        try:
            own = slide.read_box(level, (x, y, *size))
        except ReadError:
            continue  # a damaged tile is reported where it is read
        ratio = truth.level_downsamples[level]
        rgba = np.asarray(truth.read_region((round(x * ratio), round(y * ratio)), level, size))
        other = over_white(rgba[..., :3], rgba[..., 3])
        difference = np.abs(own.astype(np.int16) - other).mean()
        if difference > MOST_DIFFERENCE:
            return f"a tile of level {level} differs from OpenSlide's pixels by {difference:.0f} grey levels on average"
    return None
