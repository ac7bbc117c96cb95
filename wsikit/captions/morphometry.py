"""The default captioner: measures patches with NumPy and OpenCV, one at a time, and puts the measurements into words.

It reports what the pixel size supports: nuclear counts up to 1.5 µm per pixel, shapes up to 1, fibrils up to 0.6;
shares of colours at any scale; colour and texture of the whole patch where pixels are too coarse for fibrils. For a
patch without bright field or without colour, it reports only that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches
from wsikit.captions.cells import far_from_nuclei, pale_facts, shape_facts
from wsikit.captions.color_texture import facts_of_blocks
from wsikit.captions.colours import Colours, Light, adapt_stains, halved, is_uniform, share, sort_colours, sort_light
from wsikit.captions.lexicon import BARE, DARK, phrase
from wsikit.captions.lumina import find_spaces
from wsikit.captions.nuclei import Nuclei, NucleusRule, find_nuclei
from wsikit.captions.pixels import (
    Densities,
    Mask,
    Pixels,
    box_count,
    cover,
    densities_of,
    dilate,
    shrink_factor,
)
from wsikit.captions.rosettes import count_rings
from wsikit.captions.texture import Gradient, is_fibrillary, matrix_of, runs_parallel
from wsikit.facts import FACTS
from wsikit.tissue.blocks import Blocks
from wsikit.tissue.quality import Reduced, blur_of, pen_shares

_VERSION = 2  # raise it when the same patch gets other facts or another text
_FINE_MPP = 0.5  # working scale for nuclei and fibrils; the patch's own, if that is coarser
_SHAPE_MPP = FACTS["nuclear_diameter_um"].coarsest_mpp  # up to here, colours and empty spaces are measured at half size
_FIBRIL_MPP = FACTS["fibrillary_share"].coarsest_mpp
_SHAPE_BLUR_UM, _FIBRIL_BLUR_UM = 2.5, 1.0  # defocus at which they are no longer visible
_MIN_TISSUE_MM2 = 1.2e-3  # on less tissue, a single nucleus would change the grade of the cellularity
_MIN_SIDE = 20.0  # µm, or px where pixels are coarser than 1 µm: smaller patches are not measured for ink and focus
_FOCUS_TISSUE = 0.1  # share of tissue above which the focus is measured

_SPINDLE_FAR = 0.28
_SHEET_UM, _SHEET = 8.0, 0.35  # where nuclei cover more, rows of cells resemble fibres
_EXTEND_UM = 2.0
_FAR_UM = 10.0  # in viable tissue there is a nucleus within this distance


class Morphometry:
    """Captioner that measures. It has no options: its constants were tuned and tested together.

    Examples
    --------
    >>> grey = np.full((1, 64, 64, 3), 90, np.uint8)
    >>> Morphometry().caption(grey, mpp=0.5)[0].text
    'No stain colour: grey abundant (100 %).'
    """

    name = "morphometry"
    parallel = True
    batch = 128
    fact_names: tuple[str, ...] = tuple(FACTS)

    def fingerprint(self) -> dict[str, Any]:
        """Name, version of the rules, and parameters of the nuclear segmentation."""
        return {"captioner": self.name, "version": _VERSION, "nuclei": asdict(NucleusRule())}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Measure patches and put the measurements into words.

        Parameters
        ----------
        images
            uint8 (B, H, W, 3), RGB.
        mpp
            µm per pixel.

        Returns
        -------
        list of B captions
            In the order of the patches; each depends on its own patch only.

        Raises
        ------
        RequestError
            The images are not uint8 (B, H, W, 3), or `mpp` is not a positive number.
        """
        check_patches(images, mpp)
        measured = _measure_all([np.ascontiguousarray(image) for image in images], float(mpp))
        return [self._stated(facts, float(mpp)) for facts in measured]

    def _stated(self, facts: dict[str, float], mpp: float) -> Caption:
        stated = {name: facts[name] for name in FACTS if name in facts}
        return Caption(phrase(stated, mpp), stated, self.name)


def measure(image: Pixels, mpp: float) -> dict[str, float]:
    """Facts of one patch, uint8 (H, W, 3) at `mpp` µm per pixel: name to value, as in `wsikit.facts.FACTS`.

    Examples
    --------
    >>> measure(np.full((64, 64, 3), 245, np.uint8), 0.5)["blank_share"]
    1.0
    """
    return _measure_all([image], mpp)[0]


def _measure_all(images: Sequence[Pixels], mpp: float) -> list[dict[str, float]]:
    """Facts of patches of one size, each by itself. Pen is measured last, in one call: its planes are tiny."""
    inks: list[Pixels] = []
    facts = [_measure(image, mpp, inks) for image in images]
    inked = [one for one in facts if "pen_share" in one]
    for one, pen in zip(inked, pen_shares(inks), strict=True):
        one["pen_share"] = pen
    return facts


