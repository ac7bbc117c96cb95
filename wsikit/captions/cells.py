"""Facts of the nuclei of a patch: size, shape, stain, share of large pale nuclei, nucleoli.

A large pale nucleus with a nucleolus in pink cytoplasm is called ganglion-like; the diagnosis is the pathologist's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import Densities, Mask, box_mean, dilate, halve, halve_mask, quantile

MIN_NUCLEI = 8
"""With fewer complete nuclei, medians and shares of nuclei are not reported."""

_ELONGATED_ASPECT = 0.5
_DARK_QUANTILE = 0.8  # of the densities: the patch's typical dark nuclei
_LARGE_UM, _PALE = 8.0, 0.70  # diameter; density relative to the dark nuclei
_CELL_LARGE_UM, _CELL_PALE, _CELL_CYTOPLASM = 6.5, 0.80, 0.9
_NUCLEOLUS = 1.9  # maximum over median density within a nucleus
_NUCLEOLUS_WITHIN = 0.65  # of the radius: the membrane lies further out
_PALE_ASPECT = 0.6  # long pale nuclei are fibroblasts or tangentially cut endothelium
_CYTOPLASM_UM = 4.0
_INTACT_UM2 = 20.0  # diameter 5 µm: smaller dark bodies are pyknotic, or only touched by the section


def shape_facts(nuclei: Nuclei) -> dict[str, float]:
    """Medians and shares over the nuclei that lie completely in the patch; empty if fewer than `MIN_NUCLEI`.

    The diameter is the area-weighted median: half of the nuclear area belongs to nuclei of that diameter or more. Small
    fragments of nuclei with open chromatin, which are many, then have little weight.
    """
    whole = ~nuclei.cut
    if np.count_nonzero(whole) < MIN_NUCLEI:
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
    """Shares of large pale nuclei, and of pale nuclei with a nucleolus in pink cytoplasm (ganglion-like).

    Pale is relative to the patch's own dark nuclei: if all are equally pale, none is found.
    """
    whole = ~nuclei.cut
    if np.count_nonzero(whole) < MIN_NUCLEI:
        return {}
    paleness = nuclei.density / quantile(nuclei.density, _DARK_QUANTILE)
    rounded = whole & (nuclei.aspect > _PALE_ASPECT)
    large = rounded & (nuclei.diameter_um > _LARGE_UM) & (paleness < _PALE)
    cell = rounded & (nuclei.diameter_um > _CELL_LARGE_UM) & (paleness < _CELL_PALE)
    if cell.any():
        cell &= _cytoplasm(nuclei, od) > _CELL_CYTOPLASM
    n_cells = sum(_nucleolus(nuclei, int(index), od) > _NUCLEOLUS for index in np.flatnonzero(cell))
    n = np.count_nonzero(whole)
    return {
        "large_pale_nuclei_share": float(np.count_nonzero(large) / n),
        "ganglion_like_share": n_cells / n,
    }


def _cytoplasm(nuclei: Nuclei, od: Densities) -> npt.NDArray[np.float64]:
    """OD in green around each nucleus, over the median between the nuclei of the patch, (N,)."""
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
    return np.asarray(around[rows, columns] / usual)


def _nucleolus(nuclei: Nuclei, index: int, od: Densities) -> float:
    """Maximum over median OD in red in the inner part of a nucleus."""
    y, x = nuclei.y[index], nuclei.x[index]
    reach = _NUCLEOLUS_WITHIN * nuclei.diameter_um[index] / 2 / nuclei.mpp
    top, left = max(0, int(y - reach)), max(0, int(x - reach))
    inner = od.red[top : int(y + reach) + 2, left : int(x + reach) + 2]
    dy = np.arange(top, top + inner.shape[0])[:, None] - y
    dx = np.arange(left, left + inner.shape[1])[None, :] - x
    values = inner[dy * dy + dx * dx <= reach * reach]
    return float(values.max() / max(quantile(values, 0.5), 0.02)) if values.size else 0.0


def far_from_nuclei(nuclei: Nuclei, distance_um: float) -> Mask:
    """bool (h // 2, w // 2): farther than `distance_um` from any nucleus of at least `_INTACT_UM2`."""
    intact = np.concatenate([[False], nuclei.area_um2 >= _INTACT_UM2])
    near = halve_mask(intact[nuclei.labels], 0).astype(np.float32)
    return box_mean(near, distance_um / np.sqrt(3.0) / (2 * nuclei.mpp)) < 1e-4  # an empty square of that half-width
