"""The default captioner: measures patches with NumPy and OpenCV, one at a time, and puts the measurements into words.

It reports what the pixel size supports: nuclear counts up to 1.5 µm per pixel, shapes up to 1, fibrils up to 0.6;
shares of colours at any scale; colour and texture of the whole patch where pixels are too coarse for fibrils. For a
patch without bright field or without colour, it reports only that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches
from wsikit.captions.cells import far_from_nuclei, pale_facts, shape_facts
from wsikit.captions.color_texture import facts_of_blocks
from wsikit.captions.colours import (
    Colours,
    Light,
    adapt_stains,
    halved,
    is_uniform,
    part,
    share,
    sort_colours,
    sort_light,
)
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
_PIXELS_AT_ONCE = 1 << 16  # of the working scale, measured at once: they fit into the processor's cache;
_MORE_AT_ONCE = 1 << 18  # where colour and texture are measured, more calls are shared, and this is faster
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
    k = shrink_factor(images.shape[1:3], mpp, _FINE_MPP)
    pixels = _MORE_AT_ONCE if mpp > _FIBRIL_MPP else _PIXELS_AT_ONCE
    at_once = max(1, k * k * pixels // (images.shape[1] * images.shape[2]))
    facts: list[dict[str, float]] = []
    inks: list[Pixels] = []
    for first in range(0, len(images), at_once):
        facts += _measure_some(np.ascontiguousarray(images[first : first + at_once]), mpp, inks)
    inked = [one for one in facts if "pen_share" in one]
    for one, pen in zip(inked, pen_shares(np.concatenate(inks, axis=1)) if inks else [], strict=True):
        one["pen_share"] = pen
    return facts


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
    for index, (one, flat) in enumerate(zip(shown, uniform)):
        if flat or mpp > FACTS["nuclei"].coarsest_mpp:
            one |= _stains(part(colours, index)) | spaces[index]
        else:
            patch = _Patch(part(fine, index), part(coarse, index), part(colours, index), values[index])
            one |= spaces[index] | _facts_with_nuclei(patch, one, mpp)
    return facts


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


@dataclass(frozen=True, slots=True)
class _Patch:
    """One patch with stained tissue."""

    fine: Densities
    coarse: Densities
    colours: Colours
    values: Pixels
    """Grey values in green, uint8 (h, w), that the fine densities were made from."""


def _facts_with_nuclei(patch: _Patch, known: dict[str, float], mpp: float) -> dict[str, float]:
    """Stains, nuclei and matrix of a patch of which some facts are known."""
    fine, coarse = patch.fine, patch.coarse
    nuclei = find_nuclei(fine)
    on_nuclei = nuclei.labels > 0
    quarters = cover(on_nuclei)
    colours = adapt_stains(patch.colours, coarse, quarters > 2 if mpp <= _SHAPE_MPP else on_nuclei)
    facts = _stains(colours) | _nuclei(nuclei, on_nuclei, fine, known["tissue_share"])
    blur_um = known.get("blur_um", 0.0)
    if mpp <= _SHAPE_MPP and blur_um < _SHAPE_BLUR_UM:
        fibrils = mpp <= _FIBRIL_MPP and blur_um < _FIBRIL_BLUR_UM
        facts |= shape_facts(nuclei) | _matrix(fine, coarse, nuclei, quarters, colours, fibrils=fibrils)
        if fibrils:
            facts |= pale_facts(nuclei, fine, patch.values)
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


def _spaces(coarse: Densities, blank: Mask) -> list[dict[str, float]]:
    """Fat and lumens of each of B patches, where pixels show them."""
    if coarse.mpp > FACTS["fat_share"].coarsest_mpp:
        return [{} for _ in blank]
    lumens = coarse.mpp <= FACTS["lumen_share"].coarsest_mpp
    found = find_spaces(coarse, blank)
    return [{"fat_share": fat, "lumen_share": lumen} if lumens else {"fat_share": fat} for fat, lumen in found]


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
