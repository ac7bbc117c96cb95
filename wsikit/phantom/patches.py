"""Single labelled patches without a slide file, through JPEG as a slide would be: material to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import imagecodecs
import numpy as np

from wsikit.errors import RequestError
from wsikit.phantom.facts import CLASSES, Facts, captions, facts_of
from wsikit.phantom.fields import GLASS, KINDS
from wsikit.phantom.recipe import OTHER_TISSUES, SUBTYPES, draw_recipe
from wsikit.phantom.render import Rgb, Scene

SLIDE_UM = 5000.0
_SURVEY = 96
_JPEG_TILE = 16


@dataclass(frozen=True)
class PhantomPatch:
    """One patch with its truth."""

    image: Rgb
    """uint8 (patch_px, patch_px, 3), decoded from JPEG."""
    label: int
    """Index into `CLASSES`."""
    caption: str
    """Reference caption."""
    facts: Facts
    """N = 1."""
    seed: int
    """Of the slide: split training and test by it."""
    subtype: str
    """Of the slide."""
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
    """Labelled patches of synthetic slides, slide by slide.

    A seed is one slide; its subtype is `SUBTYPES[seed % 3]`, so that consecutive seeds are balanced. Half of a
    slide's patches are of its own class, the rest of the other classes that it holds.

    Parameters
    ----------
    seeds
        Slides. Use disjoint seeds for training and test.
    per_slide
        Patches per slide.
    mpp, patch_px
        Scale and side of a patch.
    quality
        JPEG quality (4:2:0), as in the slides of `make_phantom`.
    borderline
        Whether patches near a limit of the class rule may come.
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
    wanted = _wanted(rng, subtype, candidates, per_slide)
    area_mm2 = (patch_px * mpp / 1000) ** 2
    for group in wanted:
        for _ in range(40):
            place = candidates[group][int(rng.integers(len(candidates[group])))]
            x, y = (int((v + rng.uniform(-20, 20)) / mpp) - patch_px // 2 for v in place)
            facts = facts_of(scene, (x, y, patch_px, patch_px))
            label = int(facts.labels[0])
            if label == _label_of(group) and (borderline or not facts.borderline[0]):
                caption = captions(facts, area_mm2, scene.recipe.chromatin)[0]
                image = _through_jpeg(scene, x, y, patch_px, quality, rng)
                yield PhantomPatch(image, label, caption, facts, seed, subtype, x, y)
                break


def _label_of(group: str) -> int:
    return CLASSES.index(group) if group in CLASSES else CLASSES.index("other")


def _candidates(scene: Scene) -> dict[str, list[tuple[float, float]]]:
    """Places (µm) by what lies there and all around: UD, PD, D, each other tissue, glass."""
    step = SLIDE_UM / _SURVEY
    axis = (np.arange(_SURVEY) + 0.5) * step
    gx, gy = np.meshgrid(axis, axis)
    ground = scene.fields.at(gx, gy)
    kind = ground.kind
    tumour_kinds = [KINDS.index("tumour_cells"), KINDS.index("neuropil"), KINDS.index("matrix"), KINDS.index("septa")]
    group = np.full(kind.shape, "", object)
    for n, name in enumerate((*OTHER_TISSUES, "", "", "", "", "glass")):
        group[kind == n] = name
    stage = np.where(ground.differentiating > 0.5, "D", np.where(ground.fibrillary > 0.5, "PD", "UD"))
    group = np.where(np.isin(kind, tumour_kinds), stage, group)
    group = np.where(kind == GLASS, "glass", group)
    out: dict[str, list[tuple[float, float]]] = {}
    for row, column in np.ndindex(_SURVEY - 2, _SURVEY - 2):
        name = group[row + 1, column + 1]
        around = group[row : row + 3, column : column + 3]
        if name and (around == name).sum() >= 8:
            out.setdefault(str(name), []).append((axis[column + 1], axis[row + 1]))
    return out


def _wanted(rng: np.random.Generator, subtype: str, candidates: dict[str, list], n: int) -> list[str]:
    """The group of each patch: half the slide's own class, a quarter other classes, a quarter other tissue."""
    tumour = [name for name in SUBTYPES if name in candidates and name != subtype]
    other = [name for name in candidates if name not in SUBTYPES]
    out = []
    for _ in range(n):
        u = rng.random()
        pool = [subtype] if u < 0.5 and subtype in candidates else tumour if u < 0.75 and tumour else other
        pool = pool or list(candidates)
        out.append(pool[int(rng.integers(len(pool)))])
    return out


def _through_jpeg(scene: Scene, x: int, y: int, patch_px: int, quality: int, rng: np.random.Generator) -> Rgb:
    """Render a little more than the patch, encode, decode, and cut: the block borders fall where they may."""
    dx, dy = (int(v) for v in rng.integers(0, _JPEG_TILE, 2))
    side = -(-(patch_px + _JPEG_TILE) // _JPEG_TILE) * _JPEG_TILE
    rendered = scene.render((x - dx, y - dy, side, side))
    decoded = imagecodecs.jpeg_decode(imagecodecs.jpeg_encode(rendered, level=quality, subsampling="420"))
    return np.ascontiguousarray(decoded[dy : dy + patch_px, dx : dx + patch_px])
