"""Encoding of pixels to the bytes of one chunk, in the format of a level."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.store.level_format import EXACT_CODECS, ZSTD_FRAME_LEVEL, ZSTD_LEVEL, LevelFormat

RECODED_QUALITY = 95
"""JPEG quality of single tiles that must be re-encoded among passed ones: close to that of the source's bytes."""

_SUBSAMPLINGS = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}


def encode(
    pixels: npt.NDArray[np.uint8],
    form: LevelFormat,
    *,
    quality: int,
    rgb: bool = False,
    subsampling: tuple[int, int] = (1, 1),
) -> bytes:
    """Encode one tile.

    Parameters
    ----------
    pixels
        uint8 (h, w, 3), smaller than a tile at the level's edge.
    quality
        JPEG quality, 1 to 100; the other codecs are lossless.
    rgb, subsampling
        JPEG only: whether the components are R, G, B, and the chroma subsampling along x and y. Tiles among passed ones
        use their values, because a TIFF states them once for all tiles.
    """
    import imagecodecs

    height, width = pixels.shape[:2]
    missing = (form.tile_px[1] - height, form.tile_px[0] - width)
    if any(missing):
        # edge tiles are full size; repeating the last pixels avoids ringing in the image
        pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    if form.channels == 1:
        pixels = pixels[..., :1]  # all three components are equal
    if form.codec in EXACT_CODECS:
        return _compressed(pixels.transpose(2, 0, 1).tobytes(), form)
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


def encode_planes(samples: npt.NDArray[np.generic], form: LevelFormat) -> list[bytes]:
    """The chunks of one tile of a fluorescence slide, without loss: one per plane of `form`.

    `samples` is (channels, h, w), smaller than a tile at the level's edge; the rest of the chunk is 0.
    """
    missing = (form.tile_px[1] - samples.shape[1], form.tile_px[0] - samples.shape[2])
    if any(missing):
        samples = np.pad(samples, ((0, 0), (0, missing[0]), (0, missing[1])))
    little = samples.astype(np.dtype(form.dtype).newbyteorder("<"), copy=False)
    return [_compressed(part.tobytes(), form) for part in np.split(little, form.planes)]


def _compressed(planes: bytes, form: LevelFormat) -> bytes:
    if form.codec == "zstd_frame":
        from numcodecs.zstd import Zstd  # imagecodecs writes no checksum

        return bytes(Zstd(level=ZSTD_FRAME_LEVEL, checksum=True).encode(planes))
    import imagecodecs

    return bytes(imagecodecs.blosc_encode(planes, level=ZSTD_LEVEL, compressor="zstd", shuffle=0, typesize=1))
