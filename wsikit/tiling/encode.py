"""Pixels into the bytes of one chunk, as a level's format wants them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.store.level_format import ZSTD_LEVEL, LevelFormat

RECODED_QUALITY = 95
"""Of single tiles that cannot pass among others that do: nearly as good as the bytes they stand for."""

_SUBSAMPLINGS = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}


def encode(
    pixels: npt.NDArray[np.uint8],
    form: LevelFormat,
    *,
    quality: int,
    rgb: bool = False,
    subsampling: tuple[int, int] = (1, 1),
) -> bytes:
    """The chunk of a whole tile.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3), which may be cut at the level's edge.
    quality
        Of JPEG, 1 to 100; the other codecs keep pixels exactly.
    rgb, subsampling
        Of JPEG: whether the components are stored as R, G, B, and how many px share a colour along x and y. Tiles that
        stand among passed ones are coded as these are, since a TIFF says it once for all of them.
    """
    import imagecodecs

    height, width = pixels.shape[:2]
    missing = (form.tile_px[1] - height, form.tile_px[0] - width)
    if any(missing):
        # edge tiles are whole; repeating the last pixels keeps ringing out of the image
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    if form.channels == 1:
        pixels = pixels[..., :1]  # all three are equal
    if form.codec == "zstd":
        planes = pixels.transpose(2, 0, 1).tobytes()
        return bytes(imagecodecs.blosc_encode(planes, level=ZSTD_LEVEL, compressor="zstd", shuffle=0, typesize=1))
    picture = np.ascontiguousarray(pixels if form.channels == 3 else pixels[..., 0])
    if form.codec == "jpeg2k":
        return bytes(imagecodecs.jpeg2k_encode(picture, level=0, reversible=True, codecformat="j2k"))
    if form.channels == 1:
        return bytes(imagecodecs.jpeg8_encode(picture, level=quality))
    return bytes(
        imagecodecs.jpeg8_encode(
            picture,
            level=quality,
            colorspace="RGB",
            outcolorspace="RGB" if rgb else "YCBCR",
            subsampling="444" if rgb else _SUBSAMPLINGS.get(subsampling, "444"),
        )
    )
