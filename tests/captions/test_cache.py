"""Equal pixels are described once; different pixels never share a cached caption."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.captions import Caption
from wsikit.captions.cache import CachedCaptioner, pixel_key


class Echo:
    """States the shade of a patch, and records what it was asked for."""

    name = "echo"
    fact_names: tuple[str, ...] = ()

    def __init__(self, fails: int | None = None) -> None:
        self.seen: list[int] = []
        self.fails = fails

    def fingerprint(self) -> dict[str, Any]:
        return {"captioner": self.name}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        shades = images[:, 0, 0, 0].tolist()
        self.seen += shades
        return [Caption(f"shade {n}", failure="broken" if n == self.fails else "") for n in shades]


def patches(shades: list[int]) -> npt.NDArray[np.uint8]:
    return np.stack([np.full((4, 4, 3), n, np.uint8) for n in shades])


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=6))
def test_every_patch_gets_its_own_words_and_each_content_is_asked_about_once(batches: list[list[int]]) -> None:
    echo = Echo()
    captioner = CachedCaptioner(echo)
    for batch in batches:
        assert [c.text for c in captioner.caption(patches(batch), mpp=0.5)] == [f"shade {n}" for n in batch]
    everything = [n for batch in batches for n in batch]
    assert sorted(echo.seen) == sorted(set(everything))
    assert (captioner.asked, captioner.reused) == (len(set(everything)), len(everything) - len(set(everything)))


def test_a_failure_is_not_cached() -> None:
    echo = Echo(fails=3)
    captioner = CachedCaptioner(echo)
    captioner.caption(patches([3, 3, 4]), mpp=0.5)
    echo.fails = None
    assert not captioner.caption(patches([3]), mpp=0.5)[0].failure
    assert echo.seen == [3, 4, 3]


def test_the_same_pixels_at_another_scale_or_shape_are_another_patch() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    keys = {pixel_key(image, 0.5), pixel_key(image, 0.25), pixel_key(image.reshape(2, 8, 3), 0.5)}
    assert len(keys) == 3
    assert pixel_key(image, 0.5) == pixel_key(np.asfortranarray(image), 0.5)


def test_the_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    echo = Echo()
    captioner = CachedCaptioner(echo, max_captions=2)
    for shade in (1, 2, 1, 3, 1, 2):
        captioner.caption(patches([shade]), mpp=0.5)
    assert echo.seen == [1, 2, 3, 2]
