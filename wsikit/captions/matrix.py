"""The matrix between the nuclei of patches: spindle stroma, necrosis-like areas, fibrils and rosette-like rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from wsikit.captions.cells import far_from_nuclei
from wsikit.captions.colours import Colours, part, share
from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import Densities, Mask, Plane, box_count, box_mean, dilate
from wsikit.captions.rosettes import count_rings
from wsikit.captions.texture import Gradient, is_fibrillary, matrix_of, runs_parallel
from wsikit.facts import FACTS

_SPINDLE_FAR = 0.28
_SHEET_UM, _SHEET = 8.0, 0.35  # where nuclei cover more, rows of cells resemble fibres
_PINK = 0.56  # share of eosin between the nuclei; less is epithelium, mucus or keratin
_PINK_NEARBY, _PINK_UM = 0.7, 5.0  # in patches with less: the same of each place
_SPINDLE_ABSENT = FACTS["spindle_share"].grades[0][0]
_FEW_PER_MM2 = 1000.0  # nuclei; bone has up to 800, spindle stroma 1,900 and more
_SMOOTH, _SMOOTH_UM = 0.07, 2.0  # mean deviation over mean; bone has 0.036 to 0.066, fibres 0.11 to 0.3
_EXTEND_UM = 2.0
_FAR_UM = 10.0  # in viable tissue there is a nucleus within this distance


def matrix_facts(
    fine: Densities,
    coarse: Densities,
    nuclei: Sequence[Nuclei],
    quarters: npt.NDArray[np.uint8],
    colours: Colours,
    eosin: Mask,
    *,
    fibrils: bool,
) -> list[dict[str, float]]:
    """Shares of spindle stroma and of necrosis-like areas of B patches and, if asked for, those of fibrils, and rings.

    Parameters
    ----------
    fine, coarse
        Densities (B, h, w), and halved.
    nuclei
        Of each patch.
    quarters
        How many pixels of each block of 2 × 2 lie on a nucleus, uint8 (B, h // 2, w // 2).
    colours
        Of the halved densities.
    eosin
        More eosin than haematoxylin, by the stain of each patch, bool (B, h // 2, w // 2).
    fibrils
        Whether pixels are fine and sharp enough to show fibrils.
    """
    matrix = matrix_of(fine, quarters > 0)
    on_nuclei = quarters > 1
    count, window = box_count(on_nuclei, _SHEET_UM / matrix.mpp)
    parallel = runs_parallel(coarse.green, matrix, _SPINDLE_FAR)
    parallel &= count <= np.float32(_SHEET * window)
    not_parallel = matrix.matrix & ~parallel
    if matrix.stained is not None:
        parallel &= matrix.stained
    necrotic = not_parallel & ~colours.red_cell
    if necrotic.any():
        necrotic &= far_from_nuclei(nuclei, quarters, _FAR_UM)
    # what is measured last is measured only where it decides
    gradient = Gradient(fine.green)
    within = not_parallel if fibrils else necrotic
    fibrillary = is_fibrillary(gradient, coarse.green, matrix, within, sparse=not fibrils)
    necrotic &= ~fibrillary
    facts = [
        _spindle(*stroma) | {"necrosis_share": share(dead)}
        for *stroma, dead in zip(nuclei, parallel, on_nuclei, eosin, coarse.green, necrotic)
    ]
    if fibrils:
        # the texture was measured at some distance from the nuclei; extend it to the matrix between them
        near_fibrils = dilate(fibrillary, round(_EXTEND_UM / matrix.mpp))
        near_fibrils &= ~(on_nuclei | colours.red_cell)
        if matrix.stained is not None:
            near_fibrils &= matrix.stained
        for index, one in enumerate(facts):
            one["fibrillary_share"] = share(near_fibrils[index])
            its_colours = replace(part(colours, index), eosin=eosin[index])
            rings = count_rings(nuclei[index], quarters[index], gradient, its_colours, index)
            one["rosette_like"] = float(rings)
    return facts


def _spindle(nuclei: Nuclei, parallel: Mask, on_nuclei: Mask, eosin: Mask, green: Plane) -> dict[str, float]:
    """Share of spindle stroma of a patch, from its parallel fibres, bool (h, w).

    If most of them are not of eosin, only places that are count. Smooth lines without nuclei are none. Without the
    share if there are parallel fibres, but hardly any of eosin: in a bluish stain they may be stroma all the same.
    """
    absent = _SPINDLE_ABSENT
    stroma = share(parallel)
    if stroma < absent:
        return {"spindle_share": stroma}
    mpp = 2 * nuclei.mpp
    between = parallel > on_nuclei
    pink = between & eosin
    n_pink = np.count_nonzero(pink)
    if n_pink < _PINK * np.count_nonzero(between):
        if n_pink < 0.5 * absent * pink.size:
            return {}
        nearby = box_count(between, _PINK_UM / mpp)[0] * np.float32(_PINK_NEARBY)
        parallel = parallel & (box_count(pink, _PINK_UM / mpp)[0] >= nearby)
        stroma = share(parallel)
        if stroma < absent:
            return {}
    height, width = parallel.shape
    rows = np.minimum((nuclei.y / 2).astype(np.intp), height - 1)
    columns = np.minimum((nuclei.x / 2).astype(np.intp), width - 1)
    area_mm2 = stroma * parallel.size * (mpp / 1000) ** 2
    if np.count_nonzero(parallel[rows, columns]) < _FEW_PER_MM2 * area_mm2 and _is_smooth(green, parallel, mpp):
        stroma = 0.0
    return {"spindle_share": stroma}


def _is_smooth(green: Plane, within: Mask, mpp: float) -> bool:
    """Whether the density of a patch hardly differs from that nearby: lamellae of bone, not fibres."""
    apart = np.abs(green - box_mean(green, _SMOOTH_UM / mpp))
    return float(apart[within].sum()) < _SMOOTH * float(green[within].sum())
