"""Facts of the nuclei of a patch: size, shape, stain, share of large pale nuclei, nucleoli.

A large pale nucleus with a nucleolus in pink cytoplasm is called ganglion-like; the diagnosis is the pathologist's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import (
    OD_OF_VALUE,
    Densities,
    Mask,
    Pixels,
    box_mean,
    box_side,
    cover,
    dilate,
    dilate_square,
    halve,
    quantile,
)

Floats = npt.NDArray[np.float64]

MIN_NUCLEI = 8
"""With fewer complete nuclei, medians and shares of nuclei are not reported."""

_ELONGATED_ASPECT = 0.5
_DARK_QUANTILE = 0.8  # of the densities: the patch's typical dark nuclei
_LARGE_UM, _PALE = 8.0, 0.70  # diameter; density relative to the dark nuclei
_CELL_LARGE_UM, _CELL_PALE, _CELL_CYTOPLASM = 6.5, 0.80, 0.9
_NUCLEOLUS = 1.9  # maximum over median density within a nucleus
_LEAST_MEDIAN = 0.02
_NUCLEOLUS_WITHIN = 0.65  # of the radius: the membrane lies further out
_PALE_ASPECT = 0.6  # long pale nuclei are fibroblasts or tangentially cut endothelium
_CYTOPLASM_UM = 4.0
_STAINED = OD_OF_VALUE > 0.08  # grey values of stain, from the darkest
_INTACT_UM2 = 20.0  # diameter 5 µm: smaller dark bodies are pyknotic, or only touched by the section


def shape_facts(nuclei: Nuclei) -> dict[str, float]:
    """Medians and shares over the nuclei that lie completely in the patch; empty if fewer than `MIN_NUCLEI`.

    The diameter is the area-weighted median: half of the nuclear area belongs to nuclei of that diameter or more. Small
    fragments of nuclei with open chromatin, which are many, then have little weight.
    """
    whole = ~nuclei.cut
    n = int(np.count_nonzero(whole))
    if n < MIN_NUCLEI:
        return {}
    diameter, aspect, area = nuclei.diameter_um[whole], nuclei.aspect[whole], nuclei.area_um2[whole]
    order = np.argsort(diameter, kind="stable")
    filled = np.cumsum(area[order])
    mean = float(np.add.reduce(diameter)) / n
    apart = diameter - mean
    return {
        "nuclear_diameter_um": float(diameter[order[np.searchsorted(filled, filled[-1] / 2)]]),
        "nuclear_size_cv": math.sqrt(float(np.dot(apart, apart)) / n) / mean,
        "nuclear_eccentricity": _median(np.sqrt(1 - np.minimum(aspect, 1) ** 2)),
        "elongated_nuclei_share": int(np.count_nonzero(aspect < _ELONGATED_ASPECT)) / n,
        "nuclear_density": _median(nuclei.density[whole]),
    }


def _median(values: npt.NDArray[np.float64]) -> float:
    """As NumPy's, for at least one value."""
    values = np.sort(values)
    middle = len(values) // 2
    return float(values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2)


def pale_facts(nuclei: Nuclei, od: Densities, values: Pixels) -> dict[str, float]:
    """Shares of large pale nuclei, and of pale nuclei with a nucleolus in pink cytoplasm (ganglion-like).

    Pale is relative to the patch's own dark nuclei: if all are equally pale, none is found. `values`, uint8 (h, w), are
    the grey values in green that the densities were made from.
    """
    whole = ~nuclei.cut
    if np.count_nonzero(whole) < MIN_NUCLEI:
        return {}
    paleness = nuclei.density / quantile(nuclei.density, _DARK_QUANTILE)
    rounded = whole & (nuclei.aspect > _PALE_ASPECT)
    large = rounded & (nuclei.diameter_um > _LARGE_UM) & (paleness < _PALE)
    cell = rounded & (nuclei.diameter_um > _CELL_LARGE_UM) & (paleness < _CELL_PALE)
    cells = np.flatnonzero(cell)
    if len(cells):  # the cheaper question first
        cells = cells[_has_nucleolus(nuclei, cells, od)]
    if len(cells):
        cells = cells[_cytoplasm(nuclei, cells, od, values) > _CELL_CYTOPLASM]
    n = int(np.count_nonzero(whole))
    return {"large_pale_nuclei_share": int(np.count_nonzero(large)) / n, "ganglion_like_share": len(cells) / n}


