"""Marker pen on the glass: blue, green, red, black. Told from stain by hue, by smoothness, and by lying on glass.

Hue alone cannot: Giemsa and trichrome are as blue as a pen, blood as red, melanin as black. A pen's ink is a film
without cells, and a stroke runs over glass; a stain has texture and a rim of other tissue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.tissue.parameters import TissueParameters
from wsikit.tissue.regions import Mask, choose, dilate, drop_small, erode, extremes, label

BLUE_GREEN, RED, BLACK = 1, 2, 3
_STEP = 0.02
_FAINT = 10  # added to a hue where it could also be stain, or the soft edge of a stroke

_SMOOTH = 0.12  # local sd per mean of OD; tissue at 8 µm/px has 0.15–0.5, ink below 0.1
_SMOOTH_RED = 0.08  # packed red cells are finer than any other tissue: 0.12
_SMOOTH_SHARE = 0.5
_RIM_UM = (64.0, 104.0)  # where the rim is looked at, beyond the last of the hue
_GLASS_RIM = 0.15  # least share of the rim that is glass
_SAME_FILM = 0.8  # ink over tissue is denser than the ink alone; strokes vary by some tenths
_DENSE_INK = 0.7  # mean OD; paler films cannot be told from dense tissue by density
_RARE = 0.25  # a hue on less of the stained area than this is foreign to the stain
_EDGE_UM = 150.0  # how far a stroke fades out


@dataclass(frozen=True, slots=True)
class Ink:
    """Where the colour could be ink's."""

    hue: npt.NDArray[np.uint8]
    """0 none, 1 blue or green, 2 red, 3 black; 10 more where faint. (h, w)"""
    smooth: Mask
    """Stained, and without texture. (h, w)"""
    density: npt.NDArray[np.uint8]
    """Mean optical density in steps of 0.02. (h, w)"""


def find_ink(od: npt.NDArray[np.float32], sd: npt.NDArray[np.float32]) -> Ink:
    """What of each pixel could be ink, from its density (3, h, w) ≥ 0 and local deviation (h, w).

    Hematoxylin, eosin, DAB and blood absorb green most; only blue and green inks absorb red most. Red ink absorbs
    green and blue, hardly red. Black absorbs all alike.
    """
    red, green, blue = od
    mean = (red + green + blue) / 3
    most, least = extremes(od, axis=0)
    hue = np.zeros(sd.shape, np.uint8)
    is_blue = (red > 1.1 * green) & (red > 0.12)
    is_red = (green > 0.3) & (red < 0.35 * green) & (blue > 0.6 * green)
    is_black = (mean > 0.5) & (most - least < 0.25 * mean)
    # Dark blue ink comes near hematoxylin in hue, but no section 4 µm thick is as dense and as smooth
    sure_blue = ((red > 0.35) & (red > 1.3 * green)) | ((red > 1.3) & (blue < 0.75 * green))
    hue[is_blue] = np.where(sure_blue[is_blue], BLUE_GREEN, BLUE_GREEN + _FAINT)
    hue[is_red] = np.where(green[is_red] > 0.8, RED, RED + _FAINT)
    hue[is_black] = np.where(mean[is_black] > 1.0, BLACK, BLACK + _FAINT)
    smooth = (mean > 0.1) & (sd < np.where(is_red, _SMOOTH_RED, _SMOOTH) * mean)
    return Ink(hue, smooth, np.minimum(mean / _STEP, 255).astype(np.uint8))


def pen_marks(ink: Ink, glass: Mask, mpp: float, parameters: TissueParameters) -> Mask:
    """Pen strokes with their soft edges, bool (h, w). `glass` is where nothing is stained."""
    marks = np.zeros_like(glass)
    n_stained = max(1, int(glass.size - np.count_nonzero(glass)))
    least_px = max(2.0, parameters.min_pen_mm2 * (1000.0 / mpp) ** 2)
    for hue in (BLUE_GREEN, RED, BLACK):
        strong = ink.hue == hue
        if np.count_nonzero(strong) < least_px:
            continue
        core = drop_small(strong, least_px)
        foreign = hue == BLUE_GREEN and np.count_nonzero(core) < _RARE * n_stained
        edges = ink.hue % _FAINT == hue
        core = _strokes(core, edges, ink.smooth, None if foreign else glass, mpp)
        if core.any():
            core = _over_tissue(core, ink)
            marks |= dilate(core, _EDGE_UM / mpp, within=core | edges)
    return marks


def _over_tissue(core: Mask, ink: Ink) -> Mask:
    """`core` with what continues it as a smooth film at least as dense: over tissue the ink's own hue is lost."""
    dense = _SAME_FILM * float(np.median(ink.density[core]))
    if dense * _STEP < _DENSE_INK:
        return core
    labels, areas = label(core | (ink.smooth & (ink.density > dense)))
    reached = np.zeros(len(areas), bool)
    reached[np.unique(labels[core])] = True
    return choose(labels, reached)


def _strokes(core: Mask, edges: Mask, smooth: Mask, glass: Mask | None, mpp: float) -> Mask:
    """The regions of `core` that are smooth inside and, with their soft edges, rimmed by `glass`, if it is given."""
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
