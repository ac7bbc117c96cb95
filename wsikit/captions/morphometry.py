"""The default captioner: measures patches with NumPy and SciPy, one at a time, and puts the measurements into words.

It reports what the pixel size supports: nuclear counts up to 1.5 µm per pixel, shapes up to 1, fibrils up to 0.6;
shares of colours at any scale; colour and texture of the whole patch where pixels are too coarse for fibrils. For a
patch without bright field or without colour, it reports only that.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches
from wsikit.captions.cells import far_from_nuclei, pale_facts, shape_facts
from wsikit.captions.color_texture import color_texture_facts
from wsikit.captions.colours import Colours, adapt_stains, halved, is_uniform, share, sort_colours
from wsikit.captions.lexicon import BARE, DARK, phrase
from wsikit.captions.lumina import find_spaces
from wsikit.captions.nuclei import Nuclei, NucleusRule, find_nuclei
from wsikit.captions.pixels import Densities, Pixels, box_mean, densities, dilate, halve_mask, shrink
from wsikit.captions.rosettes import count_rings
from wsikit.captions.texture import texture_of
from wsikit.facts import FACTS

_VERSION = 2  # raise it when the same patch gets other facts or another text
_FINE_MPP = 0.5  # working scale for nuclei and fibrils; the patch's own, if that is coarser
_SHAPE_MPP = FACTS["nuclear_diameter_um"].coarsest_mpp  # up to here, colours and empty spaces are measured at half size
_FIBRIL_MPP = FACTS["fibrillary_share"].coarsest_mpp
_SHAPE_BLUR_UM, _FIBRIL_BLUR_UM = 2.5, 1.0  # defocus at which they are no longer visible
_MIN_TISSUE_MM2 = 1.2e-3  # on less tissue, a single nucleus would change the grade of the cellularity
_MIN_SIDE = 20.0  # µm, or px where pixels are coarser than 1 µm: smaller patches are not measured for ink and focus
_FOCUS_TISSUE = 0.1  # share of tissue above which the focus is measured

_FIBRIL_NEAR, _FIBRIL_ROUGHNESS = 0.45, 0.11
_SPINDLE_FAR = 0.28
_SHEET_UM, _SHEET = 8.0, 0.35  # where nuclei cover more, rows of cells resemble fibres
_SMOOTH_NEAR_UM = 4.0
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
        return [self._one(np.ascontiguousarray(image), float(mpp)) for image in images]

    def _one(self, image: Pixels, mpp: float) -> Caption:
        facts = measure(image, mpp)
        stated = {name: facts[name] for name in FACTS if name in facts}
        return Caption(phrase(stated, mpp), stated, self.name)


def measure(image: Pixels, mpp: float) -> dict[str, float]:
    """Facts of one patch, uint8 (H, W, 3) at `mpp` µm per pixel: name to value, as in `wsikit.facts.FACTS`.

    Examples
    --------
    >>> measure(np.full((64, 64, 3), 245, np.uint8), 0.5)["blank_share"]
    1.0
    """
    fine_image, fine_mpp = shrink(image, mpp, finest_mpp=_FINE_MPP)
    fine = densities(fine_image, fine_mpp)
    coarse = halved(fine) if mpp <= _SHAPE_MPP else fine
    colours = sort_colours(coarse)
    facts = _shares(colours)
    if facts["black_share"] >= DARK or facts["blank_share"] >= BARE or _is_grey(facts):
        return facts
    uniform = is_uniform(fine.green)
    facts |= _pen_and_blur(image, mpp, measure_focus=not uniform and facts["tissue_share"] > _FOCUS_TISSUE)
    if mpp > _FIBRIL_MPP and not uniform:
        facts |= color_texture_facts(image, mpp)
    if uniform or mpp > FACTS["nuclei"].coarsest_mpp:
        return facts | _stains(colours) | _empty(coarse, colours)
    nuclei = find_nuclei(fine)
    on_nuclei = nuclei.labels > 0
    colours = adapt_stains(colours, coarse, halve_mask(on_nuclei, 0.5) if coarse is not fine else on_nuclei)
    facts |= _stains(colours) | _empty(coarse, colours)
    facts |= _nuclei(nuclei, fine, facts["tissue_share"])
    blur_um = facts.get("blur_um", 0.0)
    if mpp <= _SHAPE_MPP and blur_um < _SHAPE_BLUR_UM:
        fibrils = mpp <= _FIBRIL_MPP and blur_um < _FIBRIL_BLUR_UM
        facts |= shape_facts(nuclei) | _matrix(fine, nuclei, colours, fibrils=fibrils)
        if fibrils:
            facts |= pale_facts(nuclei, fine)
    return facts


def _shares(colours: Colours) -> dict[str, float]:
    blank, black = share(colours.blank), share(colours.black)
    return {
        "tissue_share": 1 - blank - black,
        "blank_share": blank,
        "black_share": black,
        "grey_share": share(colours.grey),
    }


def _is_grey(facts: dict[str, float]) -> bool:
    """Whether most of the stained area has no colour."""
    return facts["grey_share"] > 0.8 * facts["tissue_share"]


def _pen_and_blur(image: Pixels, mpp: float, *, measure_focus: bool) -> dict[str, float]:
    """Pen marks and, optionally, defocus, as in `wsikit.tissue`; empty for a patch that is too small."""
    from wsikit.tissue.quality import patch_quality

    if min(image.shape[:2]) * min(mpp, 1.0) < _MIN_SIDE:
        return {}
    quality = patch_quality(image[None], mpp=mpp)
    facts = {"pen_share": float(quality["pen"][0])}
    if measure_focus and mpp <= FACTS["blur_um"].coarsest_mpp:
        facts["blur_um"] = 4.0 * float(quality["blur"][0])
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


def _empty(coarse: Densities, colours: Colours) -> dict[str, float]:
    if coarse.mpp > FACTS["fat_share"].coarsest_mpp:
        return {}
    spaces = find_spaces(coarse, colours)
    found = {"fat_share": share(spaces.fat)}
    if coarse.mpp <= FACTS["lumen_share"].coarsest_mpp:
        found["lumen_share"] = share(spaces.lumen)
    return found


def _nuclei(nuclei: Nuclei, od: Densities, tissue_share: float) -> dict[str, float]:
    patch_mm2 = od.red.size * (od.mpp / 1000) ** 2
    facts = {"nuclei": nuclei.number, "nuclear_area_share": share(nuclei.labels > 0)}
    if tissue_share * patch_mm2 >= _MIN_TISSUE_MM2:
        facts["nuclei_per_mm2"] = nuclei.number / (tissue_share * patch_mm2)
    return facts


def _matrix(fine: Densities, nuclei: Nuclei, colours: Colours, *, fibrils: bool) -> dict[str, float]:
    """Spindle stroma, necrosis-like areas and, where pixels are fine enough, fibrils and rings."""
    blank = fine.red + fine.green + fine.blue < 0.2
    texture = texture_of(fine, nuclei.labels > 0, blank)
    near = box_mean(texture.near, _SMOOTH_NEAR_UM / texture.mpp)
    on_nuclei = halve_mask(nuclei.labels > 0, 0.25)
    sheet = box_mean(on_nuclei.astype(np.float32), _SHEET_UM / texture.mpp) > _SHEET
    parallel = (texture.far > _SPINDLE_FAR) & ~sheet
    not_parallel = texture.matrix & ~parallel
    fibrillary = not_parallel & (near > _FIBRIL_NEAR) & (texture.roughness > _FIBRIL_ROUGHNESS)
    necrotic = not_parallel & ~fibrillary & far_from_nuclei(nuclei, _FAR_UM) & ~colours.red_cell
    facts = {"spindle_share": share(texture.stained & parallel), "necrosis_share": share(necrotic)}
    if fibrils:
        # the texture was measured at some distance from the nuclei; extend it to the matrix between them
        near_fibrils = dilate(fibrillary, round(_EXTEND_UM / texture.mpp))
        fibrillary = near_fibrils & texture.stained & ~on_nuclei & ~colours.red_cell
        facts["fibrillary_share"] = share(fibrillary)
        facts["rosette_like"] = float(count_rings(nuclei, texture, colours))
    return facts
