"""A patch is placed among those of its own slide: the same pixels say other words beside other patches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.captions import Caption, load_captioner
from wsikit.captions.base import SAMPLE_PATCHES, FitsToSlide, sample_rows
from wsikit.captions.cache import cached
from wsikit.captions.in_slide import HEAD, WORDS, MorphometryInSlide, place_words, places, reference_of
from wsikit.errors import RequestError
from wsikit.facts import FACTS, TONE

MPP = 4.0


def shaded(strengths: npt.ArrayLike, *, side: int = 24) -> npt.NDArray[np.uint8]:
    """Grainy pink patches, each stained as strongly as said; uint8 (B, side, side, 3)."""
    grain = np.random.default_rng(0).uniform(0.7, 1.3, (side, side, 1))
    density = np.asarray(strengths)[:, None, None, None] * grain * np.array([0.35, 0.8, 0.4])
    return np.clip(255 * 10**-density, 0, 255).astype(np.uint8)


def said(text: str) -> list[str]:
    return text.partition(f"{HEAD}: ")[2].rstrip(".").split(", ")


def test_the_same_patch_is_the_darkest_of_a_pale_slide_and_the_palest_of_a_dark_one():
    patch = shaded([0.5])
    pale, dark = shaded(np.linspace(0.2, 0.45, 30)), shaded(np.linspace(0.55, 0.9, 30))
    captioner = load_captioner("morphometry-in-slide")
    assert isinstance(captioner, FitsToSlide)
    body = TONE.index("od_p50")
    assert said(captioner.fit(pale, mpp=MPP).caption(patch, mpp=MPP)[0].text)[body] == WORDS["od_p50"][-1]
    assert said(captioner.fit(dark, mpp=MPP).caption(patch, mpp=MPP)[0].text)[body] == WORDS["od_p50"][0]


def test_what_is_measured_is_what_the_plain_captioner_measures():
    patches = shaded(np.linspace(0.2, 0.9, 12))
    placed = MorphometryInSlide().fit(patches, mpp=MPP).caption(patches, mpp=MPP)
    plain = load_captioner().caption(patches, mpp=MPP)
    assert [c.facts for c in placed] == [c.facts for c in plain]
    assert all(own.text.startswith(other.text) for own, other in zip(placed, plain, strict=True))


def test_places_are_0_and_1_at_the_tenths_of_the_slide():
    captions = [Caption("", dict.fromkeys(TONE, float(value))) for value in range(101)]
    reference = reference_of(captions)
    for value, place in ((10, 0.0), (50, 0.5), (90, 1.0), (0, -0.125)):
        assert places(dict.fromkeys(TONE, value), reference) == pytest.approx(dict.fromkeys(TONE, place))


@pytest.mark.parametrize(("place", "rank"), [(-3.0, 0), (0.05, 0), (0.2, 1), (0.5, 2), (0.7, 3), (0.95, 4), (9.0, 4)])
def test_words_rise_with_the_place(place: float, rank: int):
    assert said(place_words(dict.fromkeys(TONE, place))) == [WORDS[name][rank] for name in TONE]


def test_no_word_means_two_things():
    words = [word for row in WORDS.values() for word in row]
    tone = {word for name in TONE for _, word in FACTS[name].grades}
    assert len(words) == len(set(words)) == 50
    assert tuple(WORDS) == TONE
    assert not tone & set(words)


def test_too_few_patches_or_bare_glass_place_nothing():
    patches = shaded([0.4] * 9)
    assert HEAD not in MorphometryInSlide().fit(patches, mpp=MPP).caption(patches, mpp=MPP)[0].text
    slide = MorphometryInSlide().fit(shaded(np.linspace(0.2, 0.9, 20)), mpp=MPP)
    assert HEAD not in slide.caption(np.full((1, 24, 24, 3), 250, np.uint8), mpp=MPP)[0].text


def test_patches_all_alike_are_not_placed_by_rounding():
    patches = shaded([0.4] * 20)
    captions = MorphometryInSlide().fit(patches, mpp=MPP).caption(patches, mpp=MPP)
    assert len({c.text for c in captions}) == 1


def test_a_receipt_tells_slides_apart():
    settled = [MorphometryInSlide().fit(shaded(np.linspace(0.1, top, 20)), mpp=MPP) for top in (0.5, 0.5, 0.9)]
    first, same, other = (one.fingerprint() for one in settled)
    assert first == same != other


def test_where_cells_are_told_and_before_a_slide_was_seen_it_refuses():
    with pytest.raises(RequestError, match="Use morphometry"):
        MorphometryInSlide().fit(shaded([0.4]), mpp=0.5)
    with pytest.raises(RequestError, match="settle it"):
        MorphometryInSlide().caption(shaded([0.4]), mpp=MPP)


def test_equal_pixels_of_two_slides_are_not_remembered_as_one():
    assert isinstance(cached(MorphometryInSlide()), MorphometryInSlide)


@pytest.mark.parametrize("n", [0, 1, SAMPLE_PATCHES, SAMPLE_PATCHES + 1, 100_000])
def test_a_slide_is_known_by_patches_from_all_over_it(n: int):
    rows = sample_rows(n)
    assert len(rows) == min(n, SAMPLE_PATCHES)
    assert (np.diff(rows) > 0).all()
    if n:
        assert rows[0] == 0
        assert rows[-1] in (0, n - 1)
