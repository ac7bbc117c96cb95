"""How to convert an image that cannot be read, by what it is. Each command was tried, and its result can be read.

libvips reads numbers by a fixed range, ignores channels beyond the first image, and writes black where it cannot
decompress: it is recommended only for what it converts without loss of meaning.
"""

from __future__ import annotations

import tifffile

TO_TILES = (
    "Convert it first (for example: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff --compression jpeg --Q 90)."
)
_TO_RGB = (
    "Convert it first (for example: vips colourspace IN 'OUT.tif[tile,pyramid,bigtiff,compression=jpeg,Q=90]' srgb)."
)
_SAVE_AGAIN = "Convert it first: save it as RGB or grey of 8 or 16 bits in the program that wrote it"
_ONE_PICTURE = "Convert it first: export it as RGB, or one channel or plane of it, from the program that wrote it."

_CMYK = 5
_GREY, _RGB = (0, 1), 2


def how_to_convert(page: tifffile.TiffPage, planes: int = 1) -> str:
    """The next step for an image whose samples are not those of a slide; `planes` are its images of one size.

    Parameters
    ----------
    page
        The image.
    planes
        Number of channels or planes that belong to it.
    """
    if planes > 1:
        return _ONE_PICTURE
    if page.dtype is None or page.dtype.kind != "u":
        return f"{_SAVE_AGAIN}: only there is the range of its numbers known."
    if int(page.photometric) == _CMYK:
        return _TO_RGB
    if int(page.photometric) in (*_GREY, _RGB) and page.samplesperpixel in (1, 3):
        return TO_TILES
    return f"{_SAVE_AGAIN}."
