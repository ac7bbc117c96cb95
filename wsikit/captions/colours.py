"""Classification of pixels by colour: glass, black, grey, ink, brown, red blood cells, haematoxylin, eosin.

Ratios of optical densities (OD) identify dyes independently of the section's thickness. Haematoxylin and eosin absorb
green most; haematoxylin absorbs red nearly as much, eosin hardly. Red blood cells absorb blue nearly as much as green;
inks absorb red most; soot and dust absorb all channels equally.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.pixels import Densities, Mask, Plane, box_mean, halve, quantile, smooth

_STAINED = 0.24  # sum of the three ODs; glass with grey values of 222 and more is below
_TINT = 0.04  # OD of green above the mean of red and blue; pale stain exceeds it, untinted glass does not
_BLACK = 0.795  # minimum OD of black: no channel above grey value 40
_DARK = 1.0  # median OD of the channels: light in one channel only is fluorescence, or black
_COLOURLESS = 0.2  # range of the channels over their mean; H&E has 0.4 and more
_INK_RED = 1.3  # red over green, and green over mean, of blue and green inks
_INK_DENSITY = 0.3
_BROWN_BLUE = 1.15  # blue over green of DAB and melanin
_BROWN_DENSITY = 0.25
_RED_CELL_BLUE = 0.72  # blue over green: eosin has 0.4-0.75, red cells 0.75-0.95 unless colours were normalised
_RED_CELL_ABOVE = 0.1  # where cells are not resolved: at least this much above the median of the pink pixels
_RED_CELL_GREEN = 0.12
_RED_CELL_RED = 0.45  # red over green
_CELL_MPP = 1.5  # up to here red blood cells are resolved, with a rough texture; bone and colloid are smooth:
_ROUGH, _ROUGH_UM = 0.11, 5.0  # mean deviation over mean of the OD in green; bone 0.03-0.1, red blood cells 0.12-0.35
_MIDDLE = 0.45  # red over green between eosin (0.1-0.3) and haematoxylin (0.55-1)
_MIDDLE_RANGE = (0.38, 0.55)
_ENOUGH_UM2 = 200.0
_UNIFORM = 0.004
_LEAST_SLOPE = 1 / (256 * math.log(10))  # OD per grey level, at the brightest; it is greater everywhere else


@dataclass(frozen=True, slots=True)
class Colours:
    """Classes of pixels, bool (..., h, w) each. They do not overlap; some pixels belong to none."""

    blank: Mask
    """Bright with little colour: glass, lumens, fat dissolved by processing."""
    black: Mask
    """Black, or light in one channel only: scanner border, dark field."""
    grey: Mask
    """Dark without colour: soot, dust, black ink, pigment."""
    ink: Mask
    """Blue or green ink, or a stain other than H&E."""
    brown: Mask
    """Brown chromogen or pigment."""
    red_cell: Mask
    haematoxylin: Mask
    """More haematoxylin than eosin."""
    eosin: Mask
    mpp: float


@dataclass(frozen=True, slots=True)
class Light:
    """What can be said before colours are sorted, bool (..., h, w) each, without overlap; `free` is the rest."""

    blank: Mask
    black: Mask
    grey: Mask
    free: Mask


Part = TypeVar("Part", Densities, Light, Colours)


def sort_light(od: Densities) -> Light:
    """Separate what has no stain colour, blank, black and grey, from the rest of a patch."""
    red, green, blue = od.red, od.green, od.blue
    total = red + green
    total += blue
    blank = total < _STAINED
    tint = red + blue  # in place, here and below: staying in the CPU's cache saves a third of the time
    tint *= np.float32(0.5)
    blank &= np.subtract(green, tint, out=tint) < _TINT
    least = np.minimum(red, green)
    np.minimum(least, blue, out=least)
    most = np.maximum(red, green)
    np.maximum(most, blue, out=most)
    middle = np.subtract(total, least, out=tint)
    middle -= most
    black = least > _BLACK
    black |= middle > _DARK
    free = ~(blank | black)
    most -= least
    total *= np.float32(_COLOURLESS / 3)
    grey = most < total
    grey &= free
    free &= ~grey
    return Light(blank, black, grey, free)


def sort_colours(od: Densities, light: Light | None = None) -> Colours:
    """Classify the pixels of a patch by colour; haematoxylin and eosin by the average stain.

    `light` is `sort_light(od)`, if it is known.
    """
    red, green, blue = od.red, od.green, od.blue
    light = sort_light(od) if light is None else light
    free = light.free
    ink = red > np.float32(_INK_RED) * green
    ink &= red > _INK_DENSITY
    ink &= free
    free = free & ~ink
    brown = blue > np.float32(_BROWN_BLUE) * green
    brown &= blue > _BROWN_DENSITY
    brown &= free
    free &= ~brown
    red_cell = _red_cells(od, free)
    free &= ~red_cell
    bluish = red > np.float32(_MIDDLE) * green
    haematoxylin = free & bluish
    return Colours(light.blank, light.black, light.grey, ink, brown, red_cell, haematoxylin, free & ~bluish, od.mpp)


def _red_cells(od: Densities, free: Mask) -> Mask:
    """Pixels redder than the eosin of this patch, in spots rather than single pixels."""
    green, blue = od.green, od.blue
    pink = green > _RED_CELL_GREEN
    pink &= od.red < np.float32(_RED_CELL_RED) * green
    pink &= free
    if not pink.any():
        return pink
    resolved = od.mpp <= _CELL_MPP
    limit = np.float32(_RED_CELL_BLUE) if resolved else _red_cell_limit(od, pink)
    redder = pink & (blue > limit * green)
    if not redder.any():
        return redder
    spots = smooth(redder.astype(np.float32), 1.0) > 0.5
    spots &= free
    if resolved and spots.any():
        mean = box_mean(green, _ROUGH_UM / od.mpp)
        apart = np.abs(green - box_mean(green, 0.6 * _ROUGH_UM / od.mpp))
        mean *= np.float32(_ROUGH)
        spots &= box_mean(apart, _ROUGH_UM / od.mpp) > mean
    return spots


def _red_cell_limit(od: Densities, pink: Mask) -> npt.NDArray[np.float32]:
    """Blue over green from which on a pixel is redder than the pink of its patch: (..., 1, 1)."""
    height, width = pink.shape[-2:]
    limits = []
    for blue, green, within in zip(*(plane.reshape(-1, height, width) for plane in (od.blue, od.green, pink))):
        some = green[within]
        usual = quantile(blue[within] / some, 0.5) + _RED_CELL_ABOVE if some.size else 0.0
        limits.append(max(_RED_CELL_BLUE, usual))
    return np.array(limits, np.float32).reshape(*pink.shape[:-2], 1, 1)


def adapt_stains(colours: Colours, od: Densities, nuclei: Mask) -> Colours:
    """Separate haematoxylin from eosin midway between this patch's nuclei and its pinkest pixels.

    If there are too few pixels of either, the separation by the average stain is kept.

    Parameters
    ----------
    colours, od
        Of the same pixels.
    nuclei
        bool (h, w), the same pixels.
    """
    stained = colours.haematoxylin | colours.eosin
    ratio = np.maximum(od.green, np.float32(0.1))
    np.divide(od.red, ratio, out=ratio)
    on_nuclei = nuclei & stained
    blue, rest = ratio[on_nuclei], ratio[stained & ~on_nuclei]
    if min(blue.size, rest.size) * od.mpp**2 < _ENOUGH_UM2:
        return colours
    middle = 0.5 * (quantile(rest, 0.1) + quantile(blue, 0.5))
    bluish = ratio > np.float32(min(max(middle, _MIDDLE_RANGE[0]), _MIDDLE_RANGE[1]))
    bluish &= stained
    return replace(colours, haematoxylin=bluish, eosin=stained & ~bluish)


def part(planes: Part, index: int | list[int] | slice) -> Part:
    """Planes of one patch, or of some, from planes (B, h, w) of many: of `Densities`, `Light` or `Colours`."""
    values = [getattr(planes, name) for name in planes.__slots__]
    some: list[Any] = [value[index] if isinstance(value, np.ndarray) else value for value in values]
    return type(planes)(*some)


def halved(od: Densities) -> Densities:
    """The densities averaged over 2 × 2 px, at twice the µm per pixel."""
    return Densities(halve(od.red), halve(od.green), halve(od.blue), od.mpp * 2)


def share(mask: Mask) -> float:
    """Fraction of the patch that is `mask`.

    Examples
    --------
    >>> share(np.array([[True, False]]))
    0.5
    """
    return float(np.count_nonzero(mask) / mask.size)


def is_uniform(green: Plane, values: npt.NDArray[np.uint8] | None = None) -> bool:
    """Whether the patch has a uniform colour: the OD in green varies by less than one or two grey levels.

    `values` are the grey values that it was made from, if they are known: they decide most patches quickly.
    """
    if values is not None:
        n = values.size
        spread = cv2.norm(values, cv2.NORM_L2SQR) / n - (cv2.sumElems(values)[0] / n) ** 2
        if spread > (2 * _UNIFORM / _LEAST_SLOPE) ** 2:
            return False
    return float(green.std()) < _UNIFORM
