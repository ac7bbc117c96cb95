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
from wsikit.captions.cells import pale_facts, shape_facts
from wsikit.captions.color_texture import facts_of_blocks
from wsikit.captions.colours import (
    Colours,
    adapt_stains,
    halved,
    is_uniform,
    part,
    share,
    sort_colours,
    sort_light,
)
from wsikit.captions.evidence import are_nuclei, leave_out_unsure
from wsikit.captions.lexicon import BARE, DARK, phrase
from wsikit.captions.lumina import find_spaces
from wsikit.captions.marking import ink_granules, without_ink
from wsikit.captions.matrix import matrix_facts
from wsikit.captions.nuclei import Nuclei, NucleusRule, find_nuclei
from wsikit.captions.pixels import (
    Densities,
    Mask,
    Pixels,
    cover,
    densities_of,
    shrink_factor,
)
from wsikit.facts import FACTS
from wsikit.tissue.blocks import Blocks
from wsikit.tissue.quality import Reduced, blur_of, pen_shares

_VERSION = 3  # raise it when the same patch gets other facts or another text
_PIXELS_AT_ONCE = 1 << 16  # of the working scale, measured at once: they fit into the processor's cache;
_MORE_AT_ONCE = 1 << 18  # but where more of the calls are shared, for colour and texture, more patches are faster
_SMALL, _SMALL_AT_ONCE = 1 << 14, 1 << 17  # and for small patches, of which calls cost most
_FINE_MPP = 0.5  # working scale for nuclei and fibrils; the patch's own, if that is coarser
_SHAPE_MPP = FACTS["nuclear_diameter_um"].coarsest_mpp  # up to here, colours and empty spaces are measured at half size
_FIBRIL_MPP = FACTS["fibrillary_share"].coarsest_mpp
_SHAPE_BLUR_UM, _FIBRIL_BLUR_UM = 2.5, 1.0  # defocus at which they are no longer visible
_MIN_TISSUE_MM2 = 1.2e-3  # on less tissue, a single nucleus would change the grade of the cellularity
_MIN_SIDE = 20.0  # µm, or px where pixels are coarser than 1 µm: smaller patches are not measured for ink and focus
_FOCUS_TISSUE = 0.1  # share of tissue above which the focus is measured


class Morphometry:
    """Captioner that measures. It has no options: its constants were tuned and tested together.

    Examples
    --------
    >>> grey = np.full((1, 64, 64, 3), 90, np.uint8)
    >>> Morphometry().caption(grey, mpp=0.5)[0].text
    'No stain colour: grey abundant (100 %).'
    """

    name = "morphometry"
    parallel = mostly_python = True
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
        measured = _measure_all(images, float(mpp))
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
    return _measure_all(image[None], mpp)[0]


