"""The types of captions and captioners. Measures nothing; needs NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError


@dataclass(frozen=True, slots=True)
class Caption:
    """The description of one patch.

    Examples
    --------
    >>> Caption("Sparsely cellular.", {"nuclei_per_mm2": 900.0}, "morphometry").failure
    ''
    """

    text: str
    """One to three sentences."""
    facts: dict[str, float] = field(default_factory=dict)
    """Fact name to value, in the units of `wsikit.facts.FACTS`. A fact that was not measured is absent, never NaN."""
    source: str = ""
    """Name of the captioner."""
    failure: str = ""
    """Reason why there is no caption, one short line; empty if there is one. With a failure, `text` is the rejected
    output, or empty."""


SAMPLE_PATCHES = 512
"""Maximum number of patches that a captioner is fitted to, per slide."""

BATCH = 8
"""Default batch size: captions of this many patches are lost at most when a run is killed."""


@runtime_checkable
class Captioner(Protocol):
    """Anything that describes patches. A caption depends on its own patch only, never on other patches in the batch.

    Some attributes are optional. `parallel` (bool, default False): the captioner is picklable, and several threads or
    processes may call it concurrently. `mostly_python` (bool, default False), of a parallel one: a patch takes a
    millisecond or more, most of it in Python, so that threads wait for each other; large slides are then described by
    worker processes, each with a copy of the captioner. `batch` (int, default `BATCH`): the preferred batch size.

    Generative captioners may have two more. `field` (`wsikit.captions.fields.Field` or None): they are given fields,
    not patches. `images_per_call` (int, default 1): above 1, a caption may depend on the images in the same call.

    `wsikit.testing.check_captioner` tests this contract.
    """

    name: str
    fact_names: tuple[str, ...]
    """All facts that its captions may state, in the order of the store's columns; empty if there are none."""

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides its captions, JSON-ready. Equal fingerprints imply equal captions; the fingerprint is
        part of the column's receipt."""

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Captions of patches, uint8 (B, H, W, 3) RGB at `mpp` µm per pixel: a list of B, in the same order."""


@runtime_checkable
class FitsToSlide(Protocol):
    """A captioner whose captions depend on the slide: it is fitted to a sample of the slide's patches first."""

    def fit(self, images: npt.NDArray[np.uint8], *, mpp: float) -> Captioner:
        """The captioner for the slide that has these patches, uint8 (B, H, W, 3) at `mpp` µm per pixel."""


def sample_rows(n: int) -> npt.NDArray[np.int64]:
    """Rows of the patches that a captioner is fitted to, int64, sorted: up to `SAMPLE_PATCHES` of `n`, evenly spaced.

    Examples
    --------
    >>> sample_rows(3).tolist(), len(sample_rows(100_000))
    ([0, 1, 2], 512)
    """
    return np.unique(np.linspace(0, n - 1, min(n, SAMPLE_PATCHES)).astype(np.int64))


def in_parallel(captioner: Captioner) -> bool:
    """Whether several threads or processes may call it concurrently: its attribute `parallel`, default False."""
    return bool(getattr(captioner, "parallel", False))


def is_mostly_python(captioner: Captioner) -> bool:
    """Whether worker processes describe patches faster than threads: its attribute `mostly_python`, default False."""
    return in_parallel(captioner) and bool(getattr(captioner, "mostly_python", False))


def batch_of(captioner: Captioner) -> int:
    """Its batch size: its attribute `batch`, default `BATCH`."""
    return max(1, int(getattr(captioner, "batch", BATCH)))


def images_per_call_of(captioner: Captioner) -> int:
    """How many images it describes together: its attribute `images_per_call`, default 1."""
    return max(1, int(getattr(captioner, "images_per_call", 1)))


def check_patches(images: npt.NDArray[np.uint8], mpp: float) -> None:
    """Raise `RequestError` unless `images` is uint8 (B, H, W, 3) with H, W ≥ 1 and `mpp` is a positive number.

    Examples
    --------
    >>> check_patches(np.zeros((2, 8, 8, 3), np.uint8), 0.5)
    """
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:] or dtype != np.uint8:
        raise RequestError(f"patches of shape {shape}, {dtype}: expected uint8 (batch, height, width, 3)")
    if not (math.isfinite(mpp) and mpp > 0):
        raise RequestError(f"patches at {mpp} µm/px: the pixel size must be a positive number")
