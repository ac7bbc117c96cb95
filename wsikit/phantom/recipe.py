"""Parameters of one synthetic slide: every number that varies between slides, drawn once from the seed.

Lengths in µm, shares as fractions of the stated area. Staining and cellularity are independent of the subtype, so
colour and density do not reveal it; only the defining features differ between subtypes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsikit.errors import RequestError

SUBTYPES = ("UD", "PD", "D")
"""Undifferentiated, poorly differentiated, differentiating (INPC categories of stroma-poor neuroblastoma)."""
GNB_I = "GNB-I"
"""Ganglioneuroblastoma, intermixed: more than half Schwannian stroma, with microscopic nests of neuroblasts."""
SLIDE_SUBTYPES = (*SUBTYPES, GNB_I)
"""The subtypes of whole slides. A patch of a GNB-I slide is a patch of stroma (`other`), UD, PD or D."""
_GNB_SEEDS = 1 << 40
"""First scene key of GNB-I; those of the other subtypes are counted from 0."""

OTHER_TISSUES = ("stroma", "necrosis", "blood", "fat", "lymphoid")


@dataclass(frozen=True)
class Stain:
    """From stain amounts to colour: Beer-Lambert with this slide's absorption, then the scanner."""

    absorption: tuple[tuple[float, float, float], ...]
    """Optical density in R, G, B of one unit of haematoxylin, eosin and red-cell pigment: 3 × 3."""
    background: tuple[float, float, float]
    """Colour of bare glass, 0-255."""
    gamma: float
    noise: float
    """Standard deviation of the sensor's noise, grey values."""


@dataclass(frozen=True)
class Band:
    """A stroke across the slide: pen or fold. A wavy line through (x, y) at `angle`."""

    x: float
    y: float
    angle: float
    half_width: float
    half_length: float
    wave: float
    period: float


@dataclass(frozen=True)
class Disc:
    """A round out-of-focus area."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Recipe:
    """All parameters that vary between slides."""

    seed: int
    """Key of the scene, from the slide's seed and its subtype."""
    subtype: str
    size_um: tuple[float, float]
    tissue_fraction: float
    shares: tuple[float, ...]
    """Of `OTHER_TISSUES`, fractions of the tissue; the rest is tumour."""
    ud_share: float
    """Fraction of the tumour without neuropil."""
    d_share: float
    """Fraction of the tumour with differentiating neuroblasts."""
    region_um: float
    pool_um: float
    """Size of the pools of matrix (neuropil, or structureless oedema) between the sheets of cells."""
    pool_share: float
    """Mean fraction of the tumour that is matrix: same distribution for every subtype."""
    spacing_um: float
    """Lattice constant of the neuroblasts."""
    nucleus_scale: float
    chromatin: float
    """0 pale and even, 1 dark and coarse."""
    diff_keep: float
    ganglion_share: float
    histiocytes: float
    """Fraction of the large cells' sites occupied by histiocytes where they form groups."""
    large_eosin: float
    """How pink the large cells are, 0 pale to 1 strong."""
    rosette_keep: float
    mki: float
    """Mitotic and karyorrhectic fraction of the neuroblasts."""
    calcified: float
    sheet_eosin: float
    matrix_eosin: float
    texture: float
    """Contrast of the matrix texture, fibrillary or not."""
    stain: Stain
    pen: tuple[Band, ...]
    pen_colour: tuple[float, float, float]
    folds: tuple[Band, ...]
    blurs: tuple[Disc, ...]


def draw_recipe(
    seed: int,
    subtype: str,
    size_um: tuple[float, float],
    *,
    tissue_fraction: float = 0.6,
    artefacts: bool = True,
    without: Collection[str] = (),
) -> Recipe:
    """Draw one slide's recipe.

    Parameters
    ----------
    seed
        Any integer ≥ 0. The same seed, subtype and size always give the same slide.
    subtype
        One of `SLIDE_SUBTYPES`.
    size_um
        Width and height of the slide, µm.
    tissue_fraction
        Fraction of the slide that is tissue, 0-1.
    artefacts
        Whether pen, folds and out-of-focus patches may occur.
    without
        Those of `OTHER_TISSUES` that the slide has none of; tumour takes their place.

    Raises
    ------
    RequestError
        If an argument is out of its range, or GNB-I is asked for without stroma.
    """
    unknown = sorted(set(without) - set(OTHER_TISSUES))
    if unknown:
        raise RequestError(f"phantom without {', '.join(unknown)}: it must be of {', '.join(OTHER_TISSUES)}")
    if subtype not in SLIDE_SUBTYPES:
        raise RequestError(f"phantom subtype {subtype!r}: it must be one of {', '.join(SLIDE_SUBTYPES)}")
    if subtype == GNB_I and "stroma" in without:
        raise RequestError(f"phantom of {GNB_I} without stroma: more than half of this tumour is Schwannian stroma")
    if seed < 0:
        raise RequestError(f"phantom seed {seed}: it must be 0 or more")
    if not 0.0 <= tissue_fraction <= 1.0:
        raise RequestError(f"tissue fraction {tissue_fraction}: it must lie between 0 and 1")
    # the subtype is part of the scene's key: two subtypes of one seed must not share their layout
    own_seed = _GNB_SEEDS + seed if subtype == GNB_I else 3 * seed + SUBTYPES.index(subtype)
    rng = np.random.default_rng([own_seed, 20_240])
    look = _draw_appearance(rng)
    shares = rng.dirichlet([2.2, 1.4, 0.9, 0.8, 0.8]) * rng.uniform(0.18, 0.38)
    ud_share, d_share = {
        "UD": (1.0, 0.0),
        "PD": (rng.uniform(0.12, 0.32), rng.uniform(0.0, 0.03)),
        "D": (rng.uniform(0.0, 0.08), rng.uniform(0.66, 0.84)),
        GNB_I: (0.0, 0.8),  # of the nests
    }[subtype]
    pen, folds, blurs = _draw_artefacts(rng, size_um) if artefacts else ((), (), ())
    recipe = Recipe(
        seed=own_seed,
        subtype=subtype,
        size_um=size_um,
        tissue_fraction=tissue_fraction,
        shares=tuple(0.0 if name in without else float(s) for name, s in zip(OTHER_TISSUES, shares, strict=True)),
        ud_share=float(ud_share),
        d_share=float(d_share),
        region_um=float(np.clip(0.22 * min(size_um), 260.0, 900.0) * rng.uniform(0.85, 1.2)),
        pen=pen,
        folds=folds,
        blurs=blurs,
        pen_colour=((0.1, 0.25, 0.75), (0.05, 0.45, 0.2), (0.1, 0.1, 0.12))[int(rng.integers(3))],
        **look,
    )
    return _intermixed(recipe) if subtype == GNB_I else recipe


