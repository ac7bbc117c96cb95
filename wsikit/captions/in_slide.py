"""Where a patch stands among the patches of its slide: bluer than most, the smoothest there are.

Stains and scanners differ between slides, so one patch's colour says little by itself; a pathologist judges it beside
the rest of the slide, which an image branch that sees single patches cannot. Here the slide is looked at first (a
sample of it), and each measured caption ends with a sentence about the patch's tone within that slide.
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

_VERSION = 1  # raise it when the same patch of the same slide gets other words
_LOW, _HIGH = 10.0, 90.0  # per cent of the slide's patches; a fact's place is 0 at the former and 1 at the latter
_LEAST_PATCHES = 10  # of fewer nobody can say what is usual
_LEAST_SPREAD = 1e-3  # where all patches are alike, none is placed by noise

LIMITS = (0.1, 0.4, 0.6, 0.9)
"""Places that part the five words of a fact."""
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
"""Five words of each fact of the tone, from far below the slide's other patches to far above them."""
HEAD = "In its slide"

Reference = Mapping[str, tuple[float, float]]
"""Fact to its value at place 0 and at place 1."""


def reference_of(captions: list[Caption]) -> dict[str, tuple[float, float]]:
    """What is usual in a slide, from captions of some of its patches; empty if too few of these tell of tone."""
    told = np.array([[caption.facts[name] for name in TONE] for caption in captions if TONE[0] in caption.facts])
    if len(told) < _LEAST_PATCHES:
        return {}
    low, high = np.percentile(told, (_LOW, _HIGH), axis=0)
    high = np.maximum(high, low + _LEAST_SPREAD)
    return {name: (round(float(a), 6), round(float(b), 6)) for name, a, b in zip(TONE, low, high, strict=True)}


def places(facts: Mapping[str, float], reference: Reference) -> dict[str, float]:
    """Where each fact of the tone stands: 0 where a tenth of the slide's patches lies below, 1 where a tenth lies
    above, beyond them outside of 0 … 1. Empty if the facts tell of no tone."""
    return {name: (facts[name] - low) / (high - low) for name, (low, high) in reference.items() if name in facts}


def place_words(found: Mapping[str, float]) -> str:
    """The sentence of some places; empty if there are none."""
    words = [WORDS[name][int(np.searchsorted(LIMITS, found[name], side="right"))] for name in TONE if name in found]
    return f"{HEAD}: {', '.join(words)}." if words else ""


class MorphometryInSlide:
    """Captioner that measures, and says how a patch stands among those of its slide. It sees the slide first: `fit`.

    Only where tone is told, on pixels coarser than 0.6 µm.
    """

    name = "morphometry-in-slide"
    fact_names: tuple[str, ...] = Morphometry.fact_names

    def fingerprint(self) -> dict[str, Any]:
        """Name, version, and what measures. FittedToSlide, it has the slide's reference besides."""
        return {"captioner": self.name, "version": _VERSION, "measured": Morphometry().fingerprint()}

    def fit(self, images: npt.NDArray[np.uint8], *, mpp: float) -> FittedToSlide:
        """Look at a slide: a sample of its patches, uint8 (B, H, W, 3) at `mpp` µm per pixel.

        Raises
        ------
        RequestError
            If tone is not told at `mpp`.
        """
        finest = FACTS[TONE[0]].finest_mpp
        if mpp <= finest:
            raise RequestError(
                f"captioner {self.name!r}: at {mpp:g} µm/px single cells are told, not tone; it places patches where "
                f"pixels are coarser than {finest} µm. Use morphometry."
            )
        return FittedToSlide(reference_of(Morphometry().caption(images, mpp=mpp)))

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Refuse: no patch has a place before its slide was looked at."""
        raise RequestError(f"captioner {self.name!r} describes patches within a slide: settle it on one first")


@dataclass(frozen=True)
class FittedToSlide:
    """`MorphometryInSlide`, settled on a slide."""

    reference: dict[str, tuple[float, float]]

    name = MorphometryInSlide.name
    parallel = True
    batch = Morphometry.batch
    fact_names = Morphometry.fact_names

    def fingerprint(self) -> dict[str, Any]:
        """That of the unsettled one, and what is usual in the slide."""
        return {
            **MorphometryInSlide().fingerprint(),
            "slide": {name: list(pair) for name, pair in self.reference.items()},
        }

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Measure and place patches, uint8 (B, H, W, 3) at `mpp` µm per pixel; each depends on itself and the slide."""
        return [self._placed(caption) for caption in Morphometry().caption(images, mpp=mpp)]

    def _placed(self, caption: Caption) -> Caption:
        sentence = place_words(places(caption.facts, self.reference))
        return replace(caption, text=f"{caption.text} {sentence}".rstrip(), source=self.name)
