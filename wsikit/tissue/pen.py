"""Detects marker pen on the glass: blue, green, red, black. Separated from stain by hue, smoothness and surroundings.

Hue alone is not sufficient: Giemsa and trichrome are as blue as a pen, blood as red, melanin as black. Ink is a film
without cells, and strokes extend over glass; stain has texture and is surrounded by other tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.tissue.parameters import TissueParameters
from wsikit.tissue.regions import Mask, choose, dilate, drop_small, erode, extremes, label

BLUE_GREEN, RED, BLACK = 1, 2, 3
_STEP = 0.02
_FAINT = 10  # added to the hue code if it could also be stain, or the soft edge of a stroke

_SMOOTH = 0.12  # local sd per mean of OD; tissue at 8 µm/px has 0.15–0.5, ink below 0.1
_SMOOTH_RED = 0.08  # packed red blood cells are smoother than any other tissue: 0.12
_SMOOTH_SHARE = 0.5
_RIM_UM = (64.0, 104.0)  # distance of the examined rim from the last pixel with the hue
_GLASS_RIM = 0.15  # minimum share of glass in the rim
_SAME_FILM = 0.8  # relative density; ink over tissue is denser than ink alone, and strokes vary by some tenths
_DENSE_INK = 0.7  # mean OD; paler films cannot be distinguished from dense tissue by density
_RARE = 0.25  # share of the stained area; a hue below it does not belong to the stain
_EDGE_UM = 150.0  # width of the fading edge of a stroke


@dataclass(frozen=True, slots=True)
class Ink:
    """Pixels whose colour could be ink."""

    hue: npt.NDArray[np.uint8]
    """0 none, 1 blue or green, 2 red, 3 black; plus 10 if faint. (h, w)"""
    smooth: Mask
    """Stained and without texture. (h, w)"""
    density: npt.NDArray[np.uint8]
    """Mean optical density in steps of 0.02. (h, w)"""


def find_ink(od: npt.NDArray[np.float32], sd: npt.NDArray[np.float32]) -> Ink:
    """Pixels that could be ink, from optical density (3, h, w) ≥ 0 and its local standard deviation (h, w).

    Hematoxylin, eosin, DAB and blood absorb green most; only blue and green inks absorb red most. Red ink absorbs
    green and blue, and hardly any red. Black ink absorbs all channels equally.
    """
    mean, is_red, hue = _hues(od)
    smooth = (mean > 0.1) & (sd < np.where(is_red, _SMOOTH_RED, _SMOOTH) * mean)
    return Ink(hue, smooth, np.minimum(mean / _STEP, 255).astype(np.uint8))


def sure_ink(od: npt.NDArray[np.float32]) -> Mask:
    """Pixels whose hue is that of ink and not of stain, bool (...), from optical density (3, ...) ≥ 0."""
    hue = _hues(od)[2]
    return (hue > 0) & (hue < _FAINT)


def _hues(od: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], Mask, npt.NDArray[np.uint8]]:
    """Mean density, whether a pixel is red, and its hue as in `Ink`, (...) each, from optical density (3, ...)."""
    red, green, blue = od
    mean = (red + green + blue) / 3
    most, least = extremes(od, axis=0)
    hue = np.zeros(mean.shape, np.uint8)
    is_blue = (red > 1.1 * green) & (red > 0.12)
    is_red = (green > 0.3) & (red < 0.35 * green) & (blue > 0.6 * green)
    is_black = (mean > 0.5) & (most - least < 0.25 * mean)
    # dark blue ink is close to hematoxylin in hue, but no section of 4 µm is as dense and as smooth
    sure_blue = ((red > 0.35) & (red > 1.3 * green)) | ((red > 1.3) & (blue < 0.75 * green))
    hue[is_blue] = np.where(sure_blue[is_blue], BLUE_GREEN, BLUE_GREEN + _FAINT)
    hue[is_red] = np.where(green[is_red] > 0.8, RED, RED + _FAINT)
    hue[is_black] = np.where(mean[is_black] > 1.0, BLACK, BLACK + _FAINT)
    return mean, is_red, hue


def pen_marks(ink: Ink, glass: Mask, mpp: float, parameters: TissueParameters) -> Mask:
    """Pen strokes with their soft edges, bool (h, w). `glass` marks unstained pixels."""
    marks = np.zeros_like(glass)
    n_stained = max(1, int(glass.size - np.count_nonzero(glass)))
    least_px = max(2.0, parameters.min_pen_mm2 * (1000.0 / mpp) ** 2)
    for hue in (BLUE_GREEN, RED, BLACK):
        strong = ink.hue == hue
        if np.count_nonzero(strong) < least_px:
            continue
        core = drop_small(strong, least_px)
        rare = hue == BLUE_GREEN and np.count_nonzero(core) < _RARE * n_stained
        edges = ink.hue % _FAINT == hue
        core = _strokes(core, edges, ink.smooth, None if rare else glass, mpp)
        if core.any():
            core = _over_tissue(core, ink)
            marks |= dilate(core, _EDGE_UM / mpp, within=core | edges)
    return marks


def _over_tissue(core: Mask, ink: Ink) -> Mask:
    """`core` and adjacent smooth areas that are at least as dense: over tissue, the hue of ink is not visible."""
    dense = _SAME_FILM * float(np.median(ink.density[core]))
    if dense * _STEP < _DENSE_INK:
        return core
    labels, areas = label(core | (ink.smooth & (ink.density > dense)))
    reached = np.zeros(len(areas), bool)
    reached[np.unique(labels[core])] = True
    return choose(labels, reached)


def _strokes(core: Mask, edges: Mask, smooth: Mask, glass: Mask | None, mpp: float) -> Mask:
    """Regions of `core` that are smooth inside and, if `glass` is given, surrounded by it beyond their soft edges."""
    from scipy import ndimage as ndi

    labels, _ = label(core)
    kept = np.zeros_like(core)
    near, far = (max(1, round(distance / mpp)) for distance in _RIM_UM)
    pad = far + round(_EDGE_UM / mpp) + 2
    for index, found in enumerate(ndi.find_objects(labels), start=1):
        box = tuple(slice(max(0, side.start - pad), side.stop + pad) for side in found)
        region = labels[box] == index
        inside = erode(region, 2)
        inside = inside if inside.any() else region
        if np.count_nonzero(smooth[box] & inside) < _SMOOTH_SHARE * np.count_nonzero(inside):
            continue
        if glass is not None:
            stroke = dilate(region, _EDGE_UM / mpp, within=edges[box])
            rim = dilate(stroke, far) & ~dilate(stroke, near)
            if np.count_nonzero(rim & glass[box]) < _GLASS_RIM * np.count_nonzero(rim):
                continue
        kept[box] |= region
    return kept
