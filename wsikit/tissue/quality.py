"""Image quality of patches: blur, pen, blank and dark area. Patches are uint8 (B, H, W, 3) at `mpp` µm/px.

Each patch is measured separately, so that its values do not depend on the batch. All lengths are in µm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.tissue.brightfield import local_sd, optical_density
from wsikit.tissue.pen import BLACK, BLUE_GREEN, RED, find_ink
from wsikit.tissue.regions import dilate, extremes

QUALITY_NAMES = ("blur", "pen", "blank", "dark")

_FOCUS_UM = 1.0  # pixel size at which focus is measured, or that of the patch if it is coarser
_INK_UM = 8.0  # ink is detected at the pixel size of the mask, for which its smoothness was measured
_INK_WINDOW = 5  # px at `_INK_UM`
_INK_GLASS = (243.0, 243.0, 243.0)

_REACH = 5  # px over which the second, coarser gradient is computed
_QUIET = 8  # px: noise is the remaining gradient in the quietest blocks of this width …
_QUIET_SHARE = 0.05  # … without this share of them
_LEAST_NOISE = 0.5  # grey levels; rounding alone gives 0.3
_NO_STRUCTURE = 0.15  # (grey levels per px)²: below it, there is no structure that could be in focus
_FULL_BLUR_UM = 4.0  # standard deviation of a blur that makes nuclei invisible

# Ratio of coarse to fine gradient, measured on patches of real H&E (colon, breast, lung, kidney, bone; 0.25 to
# 1 µm/px) after a Gaussian blur with that standard deviation in pixels. The central 90 % of sharp patches are between
# 0.35 and 0.61; camera noise of 2 grey levels changes no median by more than 0.03 for blur up to 3 px.
_RATIO = (0.50, 0.60, 0.74, 0.83, 0.90, 0.97, 0.995, 1.0)
_BLUR_PX = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)

_BLANK_LEVEL, _BLANK_TINT = 190, 26  # grey levels: minimum of the darkest channel, maximum difference between channels
_DARK_LEVEL = 40  # maximum of the brightest channel


def patch_quality(images: npt.NDArray[np.uint8], *, mpp: float) -> dict[str, npt.NDArray[np.float32]]:
    """Measure the image quality of patches.

    Parameters
    ----------
    images
        uint8 (B, H, W, 3).
    mpp
        µm per pixel of the patches.

    Returns
    -------
    dict of float32 (B,), each in [0, 1]

        blur
            Standard deviation of the blur in µm, divided by 4: 0.25 is 1 µm (chromatin lost), 1 is 4 µm or more
            (nuclei lost). Blur below half a pixel, or below 0.5 µm, is not detected. 0 for an empty patch: no
            structure, and half the patch or more blank or dark. Too low by one sixth in fluorescence.
        pen
            Fraction of the area with the colour and smoothness of marker ink.
        blank
            Fraction of the area that is glass: bright in all channels, nearly neutral.
        dark
            Fraction of the area without light: black border, dark field of fluorescence.

    Notes
    -----
    Blur is estimated from the mean squared gradient over 5 px relative to that over 1 px, at about 1 µm/px, with noise
    subtracted from both: a blurred picture changes gradually, a sharp one in steps (following Crete et al., The blur
    effect, 2007). It is calibrated on patches of real H&E with synthetic blur.

    Raises
    ------
    RequestError
        The patches have another shape or dtype, are too small, or `mpp` is not a positive number.

    >>> images = np.full((1, 224, 224, 3), 243, np.uint8)
    >>> images[0, :56] = 0
    >>> quality = patch_quality(images, mpp=0.5)
    >>> float(quality["blank"][0]), float(quality["dark"][0])
    (0.75, 0.25)
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise RequestError(f"patches of shape {images.shape}, {images.dtype}: expected uint8 (batch, height, width, 3)")
    if not (math.isfinite(mpp) and mpp > 0):
        raise RequestError(f"patches at {mpp} µm/px: the pixel size must be a positive number")
    rows = np.zeros((len(images), len(QUALITY_NAMES)), np.float32)
    for row, image in zip(rows, images):
        row[:] = _measure(image, mpp)
    return dict(zip(QUALITY_NAMES, rows.T.copy()))


