"""A patch is ranked among those of its own slide: in another slide, the same pixels get other words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.captions import Caption, load_captioner
from wsikit.captions.base import SAMPLE_PATCHES, FitsToSlide, sample_rows
from wsikit.captions.cache import cached
from wsikit.captions.in_slide import (
    HEAD,
    WORDS,
    MorphometryInSlide,
    rank_sentence,
    reference_of,
    relative_positions,
)
from wsikit.errors import RequestError
from wsikit.facts import FACTS, TONE

MPP = 4.0


def shaded(strengths: npt.ArrayLike, *, side: int = 24) -> npt.NDArray[np.uint8]:
    """Pink patches with fine texture, of the given stain strengths; uint8 (B, side, side, 3)."""
    grain = np.random.default_rng(0).uniform(0.7, 1.3, (side, side, 1))
    density = np.asarray(strengths)[:, None, None, None] * grain * np.array([0.35, 0.8, 0.4])
    return np.clip(255 * 10**-density, 0, 255).astype(np.uint8)


def rank_words(text: str) -> list[str]:
    return text.partition(f"{HEAD}: ")[2].rstrip(".").split(", ")


def test_the_same_patch_is_the_darkest_of_a_pale_slide_and_the_palest_of_a_dark_one():
    patch = shaded([0.5])
    pale, dark = shaded(np.linspace(0.2, 0.45, 30)), shaded(np.linspace(0.55, 0.9, 30))
    captioner = load_captioner("morphometry-in-slide")
    assert isinstance(captioner, FitsToSlide)
    median = TONE.index("od_p50")
    assert rank_words(captioner.fit(pale, mpp=MPP).caption(patch, mpp=MPP)[0].text)[median] == WORDS["od_p50"][-1]
    assert rank_words(captioner.fit(dark, mpp=MPP).caption(patch, mpp=MPP)[0].text)[median] == WORDS["od_p50"][0]


def test_facts_and_first_sentences_are_those_of_the_plain_captioner():
    patches = shaded(np.linspace(0.2, 0.9, 12))
    ranked = MorphometryInSlide().fit(patches, mpp=MPP).caption(patches, mpp=MPP)
    plain = load_captioner().caption(patches, mpp=MPP)
    assert [c.facts for c in ranked] == [c.facts for c in plain]
    assert all(own.text.startswith(other.text) for own, other in zip(ranked, plain, strict=True))


def test_relative_positions_are_0_and_1_at_the_10th_and_90th_percentiles_of_the_slide():
    captions = [Caption("", dict.fromkeys(TONE, float(value))) for value in range(101)]
    reference = reference_of(captions)
    for value, position in ((10, 0.0), (50, 0.5), (90, 1.0), (0, -0.125)):
        found = relative_positions(dict.fromkeys(TONE, value), reference)
        assert found == pytest.approx(dict.fromkeys(TONE, position))


@pytest.mark.parametrize(
    ("position", "rank"), [(-3.0, 0), (0.05, 0), (0.2, 1), (0.5, 2), (0.7, 3), (0.95, 4), (9.0, 4)]
)
def test_words_rise_with_the_relative_position(position: float, rank: int):
    assert rank_words(rank_sentence(dict.fromkeys(TONE, position))) == [WORDS[name][rank] for name in TONE]


def test_no_word_means_two_things():
    words = [word for row in WORDS.values() for word in row]
    tone = {word for name in TONE for _, word in FACTS[name].grades}
    assert len(words) == len(set(words)) == 50
    assert tuple(WORDS) == TONE
    assert not tone & set(words)


def test_with_too_few_patches_or_on_bare_glass_nothing_is_ranked():
    patches = shaded([0.4] * 9)
    assert HEAD not in MorphometryInSlide().fit(patches, mpp=MPP).caption(patches, mpp=MPP)[0].text
    slide = MorphometryInSlide().fit(shaded(np.linspace(0.2, 0.9, 20)), mpp=MPP)
    assert HEAD not in slide.caption(np.full((1, 24, 24, 3), 250, np.uint8), mpp=MPP)[0].text


def test_equal_patches_are_not_ranked_by_rounding():
    patches = shaded([0.4] * 20)
    captions = MorphometryInSlide().fit(patches, mpp=MPP).caption(patches, mpp=MPP)
    assert len({c.text for c in captions}) == 1


def test_fingerprints_differ_between_slides():
    fitted = [MorphometryInSlide().fit(shaded(np.linspace(0.1, top, 20)), mpp=MPP) for top in (0.5, 0.5, 0.9)]
    first, same, other = (one.fingerprint() for one in fitted)
    assert first == same != other


def test_fine_pixels_and_captioning_before_the_fit_are_refused():
    with pytest.raises(RequestError, match=r"needs pixels coarser than 0\.6 µm.*Use morphometry"):
        MorphometryInSlide().fit(shaded([0.4]), mpp=0.5)
    with pytest.raises(RequestError, match=r"call fit\(\) on the slide first"):
        MorphometryInSlide().caption(shaded([0.4]), mpp=MPP)


def test_captions_are_not_cached_across_slides():
    assert isinstance(cached(MorphometryInSlide()), MorphometryInSlide)


@pytest.mark.parametrize("n", [0, 1, SAMPLE_PATCHES, SAMPLE_PATCHES + 1, 100_000])
def test_the_sample_is_spread_over_the_whole_slide(n: int):
    rows = sample_rows(n)
    assert len(rows) == min(n, SAMPLE_PATCHES)
    assert (np.diff(rows) > 0).all()
    if n:
        assert rows[0] == 0
        assert rows[-1] in (0, n - 1)
