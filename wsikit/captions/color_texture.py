"""Colour and texture of a whole patch, for pixels that are too coarse for fibrils and make single cells less reliable.

Measured on optical densities (OD) at 2 µm per pixel, or at the patch's own pixel size if that is coarser.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.colours import Light, sort_light
from wsikit.captions.pixels import (
    OD_OF_VALUE,
    Densities,
    Mask,
    Pixels,
    Plane,
    box_mean,
    densities_of,
    shrink_factor,
)
from wsikit.tissue.blocks import Blocks

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
    return facts_of_blocks(Blocks(image), mpp)


def facts_of_blocks(blocks: Blocks, mpp: float, known: tuple[Densities, Light] | None = None) -> dict[str, float]:
    """As `color_texture_facts`, of the blocks of an image; `known` are those of its own pixels, if they were made."""
    k = shrink_factor(blocks.planes.shape[1:], mpp, _WORKING_MPP)
    planes = blocks.means(k)
    if known is None or k > 1:
        od = densities_of(planes, mpp * k)
        known = od, sort_light(od)
    od, light = known
    mask = _stained(light).view(np.uint8)
    red, green, blue = (cv2.mean(plane, mask)[0] for plane in (od.red, od.green, od.blue))
    ratio = np.maximum(od.green, np.float32(_MIN_OD))
    np.divide(od.red, ratio, out=ratio)
    within, between = _texture_sd(od.green, od)
    p10, p50, p90 = _percentiles(planes[1], (0.1, 0.5, 0.9))
    return {
        "red_green_od_ratio": (red + 0.01) / (green + 0.01),
        "blue_green_od_ratio": (blue + 0.01) / (green + 0.01),
        "red_green_od_ratio_sd": float(cv2.meanStdDev(ratio, mask=mask)[1].item()),
        "nuclear_stain": _percentiles(planes[0], (0.9,))[0],
        "od_p10": p10,
        "od_p50": p50,
        "od_p90": p90,
        "nuclear_texture_sd": _sd(od.red - box_mean(od.red, _WINDOW_UM / od.mpp)),
        "fine_texture_sd": within,
        "coarse_texture_sd": between,
    }


def _stained(light: Light) -> Mask:
    stained = ~(light.blank | light.black)
    return stained if np.count_nonzero(stained) > _MIN_STAINED * stained.size else np.ones_like(stained)


def _percentiles(values: npt.NDArray[np.uint8], shares: Sequence[float]) -> list[float]:
    """The lower quantiles of a density, from the grey values that it was made from: the darker, the denser."""
    n = values.size
    ranks = [n - 1 - int(share * (n - 1)) for share in shares]
    found = np.searchsorted(np.cumsum(np.bincount(values.ravel(), minlength=256)), ranks, side="right")
    return [float(OD_OF_VALUE[value]) for value in found]


def _texture_sd(plane: Plane, od: Densities) -> tuple[float, float]:
    """Standard deviations of `plane` within and between windows of 20 µm."""
    mean = box_mean(plane, _WINDOW_UM / od.mpp)
    return _sd(plane - mean), _sd(mean)


def _sd(plane: Plane) -> float:
    return float(cv2.meanStdDev(plane)[1].item())
