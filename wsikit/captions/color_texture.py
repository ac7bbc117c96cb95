"""Colour and texture of a patch as a whole, where its pixels are too coarse for fibrils and single cells say less.

All on densities of 2 µm per pixel, or of the patch's own scale where that is coarser.
"""

from __future__ import annotations

import numpy as np

from wsikit.captions.colours import Colours, sort_colours
from wsikit.captions.pixels import Densities, Pixels, Plane, box_mean, densities, quantile, shrink

_TONE_MPP = 2.0
_WITHIN_UM = 5.6  # standard deviation of the window, 20 µm wide: within it is grain, beyond it patchiness
_LEAST_STAINED = 0.05  # share; on less, the hue is that of the whole patch
_LEAST_DENSITY = 0.05  # of green where ratios are taken: glass has none


def tone_facts(image: Pixels, mpp: float) -> dict[str, float]:
    """Facts of the tone of one patch, uint8 (H, W, 3) at `mpp` µm per pixel: name to value, as in `lexicon.FACTS`."""
    od = densities(*shrink(image, mpp, finest_mpp=_TONE_MPP))
    stained = _stained(sort_colours(od))
    red, green, blue = (float(plane[stained].mean()) for plane in (od.red, od.green, od.blue))
    ratio = od.red / np.maximum(od.green, _LEAST_DENSITY)
    return (
        {
            "red_green_od_ratio": (red + 0.01) / (green + 0.01),
            "blue_green_od_ratio": (blue + 0.01) / (green + 0.01),
            "red_green_od_ratio_sd": float(ratio[stained].std()),
            "nuclear_stain": quantile(od.red.ravel(), 0.9),
            "od_p10": quantile(od.green.ravel(), 0.1),
            "od_p50": quantile(od.green.ravel(), 0.5),
            "od_p90": quantile(od.green.ravel(), 0.9),
        }
        | _texture(od.red, od, "nuclear_texture_sd")
        | _texture(od.green, od, "fine_texture_sd", "coarse_texture_sd")
    )


def _stained(colours: Colours) -> np.ndarray:
    stained = ~(colours.blank | colours.black)
    return stained if stained.mean() > _LEAST_STAINED else np.ones_like(stained)


def _texture(plane: Plane, od: Densities, grain: str, patchiness: str = "") -> dict[str, float]:
    """Standard deviation within and, if named, between areas of 20 µm."""
    mean = box_mean(plane, _WITHIN_UM / od.mpp)
    facts = {grain: float((plane - mean).std())}
    return facts | {patchiness: float(mean.std())} if patchiness else facts
