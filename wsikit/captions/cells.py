"""What the nuclei of a patch say together: size, shape, stain, large pale ones, rings around matrix. Facts as numbers.

All of it is measured look-alikes: a ring of nuclei around matrix is like a rosette, a large pale nucleus in much pink
cytoplasm like a ganglion cell. What they are, a pathologist says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from wsikit.captions.colours import Colours
from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import Densities, Mask, box_mean, depth_below, dilate, halve, halve_mask, quantile, smooth
from wsikit.captions.texture import Texture

Numbers = npt.NDArray[np.floating[Any]]

FEWEST = 8
"""With fewer whole nuclei, medians and shares of nuclei are not stated."""

_ELONGATED_ASPECT = 0.5
_DARK_QUANTILE = 0.8  # of the densities: the patch's ordinary, dark nuclei
_LARGE_UM, _PALE = 8.0, 0.70  # diameter; density relative to the dark ones
_CELL_LARGE_UM, _CELL_PALE, _CELL_CYTOPLASM = 7.5, 0.72, 1.1
_PALE_ASPECT = 0.6  # long pale nuclei are fibroblasts or endothelium cut flat
_CYTOPLASM_UM = 4.0
_INTACT_UM2 = 20.0  # 5 µm across: smaller dark bodies are shrunken, or grazed by the knife
_RING_CORE_UM = (7.0, 16.0)  # radius of the matrix inside
_RING_BELT_UM = (-2.0, 7.0)  # where the nuclei of the ring lie, from the core's radius
_RING_SECTORS, _RING_FILLED = 12, 7
_RING_FIBRES = 0.22  # mean coherence within the core: no structureless pool, no lumen
_RING_APART_UM = 5.0
_RING_SHADE = 0.4  # most share of a pixel that nuclei cover, in a ring's core


def shape_facts(nuclei: Nuclei) -> dict[str, float]:
    """Medians and shares over the nuclei that lie wholly in the patch; none if there are fewer than `FEWEST`.

    The diameter is the median by area: half of the nuclear area lies in nuclei that wide or wider. So fragments of
    nuclei with open chromatin, which are many and small, weigh little.
    """
    whole = ~nuclei.cut
    if np.count_nonzero(whole) < FEWEST:
        return {}
    diameter, aspect, area = nuclei.diameter_um[whole], nuclei.aspect[whole], nuclei.area_um2[whole]
    order = np.argsort(diameter, kind="stable")
    filled = np.cumsum(area[order])
    return {
        "nuclear_diameter_um": float(diameter[order][np.searchsorted(filled, filled[-1] / 2)]),
        "nuclear_size_cv": float(diameter.std() / diameter.mean()),
        "nuclear_eccentricity": float(np.median(np.sqrt(1 - np.minimum(aspect, 1) ** 2))),
        "elongated_nuclei_share": float(np.mean(aspect < _ELONGATED_ASPECT)),
        "nuclear_density": float(np.median(nuclei.density[whole])),
    }


def pale_facts(nuclei: Nuclei, od: Densities) -> dict[str, float]:
    """Shares of large pale nuclei, and of those that lie in much pink cytoplasm.

    Pale is relative to the patch's own dark nuclei: where all are pale alike, none is found.
    """
    whole = ~nuclei.cut
    if np.count_nonzero(whole) < FEWEST:
        return {}
    paleness = nuclei.density / quantile(nuclei.density, _DARK_QUANTILE)
    rounded = whole & (nuclei.aspect > _PALE_ASPECT)
    large = rounded & (nuclei.diameter_um > _LARGE_UM) & (paleness < _PALE)
    cell = rounded & (nuclei.diameter_um > _CELL_LARGE_UM) & (paleness < _CELL_PALE)
    if cell.any():
        cell &= _cytoplasm(nuclei, od) > _CELL_CYTOPLASM
    n = np.count_nonzero(whole)
    return {
        "large_pale_nuclei_share": float(np.count_nonzero(large) / n),
        "ganglion_like_share": float(np.count_nonzero(cell) / n),
    }


def _cytoplasm(nuclei: Nuclei, od: Densities) -> npt.NDArray[np.float64]:
    """Green density just around each nucleus over the median between the nuclei of the patch, (N,)."""
    between = ~dilate(nuclei.labels > 0, 1)
    stained = od.green[between & (od.green > 0.08)]
    if stained.size == 0:
        return np.zeros(len(nuclei))
    usual = quantile(stained, 0.5)
    weight = between.astype(np.float32)
    sigma = _CYTOPLASM_UM / (2 * od.mpp)
    total, cover = box_mean(np.stack([halve(od.green * weight), halve(weight)]), sigma)
    around = total / np.maximum(cover, 1e-3)
    rows = np.clip((nuclei.y / 2).astype(np.int64), 0, around.shape[0] - 1)
    columns = np.clip((nuclei.x / 2).astype(np.int64), 0, around.shape[1] - 1)
    return around[rows, columns] / usual


def far_from_nuclei(nuclei: Nuclei, distance_um: float) -> Mask:
    """bool (h // 2, w // 2): farther than `distance_um` from any nucleus of at least `_INTACT_UM2`."""
    intact = np.concatenate([[False], nuclei.area_um2 >= _INTACT_UM2])
    near = halve_mask(intact[nuclei.labels], 0).astype(np.float32)
    return box_mean(near, distance_um / np.sqrt(3.0) / (2 * nuclei.mpp)) < 1e-4  # a square of that half-width is empty


def count_rings(nuclei: Nuclei, texture: Texture, colours: Colours) -> int:
    """Rosette-like rings: at least 7 of 12 sectors around a core of fibrous matrix hold a nucleus.

    Parameters
    ----------
    nuclei
        At `texture.mpp` / 2.
    texture
        Of the matrix.
    colours
        At `texture.mpp`.
    """
    if len(nuclei) < _RING_FILLED:
        return 0
    mpp = 2 * texture.mpp  # rings are some 30 µm wide: 2 µm per pixel will do, at a quarter of the time
    free = halve(halve((nuclei.labels > 0).astype(np.float32))) <= _RING_SHADE
    radius = smooth(depth_below(free, max(2, round(_RING_CORE_UM[1] / mpp) + 2)), 1.5 / mpp) * mpp
    fibres = halve(box_mean(texture.near, 0.4 * _RING_CORE_UM[0] / texture.mpp)) >= _RING_FIBRES
    filled = ~halve_mask(colours.blank | colours.red_cell, 0.25)
    core = (radius >= _RING_CORE_UM[0]) & (radius <= _RING_CORE_UM[1]) & fibres & filled
    if not core.any():
        return 0
    side = 2 * max(1, round(_RING_APART_UM / mpp)) + 1
    y, x = np.nonzero(core & (ndi.maximum_filter(radius, side) == radius))
    corner = 0.5 * nuclei.mpp  # places of nuclei count from the middle of the first pixel
    sectors = _filled_sectors(nuclei, (y + 0.5) * mpp - corner, (x + 0.5) * mpp - corner, radius[y, x])
    return int(np.count_nonzero(sectors >= _RING_FILLED))


def _filled_sectors(nuclei: Nuclei, y_um: Numbers, x_um: Numbers, radius_um: Numbers) -> npt.NDArray[np.int64]:
    """Number of sectors that hold a nucleus, for each of n rings of the given centres and core radii."""
    dy = nuclei.y * nuclei.mpp - y_um[:, None]  # (n, N)
    dx = nuclei.x * nuclei.mpp - x_um[:, None]
    beyond = np.hypot(dy, dx) - radius_um[:, None]
    ring, nucleus = np.nonzero((beyond > _RING_BELT_UM[0]) & (beyond < _RING_BELT_UM[1]))
    turn = np.arctan2(dy[ring, nucleus], dx[ring, nucleus]) / (2 * np.pi) % 1.0
    filled = np.zeros((len(y_um), _RING_SECTORS), bool)
    filled[ring, (turn * _RING_SECTORS).astype(np.int64) % _RING_SECTORS] = True
    return filled.sum(axis=1)
