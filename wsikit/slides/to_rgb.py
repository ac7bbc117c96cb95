"""Conversion of samples (grey, 16 bit, transparent, YCbCr) to uint8 RGB, by one rule for a whole slide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def to_rgb(samples: npt.NDArray[np.generic], *, white_level: int, inverted: bool = False) -> Pixels:
    """uint8 (h, w, 3) from (h, w, 1 grey | 2 grey and alpha | 3 RGB | 4 RGB and alpha), uint8 or uint16.

    Parameters
    ----------
    samples
        Decoded samples.
    white_level
        Sample value that becomes 255; 0 stays 0, linear between. One number per slide, never per tile, so that
        neighbouring tiles match and intensities are comparable.
    inverted
        Grey with 0 as white (TIFF MinIsWhite).

    Transparent pixels are blended with white.

    >>> to_rgb(np.full((1, 1, 1), 4095, np.uint16), white_level=4095).tolist()
    [[[255, 255, 255]]]
    """
    scaled = to_8_bit(samples, white_level)
    channels = scaled.shape[2]
    colour = scaled[..., :1] if channels <= 2 else scaled[..., :3]
    if inverted:
        colour = 255 - colour
    if colour.shape[2] == 1:
        colour = np.repeat(colour, 3, axis=2)
    if channels in (2, 4):
        return over_white(colour, scaled[..., -1])
    return colour


def over_white(colour: Pixels, alpha: Pixels, *, premultiplied: bool = False) -> Pixels:
    """`colour` (h, w, 3) blended with white by `alpha` (h, w), straight or premultiplied. Opaque px are unchanged.

    >>> over_white(np.zeros((1, 1, 3), np.uint8), np.full((1, 1), 51, np.uint8)).tolist()
    [[[204, 204, 204]]]
    >>> over_white(np.full((1, 1, 3), 40, np.uint8), np.full((1, 1), 51, np.uint8), premultiplied=True).tolist()
    [[[244, 244, 244]]]
    """
    if (alpha == 255).all():
        return np.ascontiguousarray(colour)
    share = alpha[..., None].astype(np.uint16)
    if premultiplied:
        glass: Pixels = np.minimum(colour + (255 - share), 255).astype(np.uint8)
        return glass
    return ((colour * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """Full-range BT.601, as used by JPEG: uint8 (h, w, 3) to uint8 (h, w, 3)."""
    rounded: Pixels = np.rint(_from_ycbcr(pixels)).clip(0, 255).astype(np.uint8)
    return rounded


def outside_rgb(pixels: Pixels, margin: float) -> npt.NDArray[np.bool_]:
    """Which px, taken as YCbCr, give R, G or B outside of 0–255 by more than `margin`: (…, 3) to (…)."""
    rgb = _from_ycbcr(pixels)
    return np.asarray(((rgb < -margin) | (rgb > 255 + margin)).any(axis=-1))


def _from_ycbcr(pixels: Pixels) -> npt.NDArray[np.float32]:
    luma, blue, red = (pixels[..., i].astype(np.float32) for i in range(3))
    blue, red = blue - 128, red - 128
    return np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)


def to_8_bit(samples: npt.NDArray[np.generic], white_level: float, black_level: float = 0) -> Pixels:
    """Samples as uint8: linear from `black_level` (0) to `white_level` (255). ValueError if one is not a number.

    >>> to_8_bit(np.array([0.0, 0.5, 2.0], np.float32), white_level=1.0).tolist()
    [0, 128, 255]
    """
    if samples.dtype == np.uint8 and white_level == 255 and black_level == 0:
        return samples  # type: ignore[return-value]
    if samples.dtype.kind in "bu" and samples.dtype.itemsize <= 2 and black_level == 0:
        scaled = samples.astype(np.uint32)
        white = int(white_level)
        return np.minimum((scaled * 255 + white // 2) // white, 255).astype(np.uint8)
    exact = (samples.astype(np.float64) - black_level) * (255 / (white_level - black_level))
    if not np.isfinite(exact).all():
        raise ValueError("some samples are not numbers (NaN or infinite)")
    rounded: Pixels = np.floor(exact + 0.5).clip(0, 255).astype(np.uint8)
    return rounded
