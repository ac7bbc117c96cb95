"""Labelled synthetic patches without a slide file, JPEG-compressed as in a slide: training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.phantom.facts import CLASSES, TUMOUR_KINDS, Facts, captions, facts_of, survey
from wsikit.phantom.fields import KINDS
from wsikit.phantom.recipe import OTHER_TISSUES, SUBTYPES, draw_recipe
from wsikit.phantom.render import Rgb, Scene

SLIDE_UM = 5000.0
_SURVEY = 96
_Places = dict[str, npt.NDArray[np.floating]]
_JPEG_BLOCK = 16
_TRIES = 40


@dataclass(frozen=True)
class PhantomPatch:
    """One patch with its ground truth."""

    image: Rgb
    """uint8 (patch_px, patch_px, 3), decoded from JPEG."""
    label: int
    """Index into `CLASSES`."""
    caption: str
    """Reference caption."""
    facts: Facts
    """N = 1."""
    seed: int
    """Seed of the slide: split training and test by it."""
    subtype: str
    """Subtype of the slide."""
    x: int
    """Level-0 px of the slide."""
    y: int


def phantom_patches(
    seeds: Sequence[int],
    per_slide: int,
    *,
    mpp: float = 0.5,
    patch_px: int = 224,
    quality: int = 85,
    borderline: bool = False,
) -> Iterator[PhantomPatch]:
    """Make labelled patches of synthetic slides, slide by slide.

    A seed is one slide; its subtype is `SUBTYPES[seed % 3]`, so that consecutive seeds are balanced. Most of a
    slide's patches are of its own class, the rest of the other classes and tissues that it holds.

    Parameters
    ----------
    seeds
        Seeds of the slides. Use disjoint seeds for training and test.
    per_slide
        Patches per slide.
    mpp, patch_px
        Scale and side of a patch.
    quality
        JPEG quality (4:2:0), as in the slides of `make_phantom`.
    borderline
        Whether patches near a limit of the class rule are included.
    """
    if per_slide < 1 or patch_px < 16:
        raise RequestError(f"{per_slide} patches of {patch_px} px per slide: ask for at least 1 patch of 16 px")
    for seed in seeds:
        yield from _slide_patches(int(seed), per_slide, mpp, patch_px, quality, borderline)


def _slide_patches(
    seed: int, per_slide: int, mpp: float, patch_px: int, quality: int, borderline: bool
) -> Iterator[PhantomPatch]:
    subtype = SUBTYPES[seed % len(SUBTYPES)]
    scene = Scene(draw_recipe(seed, subtype, (SLIDE_UM, SLIDE_UM), tissue_fraction=0.8), mpp)
    rng = np.random.default_rng([seed, 4242])
    candidates = _candidates(scene)
    area_mm2 = (patch_px * mpp / 1000) ** 2
    side = -(-(patch_px + _JPEG_BLOCK) // _JPEG_BLOCK) * _JPEG_BLOCK
    for group in _wanted(rng, subtype, candidates, per_slide):
        for _ in range(_TRIES):
            place = candidates[group][int(rng.integers(len(candidates[group])))]
            left, top = (int((v + rng.uniform(-20, 20)) / mpp) - side // 2 for v in place)
            # the patch has any offset to the JPEG blocks, as a grid's patches have within a slide's tiles
            dx, dy = (int(v) for v in rng.integers(0, _JPEG_BLOCK, 2))
            plot = scene.plot((left, top, side, side))
            facts = facts_of(survey(scene, plot, (left + dx, top + dy, patch_px, patch_px), None))
            label = int(facts.labels[0])
            if label == _label_of(group) and (borderline or not facts.borderline[0]):
                caption = captions(facts, area_mm2, scene.recipe.chromatin)[0]
                image = through_jpeg(scene.render(plot.box, plot), quality)[dy : dy + patch_px, dx : dx + patch_px]
                yield PhantomPatch(
                    np.ascontiguousarray(image), label, caption, facts, seed, subtype, left + dx, top + dy
                )
                break


def _label_of(group: str) -> int:
    return CLASSES.index(group) if group in CLASSES else CLASSES.index("other")


def _candidates(scene: Scene) -> _Places:
    """Places (N, 2; x, y in µm) by the tissue there and around it: UD, PD, D, each other tissue, glass."""
    axis = (np.arange(_SURVEY) + 0.5) * (SLIDE_UM / _SURVEY)
    gx, gy = np.meshgrid(axis, axis)
    ground = scene.fields.at(gx, gy)
    kind = ground.kind
    stage = np.where(ground.differentiating > 0.5, 2, np.where(ground.fibrillary > 0.5, 1, 0))
    tumour = np.isin(kind, [KINDS.index(name) for name in (*TUMOUR_KINDS, "septa")])
    groups = {name: tumour & (stage == n) for n, name in enumerate(SUBTYPES)}
    groups |= {name: kind == KINDS.index(name) for name in (*OTHER_TISSUES, "glass")}
    out: _Places = {}
    for name, mask in groups.items():
        around = sum(mask[dy : _SURVEY - 2 + dy, dx : _SURVEY - 2 + dx].astype(int) for dy, dx in np.ndindex(3, 3))
        deep = np.argwhere((around >= 8) & mask[1:-1, 1:-1])
        if len(deep):
            out[name] = axis[deep[:, ::-1] + 1]
    return out


def _wanted(rng: np.random.Generator, subtype: str, candidates: _Places, n: int) -> list[str]:
    """The group of each patch: 60 % the slide's own class, 15 % the other classes it holds, else other tissue."""
    tumour = [name for name in SUBTYPES if name in candidates and name != subtype]
    other = [name for name in candidates if name not in SUBTYPES]
    out = []
    for _ in range(n):
        u = rng.random()
        pool = [subtype] if u < 0.6 and subtype in candidates else tumour if u < 0.75 and tumour else other
        pool = pool or list(candidates)
        out.append(pool[int(rng.integers(len(pool)))])
    return out


def through_jpeg(image: Rgb, quality: int) -> Rgb:
    """The image after JPEG compression (4:2:0) at `quality`, as the pixels of a slide are."""
    return imagecodecs.jpeg_decode(imagecodecs.jpeg_encode(image, level=quality, subsampling="420"))
