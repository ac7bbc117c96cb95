"""Colour and texture of a whole patch, for pixels that are too coarse for fibrils and make single cells less reliable.

Measured on optical densities (OD) at 2 µm per pixel, or at the patch's own pixel size if that is coarser.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.captions.colours import Light, sort_light
from wsikit.captions.pixels import (
    OD_OF_VALUE,
    Densities,
    Pixels,
    Plane,
    box_mean,
    densities_of,
    shrink_factor,
)
from wsikit.tissue.blocks import Blocks

Floats = npt.NDArray[np.float64]

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
    return facts_of_blocks(Blocks(image[None]), mpp)[0]


def facts_of_blocks(blocks: Blocks, mpp: float, known: tuple[Densities, Light] | None = None) -> list[dict[str, float]]:
    """As `color_texture_facts`, of each image of `blocks`; `known` are those of their pixels, if they were made.

    Each image is measured by itself; one call of a filter serves them all.
    """
    k = shrink_factor(blocks.planes.shape[2:], mpp, _WORKING_MPP)
    planes = blocks.means(k)
    if known is None or k > 1:
        red, green, blue = densities_of(planes)
        od = Densities(red, green, blue, mpp * k)
        known = od, sort_light(od)
    od, light = known
    weight = _stained(light)
    stained_px = _totals(weight)
    red, green, blue = (_totals(plane * weight) / stained_px for plane in (od.red, od.green, od.blue))
    ratio = np.maximum(od.green, np.float32(_MIN_OD))
    np.divide(od.red, ratio, out=ratio)
    ratio -= (_totals(ratio * weight) / stained_px).astype(np.float32)[:, None, None]
    ratio *= ratio
    ratio *= weight
    sigma = _WINDOW_UM / od.mpp
    mean = box_mean(od.green, sigma)
    (stain,), (p10, p50, p90) = _percentiles(planes[0], (0.9,)), _percentiles(planes[1], (0.1, 0.5, 0.9))
    columns = {
        "red_green_od_ratio": (red + 0.01) / (green + 0.01),
        "blue_green_od_ratio": (blue + 0.01) / (green + 0.01),
        "red_green_od_ratio_sd": np.sqrt(_totals(ratio) / stained_px),
        "nuclear_stain": stain,
        "od_p10": p10,
        "od_p50": p50,
        "od_p90": p90,
        "nuclear_texture_sd": _sd(od.red - box_mean(od.red, sigma)),
        "fine_texture_sd": _sd(od.green - mean),
        "coarse_texture_sd": _sd(mean),
    }
    return [dict(zip(columns, row)) for row in zip(*(values.tolist() for values in columns.values()))]


def _stained(light: Light) -> Plane:
    """1 where a pixel is neither blank nor black, else 0; 1 everywhere in a patch that has too few such pixels."""
    stained = ~(light.blank | light.black)
    for one in stained:
        if np.count_nonzero(one) <= _MIN_STAINED * one.size:
            one[:] = True
    return stained.astype(np.float32)


def _totals(planes: Plane) -> Floats:
    """Sums over each of B planes, (B,)."""
    return np.asarray(planes.reshape(len(planes), -1).sum(axis=1), np.float64)


def _percentiles(values: npt.NDArray[np.uint8], shares: Sequence[float]) -> list[Floats]:
    """For each share the lower quantile of the densities of B patches, (B,), from grey values, uint8 (B, h, w)."""
    n = values[0].size
    counts = np.stack([np.bincount(one.ravel(), minlength=256) for one in values])
    below = np.cumsum(counts, axis=1)
    # from the brightest, as the densities are sorted from the faintest
    return [
        OD_OF_VALUE[np.count_nonzero(below <= n - 1 - int(share * (n - 1)), axis=1)].astype(np.float64)
        for share in shares
    ]


def _sd(planes: Plane) -> Floats:
    """Standard deviation of each of B planes, (B,)."""
    n = planes[0].size
    apart = planes - (_totals(planes) / n).astype(np.float32)[:, None, None]
    apart *= apart
    return np.asarray(np.sqrt(_totals(apart) / n))
