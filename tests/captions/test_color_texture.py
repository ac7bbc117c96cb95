"""Colour and texture of patches whose pixels are too coarse for fibrils."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.captions import FACTS, load_captioner, parse, phrase
from wsikit.captions.color_texture import color_texture_facts
from wsikit.errors import RequestError
from wsikit.facts import TONE


def grey_levels(density: np.ndarray) -> np.ndarray:
    """uint8 of optical densities."""
    return np.clip(np.round(256 * 10.0**-density - 1), 0, 255).astype(np.uint8)


def patch(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    return np.stack([grey_levels(plane) for plane in (red, green, blue)], axis=-1)


def test_od_ratios_are_those_of_the_mean_densities():
    even = np.full((50, 50), 0.4)
    facts = color_texture_facts(patch(0.5 * even, even, 0.75 * even), 4.0)
    assert facts["red_green_od_ratio"] == pytest.approx((0.2 + 0.01) / (0.4 + 0.01), abs=0.01)
    assert facts["blue_green_od_ratio"] == pytest.approx((0.3 + 0.01) / (0.4 + 0.01), abs=0.01)
    assert facts["od_p50"] == pytest.approx(0.4, abs=0.005)
    assert facts["red_green_od_ratio_sd"] == pytest.approx(0, abs=1e-6)
    assert facts["fine_texture_sd"] == pytest.approx(0, abs=1e-6)


def test_noise_is_fine_texture_and_blocks_are_coarse_texture():
    rng = np.random.default_rng(0)
    noise = 0.4 + 0.1 * rng.standard_normal((64, 64))
    blocks = 0.4 + 0.1 * np.kron(rng.choice([-1, 1], (4, 4)), np.ones((16, 16)))
    fine, wide = (color_texture_facts(patch(0.5 * od, od, 0.6 * od), 4.0) for od in (noise, blocks))
    assert fine["fine_texture_sd"] > 3 * fine["coarse_texture_sd"]
    assert wide["coarse_texture_sd"] > 2 * wide["fine_texture_sd"]


def test_a_tenth_of_dark_nuclei_on_glass_decides_the_90th_percentile_only():
    dark = np.zeros((50, 50))
    dark[:6] = 0.6
    facts = color_texture_facts(patch(dark, dark, dark * 0.6), 4.0)
    assert facts["nuclear_stain"] == pytest.approx(0.6, abs=0.01)
    assert facts["od_p10"] == facts["od_p50"] == pytest.approx(0, abs=0.002)
    assert facts["red_green_od_ratio"] == pytest.approx(1.0, abs=0.02)  # of what is stained, not of the glass


@pytest.mark.parametrize(("mpp", "reported"), [(0.25, False), (0.6, False), (0.688, True), (4.0, True), (16.0, True)])
def test_colour_and_texture_are_reported_only_where_fibrils_are_not(mpp, reported):
    rng = np.random.default_rng(1)
    od = 0.3 + 0.1 * rng.random((224, 224))
    caption = load_captioner().caption(patch(0.6 * od, od, 0.6 * od)[None], mpp=mpp)[0]
    assert set(TONE) <= set(caption.facts) if reported else not set(TONE) & set(caption.facts)
    assert ("Tone:" in caption.text) == reported
    assert ("red_green_od_ratio" in parse(caption.text)) == reported


def test_words_of_the_tone_sentence_have_one_meaning_there_and_none_elsewhere():
    words = [word for name in TONE for _, word in FACTS[name].grades]
    assert len(set(words)) == len(words)
    assert parse("Tone: violet, cool.") == {"red_green_od_ratio": "violet", "blue_green_od_ratio": "cool"}
    assert parse("A violet and cool picture, compact and patchy.") == {}
    assert parse("Tone: solid. No necrosis.") == {"od_p10": "solid", "necrosis": "absent"}


def test_color_texture_facts_are_refused_where_cells_are_reported():
    with pytest.raises(RequestError, match="red_green_od_ratio is not reported at 0.5"):
        phrase({"red_green_od_ratio": 0.5}, 0.5)
