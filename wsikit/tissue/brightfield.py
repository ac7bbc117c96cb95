"""Tissue mask of brightfield slides: separates stain from pen ink and from black borders of the scan.

Input is the overview, uint8 (h, w, 3), at mask resolution. Stain is detected by optical density (OD, natural logarithm)
above the glass of the same slide: by the difference between channels, which shadow and dirt do not have, and by
texture, which smears of dye on glass do not have. One threshold is used for the whole slide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.memory import give_back_memory
from wsikit.tissue.background import Glass, find_glass
from wsikit.tissue.medium import FADING_SD, LIGHTEST_OD, find_medium
from wsikit.tissue.parameters import TissueParameters
from wsikit.tissue.pen import Ink, find_ink, pen_marks
from wsikit.tissue.regions import (
    Mask,
    choose,
    close_gaps,
    count,
    dilate,
    drop_small,
    edge_values,
    erode,
    extremes,
    fill_holes,
    label,
    row_strips,
)

_CERTAIN_OD = 0.14  # stain above this is tissue even if it is smooth: colloid, blood, keratin
_TEXTURE_SD = 0.015  # OD within 40 µm; smears of eosin on glass stay below 0.012, the smoothest blood at 0.016
_TEXTURE_UM = 40.0
_GREY_WEIGHT = 0.5  # weight of colourless density: silver and melanin are grey, but dust and shadow too
_NEUTRAL = 0.25  # colour per density; below it an object is colourless. Hematoxylin, eosin and DAB have 0.4 or more
_NEUTRAL_AREA = 3.0  # minimum area of colourless regions, relative to others: smaller ones are dust
_NEUTRAL_WIDTH_UM = 64.0  # and their minimum width: fibres, rims of bubbles and the edge of the cover glass are thinner
_SPECK_UM = 40.0  # smaller spots are removed before gaps are closed, so that scattered dust is not joined
_CERTAIN_SHARE = 0.02
_DARKEST = 12.0  # grey level; below it, colour is only noise and JPEG artefacts
_BORDER_MAX = 70  # brightest channel of a black border
_BORDER_TINT = 25  # largest difference between its channels


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Classification of each pixel, (h, w) each."""

    stained: Mask
    certain: Mask
    neutral: Mask
    glass: Mask
    medium: Mask


def brightfield_mask(rgb: npt.NDArray[np.uint8], mpp: float, parameters: TissueParameters) -> Mask:
    """Tissue of the overview `rgb`, uint8 (h, w, 3), at `mpp` µm/px: bool (h, w)."""
    evidence, ink, black = _classify(rgb, mpp, find_glass(rgb), parameters)
    px_per_mm2 = (1000.0 / mpp) ** 2
    out = _black_border(black, parameters.min_pen_mm2 * px_per_mm2) | pen_marks(ink, evidence.glass, mpp, parameters)
    del ink, black  # a third of the memory for a large slide
    if out.any():
        out = dilate(out, parameters.margin_um / mpp)
    tissue = evidence.stained & ~out & ~evidence.medium
    tissue = drop_small(tissue, (_SPECK_UM / mpp) ** 2)
    tissue = close_gaps(tissue, parameters.closing_um / mpp) & ~out
    tissue = fill_holes(tissue, parameters.max_hole_mm2 * px_per_mm2) & ~out
    return _keep_plausible(tissue, evidence, mpp, parameters.min_area_mm2 * px_per_mm2)


