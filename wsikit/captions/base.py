"""What a caption is and what a captioner must do. Nothing here measures, and nothing here needs more than NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError


@dataclass(frozen=True, slots=True)
class Caption:
    """What was found on one patch."""

    text: str
    """One to three sentences."""
    facts: dict[str, float] = field(default_factory=dict)
    """Fact name to value, in the units of `lexicon.FACTS`. What was not measured is absent; no value is NaN."""
    source: str = ""
    """Name of the captioner."""
    failure: str = ""
    """Why there is no caption, in a few words; empty where there is one. `text` then is what came instead, or empty."""


SAMPLE_PATCHES = 512
"""Patches of a slide that a captioner sees before it describes any."""

BATCH = 8
"""Patches given in one call to a captioner that does not say how many it wants: what a kill may cost."""


@runtime_checkable
class Captioner(Protocol):
    """Anything that describes patches. A caption depends on its patch alone, never on its neighbours in the batch.

    It may have two attributes more. `parallel`, bool: several threads or processes may call it at once; without it
    nobody but one thread does. `batch`, int: how many patches it takes best in one call; without it `BATCH`.
    """

    name: str
    fact_names: tuple[str, ...]
    """All facts it may state, in the order of the store's columns; empty if it states none."""

    def fingerprint(self) -> dict[str, Any]:
        """What decides its words, JSON-ready: equal fingerprints give equal captions. Goes into the receipt."""

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Describe patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in their order."""


@runtime_checkable
class FitsToSlide(Protocol):
    """A captioner whose words depend on the slide: it sees some of its patches before it describes any."""

    def fit(self, images: npt.NDArray[np.uint8], *, mpp: float) -> Captioner:
        """The captioner for the slide that has these patches, uint8 (B, H, W, 3) at `mpp` µm per pixel."""


def sample_rows(n: int) -> npt.NDArray[np.int64]:
    """Rows of the patches by which a slide of `n` patches is known: `SAMPLE_PATCHES` at most, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE_PATCHES)).astype(np.int64))


def in_parallel(captioner: Captioner) -> bool:
    """Whether several threads may call it at once. A language model on one device says no by saying nothing."""
    return bool(getattr(captioner, "parallel", False))


def batch_of(captioner: Captioner) -> int:
    """How many patches it is given in one call."""
    return max(1, int(getattr(captioner, "batch", BATCH)))


def check_patches(images: npt.NDArray[np.uint8], mpp: float) -> None:
    """Raise `RequestError` unless `images` is uint8 (B, H, W, 3) with H, W ≥ 1 and `mpp` is a positive number."""
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:] or dtype != np.uint8:
        raise RequestError(f"patches of shape {shape}, {dtype}: expected uint8 (batch, height, width, 3)")
    if not (math.isfinite(mpp) and mpp > 0):
        raise RequestError(f"patches at {mpp} µm/px: the pixel size must be a positive number")
