"""Facts about single images of a TIFF file that decide what they can be to one another. From their tags, no pixels."""

from __future__ import annotations

from collections import Counter

import tifffile

REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType."""
_TRANSPARENCY_MASK = 4
"""Value of PhotometricInterpretation."""

_X_RESOLUTION, _Y_RESOLUTION, _UNIT = 282, 283, 296
"""Tags."""

_FINEST_MPP, _COARSEST_MPP, _OVERVIEW = 0.02, 20.0, 4.0
"""Pixel sizes of scans, µm/px (a resolution for screens is coarser), and how many times coarser a macro is at least."""

_SCENE_SHARE = 0.25
_SCENE_PX = 16_000_000
"""An image without a name is a scene if it has a quarter of the slide's pixels, or more than labels and macros have."""


def is_reduction(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Whether `page` can be the same picture as `first` with fewer pixels: same type, smaller, same aspect ratio."""
    same_type = (page.samplesperpixel, page.dtype) == (first.samplesperpixel, first.dtype)
    return same_type and has_aspect_of(page, first)


def has_aspect_of(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Whether `page` is smaller than `first` and has its aspect ratio, as far as sizes are whole pixels."""
    shrink_x, shrink_y = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    # the smallest levels are rounded to whole pixels
    return shrink_x > 1 and (
        abs(shrink_x / shrink_y - 1) < 0.01 or abs(first.imagelength / shrink_x - page.imagelength) <= 1.5
    )


def is_mask(page: tifffile.TiffPage) -> bool:
    return bool(int(page.subfiletype) & _MASK) or int(page.photometric) == _TRANSPARENCY_MASK


def is_stated_level(page: tifffile.TiffPage, main: tifffile.TiffPage) -> bool:
    """Whether the file states that `page` is a reduced version of `main`.

    It is flagged as reduced, and is a sub-directory, or states the pixel size that a level of its size has.
    """
    if not int(page.subfiletype) & REDUCED:
        return False
    if page.is_subifd:
        return True
    if page.tags.valueof(_UNIT) != main.tags.valueof(_UNIT):
        return False
    for resolution, side, main_side in (
        (_X_RESOLUTION, page.imagewidth, main.imagewidth),
        (_Y_RESOLUTION, page.imagelength, main.imagelength),
    ):
        own, finest = (_number(of.tags.valueof(resolution)) for of in (page, main))
        if not own or not finest or abs(own / finest / (side / main_side) - 1) > 0.01:
            return False
    return True


def _number(ratio: object) -> float | None:
    """A TIFF rational as a number."""
    return ratio[0] / ratio[1] if isinstance(ratio, tuple) and len(ratio) == 2 and ratio[1] else None


def is_scene(page: tifffile.TiffPage, main: tifffile.TiffPage) -> bool:
    return area_of(page) >= _SCENE_SHARE * area_of(main) or area_of(page) >= _SCENE_PX


def finely_scanned(pages: list[tifffile.TiffPage], mpp: dict[tifffile.TiffPage, float]) -> list[tifffile.TiffPage]:
    """Without images whose stated pixel size is several times that of another: a macro can be larger than the slide."""
    known = [mpp[page] for page in pages if page in mpp and _FINEST_MPP <= mpp[page] <= _COARSEST_MPP]
    if not known:
        return pages
    return [page for page in pages if mpp.get(page, 0.0) <= _OVERVIEW * min(known)]


def tag_mpp(page: tifffile.TiffPage) -> float | None:
    resolution = _number(page.tags.valueof(_X_RESOLUTION))
    um = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof(_UNIT, 2)))
    return um / resolution if resolution and um else None


def area_of(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def key_of(page: tifffile.TiffPage) -> tuple[object, ...]:
    return page.imagewidth, page.imagelength, page.samplesperpixel, page.dtype


def without_repeated_sizes(pages: list[tifffile.TiffPage]) -> list[tifffile.TiffPage]:
    """The first image of each size: the others are channels of it."""
    first: dict[tuple[object, ...], tifffile.TiffPage] = {}
    for page in pages:
        first.setdefault(key_of(page), page)
    return list(first.values())


def ordinals(pages: list[tifffile.TiffPage]) -> dict[tifffile.TiffPage, int]:
    """How many images of the same size stand before each image."""
    seen: Counter[tuple[object, ...]] = Counter()
    ordinals = {}
    for page in pages:
        ordinals[page] = seen[key_of(page)]
        seen[key_of(page)] += 1
    return ordinals