def _classify(
    rgb: npt.NDArray[np.uint8], mpp: float, glass: Glass, parameters: TissueParameters
) -> tuple[_Evidence, Ink, Mask]:
    """Pixels that show stain, that may be ink, and that are black. In strips, so that float planes are small."""
    from scipy import ndimage as ndi

    shape = rgb.shape[:2]
    stained, certain, neutral, empty, black = (np.zeros(shape, bool) for _ in range(5))
    smooth, even, fading, light = (np.zeros(shape, bool) for _ in range(4))
    ink = Ink(np.zeros(shape, np.uint8), np.zeros(shape, bool), np.zeros(shape, np.uint8))
    window = max(3, round(_TEXTURE_UM / mpp) | 1)
    least = _least_stain(rgb, glass, parameters.min_density)
    for top, bottom in row_strips(*shape):
        first, last = max(0, top - 2 * window), min(shape[0], bottom + 2 * window)
        od = optical_density(rgb[first:last], glass.rgb)
        here, inside = slice(top, bottom), slice(top - first, bottom - first)
        around = local_sd((od[0] + od[1] + od[2]) / 3, window)
        sd = around[inside]
        smooth[here] = ndi.minimum_filter(around, window, mode="nearest")[inside] <= _TEXTURE_SD
        od = np.maximum(od[:, inside], 0)
        mean, colour, score = _stain(od, glass)
        certain[here] = score > max(_CERTAIN_OD, least)
        stained[here] = certain[here] | ((score > least) & (sd > _TEXTURE_SD))
        neutral[here] = colour < _NEUTRAL * mean
        empty[here] = score < least
        even[here], fading[here] = sd <= _TEXTURE_SD, sd <= FADING_SD
        light[here] = (score >= least) & (score < LIGHTEST_OD)
        black[here] = _is_black(rgb[here])
        found = find_ink(od, sd)
        ink.hue[here], ink.smooth[here], ink.density[here] = found.hue, found.smooth, found.density
    # as bits while they wait: finding medium needs as much memory as all else here
    waiting = [np.packbits(mask) for mask in (stained, certain, neutral, black, ink.smooth)]
    hue, density = ink.hue, ink.density
    del stained, certain, neutral, black, ink
    give_back_memory()  # of the strips
    medium = find_medium(smooth, even, fading, light, empty, mpp, window // 2)
    del smooth, even, fading, light
    stained, certain, neutral, black, inked = (_unpacked(bits, shape) for bits in waiting)
    return _Evidence(stained, certain, neutral, empty, medium), Ink(hue, inked, density), black


def _unpacked(bits: npt.NDArray[np.uint8], shape: tuple[int, int]) -> Mask:
    mask: Mask = np.unpackbits(bits, count=shape[0] * shape[1]).view(bool).reshape(shape)
    return mask


def optical_density(rgb: npt.NDArray[np.uint8], glass: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    """Optical density above the glass, float32 (3, h, w); negative where the image is brighter than the glass."""
    table = -np.log(np.maximum(np.arange(256.0), _DARKEST) + 1)
    return np.stack([(table + np.log(level + 1)).astype(np.float32)[rgb[..., c]] for c, level in enumerate(glass)])


def _stain(od: npt.NDArray[np.float32], glass: Glass) -> tuple[npt.NDArray[np.float32], ...]:
    """Mean density, range over the channels ("colour"), and the score that is thresholded; (h, w) each."""
    mean = (od[0] + od[1] + od[2]) / 3
    most, least = extremes(od, axis=0)
    colour = most - least
    return mean, colour, colour + _GREY_WEIGHT * np.maximum(mean - glass.grey_od, 0)


def _is_black(rgb: npt.NDArray[np.uint8]) -> Mask:
    """Dark and colourless pixels. Densely packed nuclei are as dark, but purple."""
    brightest, darkest = extremes(rgb)
    black: Mask = (brightest <= _BORDER_MAX) & (brightest - darkest <= _BORDER_TINT)
    return black


def local_sd(image: npt.NDArray[np.float32], window: int) -> npt.NDArray[np.float32]:
    """Standard deviation within a square of `window` px around each pixel, float32 (h, w)."""
    from scipy import ndimage as ndi

    mean = ndi.uniform_filter(image, window, mode="nearest")
    square = ndi.uniform_filter(image * image, window, mode="nearest")
    deviation: npt.NDArray[np.float32] = np.sqrt(np.maximum(square - mean * mean, 0))
    return deviation


def _least_stain(rgb: npt.NDArray[np.uint8], glass: Glass, floor: float) -> float:
    """The threshold of the slide: above the noise of its glass, but bounded so that pale tissue is kept."""
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / 250_000)))
    _, _, score = _stain(np.maximum(optical_density(rgb[::step, ::step], glass.rgb), 0), glass)
    quiet = score[score < 2 * floor]
    if quiet.size < 0.01 * score.size:
        return floor
    middle = float(np.median(quiet))
    noise = 1.4826 * float(np.median(np.abs(quiet - middle)))
    return float(np.clip(middle + 5 * noise, floor, 2 * floor))


def _black_border(black: Mask, min_px: float) -> Mask:
    """Black regions of at least `min_px` that touch the edge of the image; clumps of nuclei are smaller."""
    if not edge_values(black).any():
        return np.zeros_like(black)
    labels, areas = label(black)
    at_edge = np.zeros(len(areas), bool)
    at_edge[np.unique(edge_values(labels))] = True
    at_edge &= areas >= max(1.0, min_px)
    at_edge[0] = False
    return choose(labels, at_edge)


def _keep_plausible(tissue: Mask, evidence: _Evidence, mpp: float, min_px: float) -> Mask:
    """Regions that are large enough and contain strong stain; colourless ones must be larger, and not thin."""
    labels, areas = label(tissue)
    certain, stained, neutral = (
        count(labels, len(areas), shown)
        for shown in (evidence.certain, evidence.stained, evidence.stained & evidence.neutral)
    )
    keep = (areas >= min_px) & (certain >= _CERTAIN_SHARE * areas)
    colourless = neutral > 0.5 * stained
    if (keep & colourless).any():
        inside = count(labels, len(areas), erode(tissue, _NEUTRAL_WIDTH_UM / 2 / mpp))
        keep &= ~colourless | ((areas >= _NEUTRAL_AREA * min_px) & (inside > 0))
    keep[0] = False
    return choose(labels, keep)
