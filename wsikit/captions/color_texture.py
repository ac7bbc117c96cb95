"""Colour and texture of a whole patch, for pixels that are too coarse for fibrils and make single cells less reliable.

Measured on optical densities (OD) at 2 µm per pixel, or at the patch's own pixel size if that is coarser.
"""

from __future__ import annotations

import numpy as np

from wsikit.captions.colours import Colours, sort_colours
from wsikit.captions.pixels import Densities, Mask, Pixels, Plane, box_mean, densities, quantile, shrink

_WORKING_MPP = 2.0
_WINDOW_UM = 5.6  # standard deviation of a window of 20 µm: fine texture within it, coarse texture between windows
_MIN_STAINED = 0.05  # share; on less, the ratios are those of the whole patch
_MIN_OD = 0.05  # of green, in per-pixel ratios: glass has none


def color_texture_facts(image: Pixels, mpp: float) -> dict[str, float]:
    """Facts of colour and texture of one patch, uint8 (H, W, 3) at `mpp` µm per pixel; names as in `wsikit.facts`.

    Examples
    --------
    >>> facts = color_texture_facts(np.full((32, 32, 3), 128, np.uint8), 4.0)
    >>> round(facts["red_green_od_ratio"], 3), round(facts["od_p50"], 3), facts["fine_texture_sd"]
    (1.0, 0.298, 0.0)
    """
    od = densities(*shrink(image, mpp, finest_mpp=_WORKING_MPP))
    stained = _stained(sort_colours(od))
    red, green, blue = (float(plane[stained].mean()) for plane in (od.red, od.green, od.blue))
    ratio = od.red / np.maximum(od.green, _MIN_OD)
    within, between = _texture_sd(od.green, od)
    return {
        "red_green_od_ratio": (red + 0.01) / (green + 0.01),
        "blue_green_od_ratio": (blue + 0.01) / (green + 0.01),
        "red_green_od_ratio_sd": float(ratio[stained].std()),
        "nuclear_stain": quantile(od.red.ravel(), 0.9),
        "od_p10": quantile(od.green.ravel(), 0.1),
        "od_p50": quantile(od.green.ravel(), 0.5),
        "od_p90": quantile(od.green.ravel(), 0.9),
        "nuclear_texture_sd": _texture_sd(od.red, od)[0],
        "fine_texture_sd": within,
        "coarse_texture_sd": between,
    }


def _stained(colours: Colours) -> Mask:
    stained = ~(colours.blank | colours.black)
    return stained if stained.mean() > _MIN_STAINED else np.ones_like(stained)


def _texture_sd(plane: Plane, od: Densities) -> tuple[float, float]:
    """Standard deviations of `plane` within and between windows of 20 µm."""
    mean = box_mean(plane, _WINDOW_UM / od.mpp)
    return float((plane - mean).std()), float(mean.std())
