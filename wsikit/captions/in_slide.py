"""Captions that rank a patch among the patches of its slide: bluer than most, the smoothest of all.

Stains and scanners differ between slides, so the colour of one patch is little information by itself; a pathologist
compares it with the rest of the slide, which an image branch that sees single patches cannot do. This captioner is
first fitted to a sample of the slide's patches. Each measured caption then ends with a sentence on the rank of the
patch's colour and texture in that slide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption
from wsikit.captions.morphometry import Morphometry
from wsikit.errors import RequestError
from wsikit.facts import FACTS, TONE

_VERSION = 1  # raise it when the same patch of the same slide gets another caption
_LOW, _HIGH = 10.0, 90.0  # percentiles of the slide's patches; the relative position is 0 at the lower, 1 at the upper
_MIN_PATCHES = 10  # percentiles of fewer patches are not meaningful
_MIN_SPREAD = 1e-3  # where all patches are alike, rounding errors must not rank them

LIMITS = (0.1, 0.4, 0.6, 0.9)
"""Relative positions that separate the five words of a fact."""
WORDS: dict[str, tuple[str, ...]] = {
    name: tuple(words.split())
    for name, words in {
        "red_green_od_ratio": "pinkest pinker halfway bluer bluest",
        "blue_green_od_ratio": "coldest colder tepid warmer warmest",
        "red_green_od_ratio_sd": "plainest plainer ordinary richer richest",
        "nuclear_stain": "weakest weaker average stronger strongest",
        "od_p10": "loosest looser medial tighter tightest",
        "od_p50": "thinnest thinner middling thicker thickest",
        "od_p90": "faintest fainter common bolder boldest",
        "nuclear_texture_sd": "calmest calmer regular busier busiest",
        "fine_texture_sd": "smoothest smoother normal rougher roughest",
        "coarse_texture_sd": "evenest evener typical patchier patchiest",
    }.items()
}
"""Five words for each fact of colour and texture, from far below the slide's other patches to far above them."""
HEAD = "In its slide"
"""First words of the sentence."""

Reference = Mapping[str, tuple[float, float]]
"""Fact to its values at relative positions 0 and 1: the slide's 10th and 90th percentiles."""


def reference_of(captions: list[Caption]) -> dict[str, tuple[float, float]]:
    """Percentiles of a slide, from the facts of a sample of its patches; empty if too few of them have these facts."""
    values = np.array([[caption.facts[name] for name in TONE] for caption in captions if TONE[0] in caption.facts])
    if len(values) < _MIN_PATCHES:
        return {}
    low, high = np.percentile(values, (_LOW, _HIGH), axis=0)
    high = np.maximum(high, low + _MIN_SPREAD)
    return {name: (round(float(a), 6), round(float(b), 6)) for name, a, b in zip(TONE, low, high, strict=True)}


def relative_positions(facts: Mapping[str, float], reference: Reference) -> dict[str, float]:
    """Facts of colour and texture relative to the slide: 0 at its 10th percentile, 1 at its 90th, linear, unbounded.

    Empty if `facts` has none of them.

    Examples
    --------
    >>> relative_positions({"od_p50": 0.5}, {"od_p50": (0.25, 0.75)})
    {'od_p50': 0.5}
    """
    return {name: (facts[name] - low) / (high - low) for name, (low, high) in reference.items() if name in facts}


def rank_sentence(positions: Mapping[str, float]) -> str:
    """The sentence for some relative positions; empty if there are none.

    Examples
    --------
    >>> rank_sentence({"red_green_od_ratio": 1.2, "od_p50": 0.5})
    'In its slide: bluest, middling.'
    """
    words = [
        WORDS[name][int(np.searchsorted(LIMITS, positions[name], side="right"))] for name in TONE if name in positions
    ]
    return f"{HEAD}: {', '.join(words)}." if words else ""


class MorphometryInSlide:
    """Captioner that measures, and ranks each patch among those of its slide. Call `fit` on the slide first.

    For pixel sizes above 0.6 µm only, where colour and texture are measured.
    """

    name = "morphometry-in-slide"
    fact_names: tuple[str, ...] = Morphometry.fact_names

    def fingerprint(self) -> dict[str, Any]:
        """Name, version, and the fingerprint of the measurements. After `fit`, the slide's percentiles are added."""
        return {"captioner": self.name, "version": _VERSION, "measured": Morphometry().fingerprint()}

    def fit(self, images: npt.NDArray[np.uint8], *, mpp: float) -> FittedToSlide:
        """Measure a sample of a slide's patches, uint8 (B, H, W, 3) at `mpp` µm per pixel.

        Raises
        ------
        RequestError
            Colour and texture are not measured at `mpp`.
        """
        finest = FACTS[TONE[0]].finest_mpp
        if mpp <= finest:
            raise RequestError(
                f"captioner {self.name!r} needs pixels coarser than {finest} µm, got {mpp:g} µm/px: on finer pixels "
                "cells are described, not colour and texture. Use morphometry."
            )
        return FittedToSlide(reference_of(Morphometry().caption(images, mpp=mpp)))

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Always raises `RequestError`: only the captioner that `fit` returns can rank patches."""
        raise RequestError(f"captioner {self.name!r} ranks patches within a slide: call fit() on the slide first")


@dataclass(frozen=True)
class FittedToSlide:
    """`MorphometryInSlide`, fitted to a slide."""

    reference: dict[str, tuple[float, float]]
    """Fact to the slide's 10th and 90th percentiles; empty: no patch is ranked."""

    name = MorphometryInSlide.name
    parallel = mostly_python = True
    batch = Morphometry.batch
    fact_names = Morphometry.fact_names

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of `MorphometryInSlide`, and the percentiles of the slide."""
        return {
            **MorphometryInSlide().fingerprint(),
            "slide": {name: list(pair) for name, pair in self.reference.items()},
        }

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Captions of patches, uint8 (B, H, W, 3) at `mpp` µm per pixel; each depends on its patch and the slide."""
        return [self._ranked(caption) for caption in Morphometry().caption(images, mpp=mpp)]

    def _ranked(self, caption: Caption) -> Caption:
        sentence = rank_sentence(relative_positions(caption.facts, self.reference))
        return replace(caption, text=f"{caption.text} {sentence}".rstrip(), source=self.name)
