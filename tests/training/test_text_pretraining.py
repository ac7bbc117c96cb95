"""Captions drawn at random, and an encoder that is pretrained on them from scratch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsikit.captions import FACTS, parse
from wsikit.captions.in_slide import HEAD, LIMITS, WORDS
from wsikit.models.config import TextEncoderConfig
from wsikit.models.encoders import TextEncoder
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.training.settings import FitSettings
from wsikit.training.text_pretraining import drawn_captions, pretrain_text_encoder


@pytest.mark.parametrize("mpp", [0.5, 0.688, 4.0])
def test_a_drawn_position_is_the_grade_that_the_words_state(mpp):
    captions, places, names = drawn_captions(200, mpp=mpp, seed=0)
    stated = 0
    for text, row in zip(captions, places, strict=True):
        read = parse(text)
        for name, place in zip(names, row, strict=True):
            fact = FACTS[name]
            assert np.isnan(place) == (fact.term not in read), (name, text)
            if np.isfinite(place) and name not in ("blank_share", "black_share", "grey_share"):
                grade = fact.grades[int(place * len(fact.grades))][1]
                assert read[fact.term] == grade, (name, text)
                stated += 1
    assert stated > 1000


def test_facts_that_are_never_stated_at_a_scale_do_not_affect_the_metric():
    captions, _, _ = drawn_captions(200, mpp=0.688, seed=5)
    tokenizer = CaptionTokenizer.train(captions, vocabulary=300, max_tokens=128)
    options = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "vocab_size": tokenizer.vocabulary}
    encoder = TextEncoder(TextEncoderConfig(model_type="distilbert", options=options))
    share = pretrain_text_encoder(encoder, tokenizer, mpp=0.688, n=64, settings=FitSettings(epochs=1, batch=32), seed=0)
    assert np.isfinite(share)


def test_an_encoder_from_scratch_predicts_the_facts_of_held_out_captions():
    captions, _, _ = drawn_captions(1500, mpp=4.0, seed=5)
    tokenizer = CaptionTokenizer.train(captions, vocabulary=300, max_tokens=96)
    options = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "vocab_size": tokenizer.vocabulary}
    options |= {"dropout": 0.0, "attention_dropout": 0.0}
    torch.manual_seed(0)
    encoder = TextEncoder(TextEncoderConfig(model_type="distilbert", options=options))
    settings = FitSettings(epochs=10, batch=32, lr=5e-3, weight_decay=0.0)
    assert (
        pretrain_text_encoder(encoder, tokenizer, mpp=4.0, n=1500, settings=settings, seed=0) > 0.5
    )  # untaught: below 0


def test_drawn_positions_in_a_slide_are_those_that_the_words_state():
    captions, places, names = drawn_captions(300, mpp=4.0, seed=0, in_slide=True)
    columns = [column for column, name in enumerate(names) if name.endswith(" in the slide")]
    assert len(columns) == len(WORDS)
    assert places.shape == (300, len(names))
    stated = 0
    for text, row in zip(captions, places, strict=True):
        _, _, sentence = text.partition(f"{HEAD}: ")
        assert np.isfinite(row[columns]).all() == bool(sentence) == ("Tone: " in text)
        for column, word, words in zip(columns, sentence.rstrip(".").split(", "), WORDS.values(), strict=False):
            if sentence:
                assert words[sum(row[column] >= limit for limit in LIMITS)] == word
                stated += 1
    assert stated > 1000