def _measure(image: Pixels, mpp: float, inks: list[Pixels]) -> dict[str, float]:
    """Facts of one patch. If pen is to be measured, its colours are added to `inks`, and the fact gets its place."""
    blocks = Blocks(image)
    k = shrink_factor(image.shape[:2], mpp, _FINE_MPP)
    small = blocks.means(k)
    fine = densities_of(small, mpp * k)
    coarse = halved(fine) if mpp <= _SHAPE_MPP else fine
    light = sort_light(coarse)
    facts = _shares(light)
    if facts["black_share"] >= DARK or facts["blank_share"] >= BARE or _is_grey(facts):
        return facts
    uniform = is_uniform(fine.green, small[1])
    measure_focus = not uniform and facts["tissue_share"] > _FOCUS_TISSUE
    facts |= _pen_and_blur(blocks, mpp, inks, measure_focus=measure_focus)
    if mpp > _FIBRIL_MPP and not uniform:
        facts |= facts_of_blocks(blocks, mpp, (fine, light) if coarse is fine else None)
    colours = sort_colours(coarse, light)
    if uniform or mpp > FACTS["nuclei"].coarsest_mpp:
        return facts | _stains(colours) | _empty(coarse, light)
    nuclei = find_nuclei(fine)
    on_nuclei = nuclei.labels > 0
    quarters = cover(on_nuclei)
    colours = adapt_stains(colours, coarse, quarters > 2 if coarse is not fine else on_nuclei)
    facts |= _stains(colours) | _empty(coarse, light)
    facts |= _nuclei(nuclei, on_nuclei, fine, facts["tissue_share"])
    blur_um = facts.get("blur_um", 0.0)
    if mpp <= _SHAPE_MPP and blur_um < _SHAPE_BLUR_UM:
        fibrils = mpp <= _FIBRIL_MPP and blur_um < _FIBRIL_BLUR_UM
        facts |= shape_facts(nuclei) | _matrix(fine, coarse, nuclei, quarters, colours, fibrils=fibrils)
        if fibrils:
            facts |= pale_facts(nuclei, fine, small[1])
    return facts


def _shares(light: Light) -> dict[str, float]:
    blank, black = share(light.blank), share(light.black)
    return {
        "tissue_share": 1 - blank - black,
        "blank_share": blank,
        "black_share": black,
        "grey_share": share(light.grey),
    }


def _is_grey(facts: dict[str, float]) -> bool:
    """Whether most of the stained area has no colour."""
    return facts["grey_share"] > 0.8 * facts["tissue_share"]


def _pen_and_blur(blocks: Blocks, mpp: float, inks: list[Pixels], *, measure_focus: bool) -> dict[str, float]:
    """Pen marks, left for later, and, optionally, defocus, as in `wsikit.tissue`; empty if the patch is too small."""
    if min(blocks.planes.shape[1:]) * min(mpp, 1.0) < _MIN_SIDE:
        return {}
    reduced = Reduced(blocks, mpp)
    inks.append(reduced.ink_colours())
    facts = {"pen_share": 0.0}
    if measure_focus and mpp <= FACTS["blur_um"].coarsest_mpp:
        facts["blur_um"] = 4.0 * float(np.float32(blur_of(reduced)))  # in the precision of the patch table
    return facts


def _stains(colours: Colours) -> dict[str, float]:
    facts = {
        "brown_share": share(colours.brown),
        "haematoxylin_share": share(colours.haematoxylin),
        "eosin_share": share(colours.eosin),
    }
    if colours.mpp <= FACTS["blood_share"].coarsest_mpp:
        facts["blood_share"] = share(colours.red_cell)
    return facts


def _empty(coarse: Densities, light: Light) -> dict[str, float]:
    if coarse.mpp > FACTS["fat_share"].coarsest_mpp:
        return {}
    fat, lumen = find_spaces(coarse, light.blank)
    return {"fat_share": fat} | ({"lumen_share": lumen} if coarse.mpp <= FACTS["lumen_share"].coarsest_mpp else {})


def _nuclei(nuclei: Nuclei, on_nuclei: Mask, od: Densities, tissue_share: float) -> dict[str, float]:
    patch_mm2 = od.red.size * (od.mpp / 1000) ** 2
    facts = {"nuclei": nuclei.number, "nuclear_area_share": share(on_nuclei)}
    if tissue_share * patch_mm2 >= _MIN_TISSUE_MM2:
        facts["nuclei_per_mm2"] = nuclei.number / (tissue_share * patch_mm2)
    return facts


def _matrix(
    fine: Densities,
    coarse: Densities,
    nuclei: Nuclei,
    quarters: npt.NDArray[np.uint8],
    colours: Colours,
    *,
    fibrils: bool,
) -> dict[str, float]:
    """Spindle stroma, necrosis-like areas and, where pixels are fine enough, fibrils and rings. `quarters` is how many
    pixels of each block of 2 × 2 lie on a nucleus.
    """
    matrix = matrix_of(fine, quarters > 0)
    on_nuclei = quarters > 1
    count, window = box_count(on_nuclei, _SHEET_UM / matrix.mpp)
    parallel = runs_parallel(coarse.green, matrix, _SPINDLE_FAR)
    parallel &= count <= np.float32(_SHEET * window)
    not_parallel = matrix.matrix & ~parallel
    if matrix.stained is not None:
        parallel &= matrix.stained
    facts = {"spindle_share": share(parallel)}
    necrotic = not_parallel & ~colours.red_cell
    if necrotic.any():
        necrotic &= far_from_nuclei(nuclei, quarters, _FAR_UM)
    # what is measured last is measured only where it decides
    gradient = Gradient(fine.green)
    fibrillary = is_fibrillary(gradient, coarse.green, matrix, not_parallel if fibrils else necrotic)
    facts["necrosis_share"] = share(necrotic & ~fibrillary)
    if fibrils:
        # the texture was measured at some distance from the nuclei; extend it to the matrix between them
        near_fibrils = dilate(fibrillary, round(_EXTEND_UM / matrix.mpp))
        near_fibrils &= ~(on_nuclei | colours.red_cell)
        if matrix.stained is not None:
            near_fibrils &= matrix.stained
        facts["fibrillary_share"] = share(near_fibrils)
        facts["rosette_like"] = float(count_rings(nuclei, quarters, gradient, colours))
    return facts
