"""The matrix between the nuclei of patches: spindle stroma, necrosis-like areas, fibrils and rosette-like rings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.captions.cells import far_from_nuclei
from wsikit.captions.colours import Colours, part, share
from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import Densities, box_count, dilate
from wsikit.captions.rosettes import count_rings
from wsikit.captions.texture import Gradient, is_fibrillary, matrix_of, runs_parallel

_SPINDLE_FAR = 0.28
_SHEET_UM, _SHEET = 8.0, 0.35  # where nuclei cover more, rows of cells resemble fibres
_EXTEND_UM = 2.0
_FAR_UM = 10.0  # in viable tissue there is a nucleus within this distance


def matrix_facts(
    fine: Densities,
    coarse: Densities,
    nuclei: Sequence[Nuclei],
    quarters: npt.NDArray[np.uint8],
    colours: Colours,
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
        {"spindle_share": share(spindle), "necrosis_share": share(dead)} for spindle, dead in zip(parallel, necrotic)
    ]
    if fibrils:
        # the texture was measured at some distance from the nuclei; extend it to the matrix between them
        near_fibrils = dilate(fibrillary, round(_EXTEND_UM / matrix.mpp))
        near_fibrils &= ~(on_nuclei | colours.red_cell)
        if matrix.stained is not None:
            near_fibrils &= matrix.stained
        for index, one in enumerate(facts):
            one["fibrillary_share"] = share(near_fibrils[index])
            rings = count_rings(nuclei[index], quarters[index], gradient, part(colours, index), index)
            one["rosette_like"] = float(rings)
    return facts