def _measure_all(images: Pixels, mpp: float) -> list[dict[str, float]]:
    """Facts of patches, uint8 (B, H, W, 3), each by itself. Pen is measured last, in one call: its planes are tiny."""
    patch_px = images.shape[1] * images.shape[2] // shrink_factor(images.shape[1:3], mpp, _FINE_MPP) ** 2
    at_once = max(1, _pixels_at_once(patch_px, mpp) // max(1, patch_px))
    facts: list[dict[str, float]] = []
    inks: list[Pixels] = []
    for first in range(0, len(images), at_once):
        facts += _measure_some(np.ascontiguousarray(images[first : first + at_once]), mpp, inks)
    inked = [one for one in facts if "pen_share" in one]
    for one, pen in zip(inked, pen_shares(np.concatenate(inks, axis=1), mpp) if inks else [], strict=True):
        one["pen_share"] = max(pen, one["pen_share"])  # of a film, and of granules
    return facts


def _pixels_at_once(patch_px: int, mpp: float) -> int:
    if mpp > _FIBRIL_MPP:
        return _MORE_AT_ONCE
    return _SMALL_AT_ONCE if patch_px <= _SMALL else _PIXELS_AT_ONCE


def _measure_some(images: Pixels, mpp: float, inks: list[Pixels]) -> list[dict[str, float]]:
    """Facts of a few patches, each by itself. Where it can, a call of a filter serves them all: calls have their price.

    If pen is to be measured, the patches' colours are added to `inks`, and the fact gets its place.
    """
    blocks = Blocks(images)
    k = shrink_factor(images.shape[1:3], mpp, _FINE_MPP)
    red, green, blue = densities_of(blocks.means(k))
    fine = Densities(red, green, blue, mpp * k)
    coarse = halved(fine) if mpp <= _SHAPE_MPP else fine
    light = sort_light(coarse)
    facts = [_shares(*masks) for masks in zip(light.blank, light.black, light.grey)]
    chosen = [index for index, one in enumerate(facts) if _is_stained(one)]
    if not chosen:
        return facts
    if len(chosen) < len(images):
        blocks, light = blocks.of(chosen), part(light, chosen)
        fine, coarse = part(fine, chosen), part(coarse, chosen) if coarse is not fine else part(fine, chosen)
    values = blocks.means(k)[1]
    uniform = [is_uniform(*pair) for pair in zip(fine.green, values)]
    shown = [facts[index] for index in chosen]
    _add_pen_and_blur(shown, blocks, mpp, uniform, inks)
    if mpp > _FIBRIL_MPP and not all(uniform):
        tones = facts_of_blocks(blocks, mpp, (fine, light) if mpp > _SHAPE_MPP else None)
        for one, tone, flat in zip(shown, tones, uniform):
            one |= {} if flat else tone
    colours = sort_colours(coarse, light)
    spaces = _spaces(coarse, light.blank)
    granules = [0.0] * len(shown)
    if mpp <= _SHAPE_MPP:
        granules = [
            ink_granules(part(coarse, index), one) if one.any() else 0.0 for index, one in enumerate(colours.ink)
        ]
        for one, granular in zip(shown, granules):
            if granular and "pen_share" in one:
                one["pen_share"] = granular
    found: dict[int, Nuclei] = {}
    covers: dict[int, npt.NDArray[np.uint8]] = {}
    eosin = colours.eosin.copy()
    for index, (one, flat) in enumerate(zip(shown, uniform)):
        its_colours = part(colours, index)
        if not flat and mpp <= FACTS["nuclei"].coarsest_mpp:
            nuclei = find_nuclei(part(fine, index))
            if granules[index]:
                nuclei = without_ink(nuclei, part(fine, index))
            found[index] = nuclei
            on_nuclei = nuclei.labels > 0
            covers[index] = quarters = cover(on_nuclei)
            if are_nuclei(nuclei):
                one |= _nuclei(nuclei, on_nuclei, one["tissue_share"])
            mask = quarters > 2 if mpp <= _SHAPE_MPP else on_nuclei
            its_colours = adapt_stains(its_colours, part(coarse, index), mask)
            eosin[index] = its_colours.eosin
        one |= _stains(its_colours) | spaces[index]
    if mpp > _SHAPE_MPP:
        return facts
    at_once = max(1, (_SMALL_AT_ONCE if values[0].size <= _SMALL else _PIXELS_AT_ONCE) // values[0].size)
    for fibrils in (False, True):
        sharp = [index for index in found if _visible(shown[index].get("blur_um", 0.0), mpp) == (True, fibrils)]
        for first in range(0, len(sharp), at_once):
            some = sharp[first : first + at_once]
            rows = slice(some[0], some[-1] + 1) if some[-1] - some[0] < len(some) else some  # a slice copies nothing
            measured = matrix_facts(
                part(fine, rows),
                part(coarse, rows),
                [found[index] for index in some],
                np.stack([covers[index] for index in some]),
                part(colours, rows),
                eosin[rows],
                fibrils=fibrils,
            )
            for index, its in zip(some, measured):
                if "nuclei" in shown[index]:
                    shown[index] |= shape_facts(found[index])
                    if fibrils:
                        shown[index] |= pale_facts(found[index], part(fine, index), values[index])
                else:
                    its.pop("rosette_like", None)
                shown[index] |= its
                leave_out_unsure(shown[index])
    return facts


def _visible(blur_um: float, mpp: float) -> tuple[bool, bool]:
    """Whether shapes of nuclei, and whether fibrils can be seen."""
    return blur_um < _SHAPE_BLUR_UM, mpp <= _FIBRIL_MPP and blur_um < _FIBRIL_BLUR_UM


def _shares(blank_mask: Mask, black_mask: Mask, grey_mask: Mask) -> dict[str, float]:
    blank, black = share(blank_mask), share(black_mask)
    return {
        "tissue_share": 1 - blank - black,
        "blank_share": blank,
        "black_share": black,
        "grey_share": share(grey_mask),
    }


def _is_stained(facts: dict[str, float]) -> bool:
    """Whether more than the shares of light is measured: not if the patch is dark, bare, or mostly without colour."""
    return (
        facts["black_share"] < DARK
        and facts["blank_share"] < BARE
        and facts["grey_share"] <= 0.8 * facts["tissue_share"]
    )


def _add_pen_and_blur(
    facts: Sequence[dict[str, float]], blocks: Blocks, mpp: float, uniform: Sequence[bool], inks: list[Pixels]
) -> None:
    """Add pen marks, left for later, and, where there is enough to see, defocus, as in `wsikit.tissue`. Nothing if the
    patches are too small.
    """
    if min(blocks.planes.shape[2:]) * min(mpp, 1.0) < _MIN_SIDE:
        return
    reduced = Reduced(blocks, mpp)
    inks.append(reduced.ink_colours())
    for index, (one, flat) in enumerate(zip(facts, uniform)):
        one["pen_share"] = 0.0
        if not flat and one["tissue_share"] > _FOCUS_TISSUE and mpp <= FACTS["blur_um"].coarsest_mpp:
            one["blur_um"] = 4.0 * float(np.float32(blur_of(reduced, index)))  # in the precision of the patch table


def _stains(colours: Colours) -> dict[str, float]:
    facts = {
        "brown_share": share(colours.brown),
        "haematoxylin_share": share(colours.haematoxylin),
        "eosin_share": share(colours.eosin),
    }
    if colours.mpp <= FACTS["blood_share"].coarsest_mpp:
        facts["blood_share"] = share(colours.red_cell)
    return facts


def _spaces(coarse: Densities, blank: Mask) -> list[dict[str, float]]:
    """Fat and lumens of each of B patches, where pixels show them."""
    if coarse.mpp > FACTS["fat_share"].coarsest_mpp:
        return [{} for _ in blank]
    lumens = coarse.mpp <= FACTS["lumen_share"].coarsest_mpp
    found = find_spaces(coarse, blank)
    return [{"fat_share": fat, "lumen_share": lumen} if lumens else {"fat_share": fat} for fat, lumen in found]


def _nuclei(nuclei: Nuclei, on_nuclei: Mask, tissue_share: float) -> dict[str, float]:
    patch_mm2 = on_nuclei.size * (nuclei.mpp / 1000) ** 2
    facts = {"nuclei": nuclei.number, "nuclear_area_share": share(on_nuclei)}
    if tissue_share * patch_mm2 >= _MIN_TISSUE_MM2:
        facts["nuclei_per_mm2"] = nuclei.number / (tissue_share * patch_mm2)
    return facts
