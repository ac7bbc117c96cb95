"""Image quality of patches: blur, pen, blank and dark area. Patches are uint8 (B, H, W, 3) at `mpp` µm/px.

Each patch is measured separately, so that its values do not depend on the batch. All lengths are in µm. Grey values are
added up as whole numbers and divided last: exact at every scale, and faster than floats.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.tissue.blocks import Blocks
from wsikit.tissue.brightfield import optical_density
from wsikit.tissue.film import find_film
from wsikit.tissue.pen import BLACK, BLUE_GREEN, RED, find_ink, sure_ink
from wsikit.tissue.regions import dilate

QUALITY_NAMES = ("blur", "pen", "blank", "dark")

_PIXELS_AT_ONCE = 1 << 16  # fit into the processor's cache; each call of a filter then serves several small patches
_FOCUS_UM = 1.0  # pixel size at which focus is measured, or that of the patch if it is coarser
_INK_UM = 8.0  # ink is detected at the pixel size of the mask, for which its smoothness was measured
_INK_WINDOW = 5  # px at `_INK_UM`
_NOT_SMOOTH = 0.121  # local sd per mean; above the limit of ink, with room for rounding
_INK_GLASS = (243.0, 243.0, 243.0)
_FILM_MPP = 2.0  # up to here ink is found as a film; coarser pixels average over the pale places that tell it apart

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
            Fraction of the area with the colour of marker ink, up to 2 µm/px wherever one looks in it
            (`wsikit.tissue.film`), on coarser pixels with its smoothness. Red ink only where it is very dense.
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
    values: dict[str, list[float]] = {name: [] for name in QUALITY_NAMES}
    inks = []
    at_once = max(1, _PIXELS_AT_ONCE // max(1, images.shape[1] * images.shape[2]))
    for first in range(0, len(images), at_once):
        reduced = Reduced(Blocks(np.ascontiguousarray(images[first : first + at_once])), mpp)
        inks.append(reduced.ink_colours())
        for index in range(reduced.planes.shape[1]):
            blank, dark = _light_shares(reduced, index)
            values["blur"].append(blur_of(reduced, index))
            values["blank"].append(blank)
            values["dark"].append(dark)
    values["pen"] = pen_shares(np.concatenate(inks, axis=1), mpp) if inks else []
    return {name: np.array(values[name], np.float32) for name in QUALITY_NAMES}


class Reduced:
    """Patches at the pixel size at which focus is measured, about 1 µm.

    Parameters
    ----------
    blocks
        Of the patches.
    mpp
        µm per pixel of the patches.
    """

    def __init__(self, blocks: Blocks, mpp: float) -> None:
        factor = max(1, round(_FOCUS_UM / mpp))
        self._blocks, self._k = blocks, min(factor, *blocks.planes.shape[2:])
        self.mpp = mpp * factor
        self.planes = blocks.sums(self._k)
        """Red, green and blue of B patches, (3, B, h, w): sums over blocks of `n` px, whole numbers."""
        self.n = self._k**2

    def ink_colours(self) -> npt.NDArray[np.uint8]:
        """The patches at the pixel size at which ink is detected, uint8 (3, B, h, w)."""
        k = self._k * max(1, min(round(_INK_UM / self.mpp), *self.planes.shape[2:]))
        return np.rint(self._blocks.sums(k) / np.float32(k * k)).astype(np.uint8)


def _light_shares(reduced: Reduced, index: int) -> tuple[float, float]:
    """Fractions of the area of a patch that are blank and dark."""
    one, two, three = reduced.planes[:, index]
    darkest, brightest = np.minimum(np.minimum(one, two), three), np.maximum(np.maximum(one, two), three)
    blank = darkest >= _BLANK_LEVEL * reduced.n
    blank &= brightest - darkest <= _BLANK_TINT * reduced.n
    dark = brightest <= _DARK_LEVEL * reduced.n
    return np.count_nonzero(blank) / blank.size, np.count_nonzero(dark) / dark.size


def pen_shares(colours: npt.NDArray[np.uint8], mpp: float) -> list[float]:
    """Fractions of B patches that are ink, from `Reduced.ink_colours`, uint8 (3, B, h, w). Each patch by itself.

    `mpp` is the patches' own, µm per pixel.
    """
    od = optical_density(np.moveaxis(colours, 0, 3), _INK_GLASS)
    if mpp <= _FILM_MPP:
        film = find_film(np.maximum(od, 0))
        return (np.count_nonzero(film, axis=(1, 2)) / film[0].size).tolist() if len(film) else []
    shares = [0.0] * od.shape[1]
    suspects = np.flatnonzero(_suspects(od))
    if len(suspects) == 0:
        return shares
    od = od[:, suspects]
    ink = find_ink(np.maximum(od, 0), np.stack([_local_sd(mean) for mean in (od[0] + od[1] + od[2]) / 3]))
    inked = (ink.hue > 0) & (ink.hue <= max(BLUE_GREEN, RED, BLACK)) & ink.smooth
    for index, inside, hued in zip(suspects.tolist(), inked, ink.hue > 0):
        if inside.any():
            # smoothness is measured over a window, so the edge of the ink is found by growing its inside
            shares[index] = float(np.count_nonzero(dilate(inside, _INK_WINDOW // 2, within=hued)) / inside.size)
    return shares


def _suspects(od: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Whether a pixel of a patch may have the hue of ink and be smooth as well, (B,), from densities (3, B, h, w).

    Nuclei are dark and blue, too, but not smooth; only the windows of pixels with the hue are looked at.
    """
    stained = np.maximum(od, 0)
    patch, y, x = np.nonzero(sure_ink(stained))
    reach = np.arange(_INK_WINDOW) - _INK_WINDOW // 2
    rows = np.clip(y[:, None] + reach, 0, od.shape[2] - 1)[:, :, None]
    columns = np.clip(x[:, None] + reach, 0, od.shape[3] - 1)[:, None, :]
    deviation = od[:, patch[:, None, None], rows, columns].mean(axis=0).std(axis=(1, 2))
    suspects = np.zeros(od.shape[1], bool)
    suspects[patch[deviation < _NOT_SMOOTH * stained[:, patch, y, x].mean(axis=0)]] = True
    return suspects