def _cytoplasm(nuclei: Nuclei, chosen: npt.NDArray[np.int64], od: Densities, values: Pixels) -> Floats:
    """OD in green around each of n `chosen` nuclei, over the median between the nuclei of the patch, (n,).

    `values` are the grey values in green that the densities were made from.
    """
    between = ~dilate(nuclei.labels > 0, 1)
    counts = cv2.calcHist([values], [0], between.view(np.uint8), [256], [0, 256]).ravel()
    filled = np.cumsum(counts[_STAINED])  # from the darkest, which are the densest
    if filled[-1] == 0:
        return np.zeros(len(chosen))
    # the lower median of the densities is the upper one of the grey values
    usual = OD_OF_VALUE[np.searchsorted(filled, filled[-1] - 1 - (filled[-1] - 1) // 2, side="right")]
    sigma = _CYTOPLASM_UM / (2 * od.mpp)
    total = box_mean(halve(od.green * between), sigma)
    weight = box_mean(cover(between).astype(np.float32), sigma)
    rows = np.clip((nuclei.y[chosen] / 2).astype(np.int64), 0, total.shape[0] - 1)
    columns = np.clip((nuclei.x[chosen] / 2).astype(np.int64), 0, total.shape[1] - 1)
    covered = np.maximum(weight[rows, columns] / 4, np.float32(1e-3))
    return np.asarray(total[rows, columns] / covered / usual, np.float64)


def _has_nucleolus(nuclei: Nuclei, chosen: npt.NDArray[np.int64], od: Densities) -> Mask:
    """Whether the maximum over the median OD in red, in the inner part of each of n `chosen` nuclei, is high, (n,)."""
    height, width = od.shape
    y, x = nuclei.y[chosen], nuclei.x[chosen]
    reach = _NUCLEOLUS_WITHIN * nuclei.diameter_um[chosen] / 2 / nuclei.mpp
    side = np.arange(2 * int(reach.max()) + 4)
    rows = np.maximum(y - reach, 0).astype(np.int64)[:, None] + side
    columns = np.maximum(x - reach, 0).astype(np.int64)[:, None] + side
    dy, dx = rows - y[:, None], columns - x[:, None]
    within = (dy * dy)[:, :, None] + (dx * dx)[:, None, :] <= (reach * reach)[:, None, None]
    within &= (rows < height)[:, :, None] & (columns < width)[:, None, :]
    values = od.red[np.minimum(rows, height - 1)[:, :, None], np.minimum(columns, width - 1)[:, None, :]]
    limit = np.where(within, values, 0).max(axis=(1, 2)) / np.float32(_NUCLEOLUS)
    # the median is below the limit if enough values are
    below = np.count_nonzero(within & (values < limit[:, None, None]), axis=(1, 2))
    middle = (np.count_nonzero(within, axis=(1, 2)) - 1) // 2
    return np.asarray((below > middle) & (limit > _LEAST_MEDIAN))


def far_from_nuclei(nuclei: Sequence[Nuclei], quarters: npt.NDArray[np.uint8], distance_um: float) -> Mask:
    """bool (B, h // 2, w // 2): farther than `distance_um` from any nucleus of at least `_INTACT_UM2` in its patch.

    `quarters` is how many pixels of each block of 2 × 2 lie on a nucleus, whatever its size.
    """
    near = np.stack([_near_intact(*patch) for patch in zip(nuclei, quarters)])
    return ~dilate_square(near, box_side(distance_um / math.sqrt(3.0) / (2 * nuclei[0].mpp)))


def _near_intact(nuclei: Nuclei, quarters: npt.NDArray[np.uint8]) -> Mask:
    """Blocks of 2 × 2 px that a nucleus of at least `_INTACT_UM2` covers, if only in part."""
    n = len(nuclei)
    if (nuclei.area_um2 >= _INTACT_UM2).all():
        return quarters > 0
    intact = np.zeros(max(256, n + 1), np.uint8)
    intact[1 : n + 1] = nuclei.area_um2 >= _INTACT_UM2
    if n < 256:
        near = cv2.LUT(nuclei.labels.astype(np.uint8), intact).reshape(nuclei.labels.shape)
    else:
        near = intact[nuclei.labels]
    return cover(near.view(np.bool_)) > 0