def _measure(image: npt.NDArray[np.uint8], mpp: float) -> tuple[float, float, float, float]:
    """blur, pen, blank, dark of one patch."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))  # strided access to interleaved colours is slow
    factor = max(1, round(_FOCUS_UM / mpp))
    fine, fine_mpp = _shrink(planes, factor), mpp * factor
    brightest, darkest = extremes(fine, axis=0)
    blank = float(np.mean((darkest >= _BLANK_LEVEL) & (brightest - darkest <= _BLANK_TINT)))
    dark = float(np.mean(brightest <= _DARK_LEVEL))
    strongest = fine[
        int(np.argmax(fine.var(axis=(1, 2))))
    ]  # green for most stains, the channel of the fluorochrome in fluorescence
    return _blur(strongest, fine_mpp, blank + dark), _ink_share(_shrink(fine, round(_INK_UM / fine_mpp))), blank, dark


def _shrink(planes: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float32]:
    """Mean over blocks of `factor` × `factor` px of (3, h, w); incomplete blocks are dropped."""
    factor = max(1, min(factor, *planes.shape[1:]))
    height, width = (n // factor * factor for n in planes.shape[1:])
    rows = np.zeros((3, height // factor, width), np.float32)
    for place in range(factor):
        rows += planes[:, place:height:factor, :width]
    total = np.zeros((3, height // factor, width // factor), np.float32)
    for place in range(factor):
        total += rows[:, :, place::factor]
    total /= factor**2
    return total


def _ink_share(planes: npt.NDArray[np.float32]) -> float:
    """Fraction of a patch (3, h, w) at 8 µm/px that is ink."""
    rgb = np.rint(planes).astype(np.uint8).transpose(1, 2, 0)
    od = optical_density(rgb, _INK_GLASS)
    ink = find_ink(np.maximum(od, 0), local_sd((od[0] + od[1] + od[2]) / 3, _INK_WINDOW))
    inked = ((ink.hue == BLUE_GREEN) | (ink.hue == RED) | (ink.hue == BLACK)) & ink.smooth
    if not inked.any():
        return 0.0
    # smoothness is measured over a window, so the edge of the ink is found by growing its inside
    return float(np.mean(dilate(inked, _INK_WINDOW // 2, within=ink.hue > 0)))


def _blur(plane: npt.NDArray[np.float32], mpp: float, empty: float) -> float:
    """Blur of one plane (h, w) at `mpp` µm/px: the larger value of both axes, because motion blurs only one."""
    if min(plane.shape) <= _QUIET:
        raise RequestError(
            f"patches of {plane.shape[1] * mpp:.3g} × {plane.shape[0] * mpp:.3g} µm are too small to measure focus: "
            f"give {(_QUIET + 1) * mpp:.3g} µm or more"
        )
    blurs = [_axis_blur(side, empty) for side in (plane, plane.T)]
    return min(1.0, max(blurs) * mpp / _FULL_BLUR_UM)


def _axis_blur(plane: npt.NDArray[np.float32], empty: float) -> float:
    """Standard deviation of the blur along the first axis, px; 0 for an empty patch, infinite without structure."""
    step = plane[1:] - plane[:-1]
    far = (plane[_REACH:] - plane[:-_REACH]) / _REACH
    step *= step
    noise = max(2 * _LEAST_NOISE**2, _quietest(step))
    fine = float(np.mean(step)) - noise
    coarse = float(np.mean(far * far)) - noise / _REACH**2
    if coarse < _NO_STRUCTURE:
        return 0.0 if empty >= 0.5 else math.inf
    ratio = math.sqrt(coarse / fine) if fine > coarse else 1.0
    return float(np.interp(ratio, _RATIO, _BLUR_PX))


def _quietest(energy: npt.NDArray[np.float32]) -> float:
    """Mean of `energy` (h, w) in its quietest blocks."""
    height, width = (n // _QUIET for n in energy.shape)
    blocks = energy[: height * _QUIET, : width * _QUIET].reshape(height, _QUIET, width, _QUIET)
    means = blocks.mean(axis=3).mean(axis=1).ravel()
    rank = int(_QUIET_SHARE * means.size)
    return float(np.partition(means, rank)[rank])