def _local_sd(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """As `brightfield.local_sd` within the window of ink, for the tiny planes that this module has many of."""
    window = (_INK_WINDOW, _INK_WINDOW)
    square = cv2.sqrBoxFilter(plane, cv2.CV_32F, window, borderType=cv2.BORDER_REPLICATE)
    mean = cv2.blur(plane, window, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(np.sqrt(np.maximum(square - mean * mean, 0)), np.float32)


def blur_of(reduced: Reduced, index: int = 0) -> float:
    """Blur of a patch, as in `patch_quality`: the larger value of both axes, because motion blurs only one."""
    # green for most stains, the channel of the fluorochrome in fluorescence
    plane = max(reduced.planes[:, index], key=_spread)
    if min(plane.shape) <= _QUIET:
        height, width = (side * reduced.mpp for side in plane.shape)
        raise RequestError(
            f"patches of {width:.3g} × {height:.3g} µm are too small to measure focus: "
            f"give {(_QUIET + 1) * reduced.mpp:.3g} µm or more"
        )
    blurs = [_axis_blur(plane, axis, reduced.n) for axis in (0, 1)]
    if math.inf in blurs and sum(_light_shares(reduced, index)) >= 0.5:
        blurs = [0.0 if blur == math.inf else blur for blur in blurs]
    return min(1.0, max(blurs) * reduced.mpp / _FULL_BLUR_UM)


def _spread(plane: npt.NDArray[Any]) -> float:
    """Variance times the squared number of pixels: exact, so that equal planes are equal."""
    return float(plane.size * cv2.norm(plane, cv2.NORM_L2SQR) - cv2.sumElems(plane)[0] ** 2)


def _axis_blur(plane: npt.NDArray[Any], axis: int, n: int) -> float:
    """Standard deviation of the blur along an axis, px; infinite without structure. Each value is a sum over `n` px."""
    here, there = _apart(plane, 1, axis)
    far_here, far_there = _apart(plane, _REACH, axis)
    scale = n**2  # of squared sums over blocks
    noise = max(2 * _LEAST_NOISE**2, _quietest(here, there) / scale)
    fine = cv2.norm(here, there, cv2.NORM_L2SQR) / (here.size * scale) - noise
    coarse = (cv2.norm(far_here, far_there, cv2.NORM_L2SQR) / (far_here.size * scale) - noise) / _REACH**2
    if coarse < _NO_STRUCTURE:
        return math.inf
    ratio = math.sqrt(coarse / fine) if fine > coarse else 1.0
    return float(np.interp(ratio, _RATIO, _BLUR_PX))


def _apart(plane: npt.NDArray[Any], px: int, axis: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A plane without its first and without its last `px` rows or columns."""
    return (plane[px:], plane[:-px]) if axis == 0 else (plane[:, px:], plane[:, :-px])


def _quietest(here: npt.NDArray[Any], there: npt.NDArray[Any]) -> float:
    """Mean squared difference of two planes (h, w) in its quietest blocks."""
    step = cv2.absdiff(here, there)
    energy = cv2.multiply(step, step, dtype=cv2.CV_32F)
    height, width = (n // _QUIET for n in energy.shape)
    blocks = energy[: height * _QUIET, : width * _QUIET]
    means = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_AREA).ravel()
    rank = int(_QUIET_SHARE * means.size)
    return float(np.partition(means, rank)[rank])