def _intermixed(recipe: Recipe) -> Recipe:
    """Nests in Schwannian stroma: less than half of the tissue, so that they are islands, and far below 2 mm."""
    rng = np.random.default_rng([recipe.seed, 20_241])  # its own, so that the other subtypes are drawn as ever
    return replace(
        recipe,
        shares=(float(rng.uniform(0.60, 0.72)), *(0.3 * share for share in recipe.shares[1:])),
        region_um=float(rng.uniform(130.0, 210.0)),
        ganglion_share=float(rng.uniform(0.25, 0.5)),
    )


def _draw_appearance(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "pool_um": float(rng.uniform(30, 52)),
        "pool_share": float(rng.uniform(0.2, 0.5)),
        "spacing_um": float(rng.uniform(7.8, 10.6)),
        "nucleus_scale": float(rng.uniform(0.88, 1.14)),
        "chromatin": float(rng.uniform(0, 1)),
        "diff_keep": float(rng.uniform(0.6, 0.95)),
        "ganglion_share": float(rng.uniform(0.03, 0.12)),
        "histiocytes": float(rng.uniform(0.15, 1.1)),
        "large_eosin": float(rng.uniform(0, 1)),
        "rosette_keep": float(rng.uniform(0.35, 0.8)),
        "mki": float(rng.uniform(0.004, 0.05)),
        "calcified": float(rng.choice([0.0, 0.0, rng.uniform(0.2, 0.8)])),
        "sheet_eosin": float(rng.uniform(0.22, 0.42)),
        "matrix_eosin": float(rng.uniform(0.34, 0.62)),
        "texture": float(rng.uniform(0.75, 1.15)),
        "stain": _draw_stain(rng),
    }


def _draw_stain(rng: np.random.Generator) -> Stain:
    haematoxylin = np.array([0.62, 0.70, 0.36]) + rng.normal(0, [0.055, 0.03, 0.05])
    eosin = np.array([0.12, 0.86, 0.42]) + rng.normal(0, [0.045, 0.05, 0.08])
    red = np.array([0.22, 0.82, 0.74]) + rng.normal(0, 0.04, 3)
    strength = np.array([rng.uniform(0.72, 1.22), rng.uniform(0.62, 1.25), rng.uniform(0.8, 1.1)])
    absorption = np.clip(np.stack([haematoxylin, eosin, red]), 0.02, None) * strength[:, None]
    white = rng.uniform(232, 248)
    background = np.clip(white + rng.normal(0, [2.5, 2.0, 2.5]), 222, 252)
    return Stain(
        absorption=tuple((float(row[0]), float(row[1]), float(row[2])) for row in absorption),
        background=(float(background[0]), float(background[1]), float(background[2])),
        gamma=float(rng.uniform(0.9, 1.12)),
        noise=float(rng.uniform(0.6, 2.2)),
    )


def _draw_artefacts(
    rng: np.random.Generator, size_um: tuple[float, float]
) -> tuple[tuple[Band, ...], tuple[Band, ...], tuple[Disc, ...]]:
    short = min(size_um)

    def place() -> tuple[float, float]:
        return float(rng.uniform(0.1, 0.9) * size_um[0]), float(rng.uniform(0.1, 0.9) * size_um[1])

    def band(half_width: float, half_length: float) -> Band:
        x, y = place()
        angle, wave, period = rng.uniform(0, np.pi), rng.uniform(0.02, 0.06), rng.uniform(0.7, 1.3)
        return Band(x, y, float(angle), half_width, half_length, float(wave * half_length), float(period * half_length))

    pen = tuple(
        band(float(np.clip(0.02 * short, 25, 160)), float(rng.uniform(0.12, 0.3) * short))
        for _ in range(int(rng.choice([0, 0, 0, 1, 2])))
    )
    folds = tuple(
        band(float(rng.uniform(7, 22)), float(np.clip(rng.uniform(0.1, 0.3) * short, 80, 2500)))
        for _ in range(int(rng.integers(0, 3)))
    )
    blurs = tuple(
        Disc(*place(), float(np.clip(rng.uniform(0.04, 0.1) * short, 60, 600))) for _ in range(int(rng.integers(0, 3)))
    )
    return pen, folds, blurs
