"""What passes for a caption: no loop, no refusal, no torn end, nothing about something else, no label word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikit.captions import FACTS, phrase, scrub
from wsikit.captions.filter import judge

GOOD = (
    "Abundant neuropil with Homer Wright rosettes; small round nuclei, salt-and-pepper chromatin. No necrosis.",
    "Densely cellular sheet of small round blue cells",
    "Fibrous connective tissue with inflamed mammary ducts.",
    "Neuropil.",
    "Necrosis absent, haemorrhage absent, calcification absent, lymphoid infiltrate absent, rosettes absent.",
    "Nuclei of 8 µm (β-catenin stain), fibrillary background.",
)
WORDS = ("neuropil", "rosettes", "small", "round", "nuclei", "with", "abundant", "stroma", "cells", "no", "necrosis")


@pytest.mark.parametrize("text", GOOD)
def test_a_caption_passes_as_it_is(text: str) -> None:
    verdict = judge(text)
    assert (verdict.text, verdict.failure, verdict.scrubbed) == (text, "", False)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("... 12 % !!", "empty"),
        ("I'm sorry, but I can't describe tissue.", "refusal"),
        ("As an AI language model I see cells.", "refusal"),
        ("I cannot provide a diagnosis from nuclei.", "refusal"),
        ("Please consult a pathologist about this tissue.", "refusal"),
        ("A dog plays with a red ball on the beach.", "no word about tissue"),
        ("这张图片显示了神经母细胞瘤的细胞和神经毡。", "wrong script"),
        ("Neuropil и клетки опухоли с розетками", "wrong script"),
        ("neuropil neuropil neuropil neuropil", "loop"),
        ("small round cells, small round cells, small round cells, small round cells, small round cells", "loop"),
        ("Neuropil aaaaaaaaaaaaaaaaaaaaaaaa", "loop"),
        ("Scattered cells with", "cut off"),
        ("Nests of tumour cells (with a", "cut off"),
        ("Poorly differentiated.", "no word about tissue"),
        ("Differentiating neuroblasts; UD.", ""),
        (" ".join(f"cell{n} tissue{n}" for n in range(300)), "more than 400 words"),
    ],
)
def test_what_is_no_caption_is_named(text: str, failure: str) -> None:
    verdict = judge(text)
    assert verdict.failure == failure
    assert bool(verdict.text) != bool(failure)


def test_words_that_name_the_diagnosis_are_removed_and_reported() -> None:
    verdict = judge("Poorly differentiated neuroblastoma (PD) with moderate neuropil.")
    assert verdict.scrubbed
    assert verdict.text == scrub(verdict.text) == "neuroblastoma with moderate neuropil."


def test_a_torn_last_sentence_is_left_out() -> None:
    assert judge("Much neuropil. Rosettes are seen. The nuclei show").text == "Much neuropil. Rosettes are seen."


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12), st.integers(5, 12))
def test_any_text_repeated_five_times_is_a_loop(words: list[str], times: int) -> None:
    assert judge(" ".join(words * times)).failure == "loop"


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict_and_what_passes_passes_again(text: str) -> None:
    verdict = judge(text)
    assert bool(verdict.text) != bool(verdict.failure)
    if verdict.text:
        again = judge(verdict.text)
        assert (again.text, again.failure) == (verdict.text, "")
        assert scrub(verdict.text) == verdict.text


@given(st.lists(st.sampled_from((*WORDS, "poorly differentiated", "PD", "with.", "a", "(", ";", "is")), max_size=25))
def test_what_passes_passes_again_also_with_label_words_in_it(words: list[str]) -> None:
    verdict = judge(" ".join(words))
    if verdict.text:
        assert judge(verdict.text).text == verdict.text


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=len(FACTS), max_size=len(FACTS)))
def test_measured_captions_always_pass_untouched(shares: list[float]) -> None:
    scale = {"per mm²": 9000, "count": 40, "µm": 12}
    stated = [name for name in FACTS if getattr(FACTS[name], "finest_mpp", 0.0) <= 0.5]  # at 0.5 µm per pixel
    facts = {name: share * scale.get(FACTS[name].unit, 1) for name, share in zip(stated, shares)}
    text = phrase(facts, 0.5)
    assert judge(text).text == text
