"""`wsikit.testing.check_captioner`: our own captioners pass it, and it names what is wrong with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.captions import Caption, load_captioner
from wsikit.captions.base import check_patches
from wsikit.captions.cache import CachedCaptioner
from wsikit.testing.captioners import check_captioner, sample_patches

Patches = npt.NDArray[np.uint8]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.8, 2.0, 8.0])
def test_the_measuring_captioner_conforms(mpp: float) -> None:
    check_captioner(load_captioner("morphometry"), mpp=mpp)


@pytest.mark.parametrize("mpp", [0.8, 4.0])
def test_the_captioner_that_ranks_patches_in_their_slide_conforms(mpp: float) -> None:
    images = np.concatenate([sample_patches(), sample_patches()[::-1] // 2])
    check_captioner(load_captioner("morphometry-in-slide"), mpp=mpp, images=images)


def test_the_packaged_generative_captioner_conforms() -> None:
    check_captioner(load_captioner("phantom-captioner", device="cpu"), images=sample_patches(224)[::3])


class Plain:
    """States the mean of a patch; each test breaks one thing."""

    name, fact_names = "plain", ("mean",)
    parallel = False

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name}

    def caption(self, images: Patches, *, mpp: float) -> list[Caption]:
        check_patches(images, mpp)
        return [self.one(image) for image in images]

    def one(self, image: Patches) -> Caption:
        return Caption(f"Mean {image.mean():.1f}", {"mean": float(image.mean())}, self.name)


class Backwards(Plain):
    def caption(self, images: Patches, *, mpp: float) -> list[Caption]:
        return super().caption(images, mpp=mpp)[::-1]


class OneTooFew(Plain):
    def caption(self, images: Patches, *, mpp: float) -> list[Caption]:
        return super().caption(images, mpp=mpp)[1:]


class BatchMean(Plain):
    def caption(self, images: Patches, *, mpp: float) -> list[Caption]:
        check_patches(images, mpp)
        return [Caption(f"Mean {image.mean() - images.mean():.3f}") for image in images]


class Numbered(Plain):
    calls = 0

    def caption(self, images: Patches, *, mpp: float) -> list[Caption]:
        check_patches(images, mpp)
        self.calls += len(images) > 0
        return [Caption(f"Call {self.calls}") for _ in images]


class NotANumber(Plain):
    def one(self, image: Patches) -> Caption:
        return Caption("Mean", {"mean": float("nan")})


class Undeclared(Plain):
    def one(self, image: Patches) -> Caption:
        return Caption("Mean", {"median": 1.0})


class Writes(Plain):
    def one(self, image: Patches) -> Caption:
        image[0, 0] = 7
        return Caption("Mean")


class Careless(Plain):
    def caption(self, images: Patches, *, mpp: float) -> list[Caption]:
        return [Caption("Tissue.") for _ in images]


class Array(Plain):
    def fingerprint(self) -> dict[str, Any]:
        return {"weights": np.zeros(2)}


class TupleIn(Plain):
    def fingerprint(self) -> dict[str, Any]:
        return {"size": (1, 2)}


class Counting(Plain):
    calls = 0

    def fingerprint(self) -> dict[str, Any]:
        self.calls += 1
        return {"calls": self.calls}


class Bound(Plain):
    parallel = True

    def __init__(self) -> None:
        self.read: Callable[[], int] = lambda: 1


def test_a_captioner_that_keeps_the_contract_passes_with_and_without_a_cache() -> None:
    check_captioner(Plain())
    check_captioner(CachedCaptioner(Plain()))


@pytest.mark.parametrize(
    ("captioner", "reason"),
    [
        (Backwards(), "in the order of the patches"),
        (OneTooFew(), "7 captions for 8 patches"),
        (BatchMean(), "depend on its own patch alone"),
        (Numbered(), "when asked again"),
        (NotANumber(), "fact mean is nan"),
        (Undeclared(), "does not declare: median"),
        (Writes(), "changed the pixels"),
        (Careless(), "floats must be refused"),
        (Array(), "cannot be written as JSON"),
        (TupleIn(), "changes when written as JSON"),
        (Counting(), r"two calls of fingerprint\(\) differ"),
        (Bound(), "must be picklable"),
        (object(), "a captioner has name"),
    ],
)
def test_what_is_wrong_is_named(captioner: Any, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_captioner(captioner)
