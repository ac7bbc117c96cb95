"""The default captioner: measures one patch at a time with NumPy and SciPy, and says what it measured.

It says only what pixels of that size can carry: counts up to 1.5 µm per pixel, shapes up to 1, fibrils up to 0.6, and
at coarser scales shares of colours; where fibrils are out of reach, also the tone of the whole. Where there is no
bright field or no colour, it says so and no more.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches
from wsikit.captions.cells import far_from_nuclei, pale_facts, shape_facts
from wsikit.captions.color_texture import color_texture_facts
from wsikit.captions.colours import Colours, adapt_stains, halved, is_even, share, sort_colours
from wsikit.captions.lexicon import BARE, DARK, phrase
from wsikit.captions.lumina import find_spaces
from wsikit.captions.nuclei import Nuclei, NucleusRule, find_nuclei
from wsikit.captions.pixels import Densities, Pixels, box_mean, densities, dilate, halve_mask, shrink
from wsikit.captions.rosettes import count_rings
from wsikit.captions.texture import texture_of
from wsikit.facts import FACTS

_VERSION = 2  # raise it when the same patch gets other facts or words
_FINE_MPP = 0.5  # nuclei and fibrils are looked at here, or at the patch's own scale where that is coarser
_SHAPE_MPP = FACTS["nuclear_diameter_um"].coarsest_mpp  # up to here colours and spaces are looked at twofold shrunk
_FIBRIL_MPP = FACTS["fibrillary_share"].coarsest_mpp
_SHAPE_BLUR_UM, _FIBRIL_BLUR_UM = 2.5, 1.0  # a patch as blurred as that no longer shows them
_LEAST_TISSUE_MM2 = 1.2e-3  # on less tissue, one nucleus more or less would turn sparse into dense
_LEAST_SIDE = 20.0  # µm, and px where those are coarser than 1 µm: on less neither ink nor focus can be judged
_FOCUS_TISSUE = 0.1  # share of tissue from which on there is something to be in focus

_FIBRIL_NEAR, _FIBRIL_GRAIN = 0.45, 0.11
_SPINDLE_FAR = 0.28
_SHEET_UM, _SHEET = 8.0, 0.35  # where nuclei cover more than that, palisades of cells look like fibres
_SMOOTH_NEAR_UM = 4.0
_BACK_UM = 2.0
_FAR_UM = 10.0  # where the next nucleus would long have come in living tissue


class Morphometry:
    """Captioner that measures. It has no options: its numbers are tuned and tested as they stand."""

    name = "morphometry"
    parallel = True
    batch = 128
    fact_names: tuple[str, ...] = tuple(FACTS)

    def fingerprint(self) -> dict[str, Any]:
        """Name, version of the rules, and the nuclear rule."""
        return {"captioner": self.name, "version": _VERSION, "nuclei": asdict(NucleusRule())}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Measure and describe patches.

        Parameters
        ----------
        images
            uint8 (B, H, W, 3), RGB.
        mpp
            µm per pixel.

        Returns
        -------
        list of B captions
            Each depends on its own patch alone.

        Raises
        ------
        RequestError
            If the images are not uint8 (B, H, W, 3) or `mpp` is not a positive number.
        """
        check_patches(images, mpp)
        return [self._one(np.ascontiguousarray(image), float(mpp)) for image in images]

    def _one(self, image: Pixels, mpp: float) -> Caption:
        facts = measure(image, mpp)
        stated = {name: facts[name] for name in FACTS if name in facts}
        return Caption(phrase(stated, mpp), stated, self.name)


def measure(image: Pixels, mpp: float) -> dict[str, float]:
    """Facts of one patch, uint8 (H, W, 3) at `mpp` µm per pixel: name to value, as in `lexicon.FACTS`."""
    fine_image, fine_mpp = shrink(image, mpp, finest_mpp=_FINE_MPP)
    fine = densities(fine_image, fine_mpp)
    coarse = halved(fine) if mpp <= _SHAPE_MPP else fine
    colours = sort_colours(coarse)
    facts = _whole(colours)
    if facts["black_share"] >= DARK or facts["blank_share"] >= BARE or _is_grey(facts):
        return facts
    even = is_even(fine.green)
    facts |= _quality(image, mpp, judge_focus=not even and facts["tissue_share"] > _FOCUS_TISSUE)
    if mpp > _FIBRIL_MPP and not even:
        facts |= color_texture_facts(image, mpp)
    if even or mpp > FACTS["nuclei"].coarsest_mpp:
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


def _whole(colours: Colours) -> dict[str, float]:
    blank, black = share(colours.blank), share(colours.black)
    return {
        "tissue_share": 1 - blank - black,
        "blank_share": blank,
        "black_share": black,
        "grey_share": share(colours.grey),
    }


def _is_grey(facts: dict[str, float]) -> bool:
    """Whether what is stained has, on the whole, no colour."""
    return facts["grey_share"] > 0.8 * facts["tissue_share"]


def _quality(image: Pixels, mpp: float, *, judge_focus: bool) -> dict[str, float]:
    """Pen and, if asked, defocus, by the measures of `wsikit.tissue`; nothing on a patch too small for them."""
    from wsikit.tissue.quality import patch_quality

    if min(image.shape[:2]) * min(mpp, 1.0) < _LEAST_SIDE:
        return {}
    quality = patch_quality(image[None], mpp=mpp)
    facts = {"pen_share": float(quality["pen"][0])}
    if judge_focus and mpp <= FACTS["blur_um"].coarsest_mpp:
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
    if tissue_share * patch_mm2 >= _LEAST_TISSUE_MM2:
        facts["nuclei_per_mm2"] = nuclei.number / (tissue_share * patch_mm2)
    return facts


def _matrix(fine: Densities, nuclei: Nuclei, colours: Colours, *, fibrils: bool) -> dict[str, float]:
    """Spindle stroma, necrosis-like areas and, where pixels are fine enough, fibrils and rings."""
    blank = fine.red + fine.green + fine.blue < 0.2
    texture = texture_of(fine, nuclei.labels > 0, blank)
    near = box_mean(texture.near, _SMOOTH_NEAR_UM / texture.mpp)
    on_nuclei = halve_mask(nuclei.labels > 0, 0.25)
    sheet = box_mean(on_nuclei.astype(np.float32), _SHEET_UM / texture.mpp) > _SHEET
    runs_together = (texture.far > _SPINDLE_FAR) & ~sheet
    quiet = texture.matrix & ~runs_together
    tangled = quiet & (near > _FIBRIL_NEAR) & (texture.grain > _FIBRIL_GRAIN)
    dead = quiet & ~tangled & far_from_nuclei(nuclei, _FAR_UM) & ~colours.red_cell
    facts = {"spindle_share": share(texture.stained & runs_together), "necrosis_share": share(dead)}
    if fibrils:
        # the matrix was looked at only some way off the nuclei; what lies between is of the same kind
        tangled = dilate(tangled, round(_BACK_UM / texture.mpp)) & texture.stained & ~on_nuclei & ~colours.red_cell
        facts["fibrillary_share"] = share(tangled)
        facts["rosette_like"] = float(count_rings(nuclei, texture, colours))
    return facts
