"""From facts to words and back, and the words that must never occur."""

from __future__ import annotations

import re

import numpy as np
import pytest

from wsikit.captions import FACTS, fact_f1, parse, phrase, scrub
from wsikit.captions.lexicon import grades
from wsikit.errors import RequestError

LABELS = re.compile(r"differentiat|ganglioneuro|favou?rabl|INPC|Shimada|\b(UD|PD|D)\b", re.IGNORECASE)


def draw_facts(rng: np.random.Generator, mpp: float) -> dict[str, float]:
    """Values all over the grades of the facts that `mpp` allows."""
    facts = {}
    for name, fact in FACTS.items():
        if fact.finest_mpp < mpp <= fact.coarsest_mpp:
            limits = [limit for limit, _ in fact.grades if limit < 1e9] or [1.0]
            facts[name] = float(rng.uniform(0, 1.5 * max(limits)))
            if fact.unit == "share":
                facts[name] = min(facts[name], 1.0)
    return facts


@pytest.mark.parametrize("mpp", [0.5, 0.8, 1.2, 4.0, 16.0])
def test_words_read_back_give_the_grades_they_were_made_of(mpp):
    rng = np.random.default_rng(0)
    for _ in range(300):
        facts = draw_facts(rng, mpp)
        assert parse(phrase(facts, mpp)) == grades(facts)


def test_our_own_words_never_name_the_diagnosis():
    rng = np.random.default_rng(1)
    for _ in range(300):
        text = phrase(draw_facts(rng, 0.5), 0.5)
        assert not LABELS.search(text)
        assert scrub(text) == text


def test_a_text_is_one_or_two_sentences_that_fit_128_tokens():
    """With three of the terms that are stated only if present; no patch of ours has had more."""
    rng = np.random.default_rng(2)
    rare = [f"{name}_share" for name in ("fat", "lumen", "brown", "grey", "blank", "black", "pen")] + ["blur_um"]
    for _ in range(100):
        facts = draw_facts(rng, 0.5) | dict.fromkeys(rng.permutation(rare)[3:], 0.0)
        text = phrase(facts, 0.5)
        assert 1 <= len(re.findall(r"\.(?=\s|$)", text)) <= 2
        assert len(re.findall(r"\w+|[^\w\s]", text)) < 126  # words and marks, and two for the ends


def test_each_grade_starts_where_the_last_one_ends():
    for name, fact in FACTS.items():
        limits = [limit for limit, _ in fact.grades]
        assert limits == sorted(limits), name
        assert not limits or limits[-1] == float("inf"), name


def test_densities_are_stated_per_mm2_and_sizes_in_um():
    text = phrase({"nuclei_per_mm2": 8437.0, "nuclear_diameter_um": 6.84, "nuclear_size_cv": 0.1,
                   "elongated_nuclei_share": 0.0, "nuclear_density": 0.6}, 0.5)  # fmt: skip
    assert text == "Densely cellular, 8400 nuclei per mm²: small (6.8 µm), round, uniform in size, dark."


def test_a_fact_finer_than_the_pixels_is_refused():
    with pytest.raises(RequestError, match="only up to 0.6"):
        phrase({"fibrillary_share": 0.3}, 1.0)
    with pytest.raises(RequestError, match="unknown fact 'charm'"):
        phrase({"charm": 0.3}, 0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no neuropil", {"neuropil": "absent"}),
        ("Neuropil is not seen.", {"neuropil": "absent"}),
        ("No neuropil, rosettes or ganglion cells.",
         {"neuropil": "absent", "rosettes": "absent", "ganglion_cells": "absent"}),
        ("Without necrosis but abundant haemorrhage", {"necrosis": "absent", "blood": "abundant"}),
        ("abundant neuropil, scant necrosis", {"neuropil": "abundant", "necrosis": "scant"}),
        ("neuropil abundant, necrosis scant", {"neuropil": "abundant", "necrosis": "scant"}),
        ("Neuropil and rosettes are absent; calcification.",
         {"neuropil": "absent", "rosettes": "absent", "calcification": "present"}),
        ("fibrillary matrix (neuropil-like) moderate (21 %)", {"neuropil": "moderate"}),
        ("Homer Wright rosettes; differentiating neuroblasts >5 %",
         {"rosettes": "present", "maturing_neuroblasts": "moderate"}),
        ("Schwannian stroma septa only; mitoses/karyorrhexis few", {"spindle_stroma": "scant", "mitoses": "scant"}),
        ("A well drawn house.", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_captions_of_others_are_read_with_their_negations(text, expected):
    assert parse(text) == expected


def test_fact_f1_of_known_pairs():
    assert fact_f1(["no neuropil"], ["no neuropil"]).f1 == 1
    assert fact_f1(["no neuropil"], ["abundant neuropil"]).f1 == 0
    assert fact_f1(["scant neuropil"], ["abundant neuropil"]).f1 == 1
    assert fact_f1(["scant neuropil"], ["abundant neuropil"], graded=True).f1 == 0
    score = fact_f1(["no neuropil; no necrosis; fat abundant", "blood present"], ["no neuropil", "no blood; fat scant"])
    assert (score.precision, score.recall, score.n_reference) == (1 / 3, 1 / 4, 4)
    assert score.f1 == pytest.approx(2 / 7)
    assert fact_f1(["nothing known"], [""]).f1 == 0
    with pytest.raises(RequestError, match="expected equal numbers"):
        fact_f1(["a"], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Poorly differentiated neuroblastoma with neuropil.", "neuroblastoma with neuropil."),
        ("Undifferentiated tumour, UD", "tumour,"),
        ("NB-PD (Shimada: unfavourable histology); rosettes.", "rosettes."),
        ("D2-40 and PD-L1 in 3D, CD56 positive", "D2-40 and PD-L1 in 3D, CD56 positive"),
        ("differentiating neuroblasts >5 %", "neuroblasts >5 %"),
        ("Ganglioneuroblastoma of favorable INPC group", "of group"),
        ("small round blue cells", "small round blue cells"),
    ],
)
def test_the_scrubber_takes_out_label_words_and_nothing_else(text, expected):
    assert scrub(text) == expected


def test_scrubbing_twice_changes_nothing_more():
    for text in ("poorly differentiated (PD), INPC; D", "UD; PD; D.", "no rosettes"):
        assert scrub(scrub(text)) == scrub(text)
        assert not LABELS.search(scrub(text))
