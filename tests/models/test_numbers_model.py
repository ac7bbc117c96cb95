"""MMLNB with numbers of captions and with image context: what a row depends on, and what is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsikit.errors import ModelError
from wsikit.models.config import ModelConfig, NumbersConfig, read_config
from wsikit.models.io import load_model, save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.predictor import Predictor
from wsikit.models.registry import load_patch_model
from wsikit.models.slide_context import SlideContext, number_columns
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.testing import check_model

FACTS = ("nuclei_per_mm2", "fibrillary_share")
RNG = np.random.default_rng(0)
SLIDE = np.stack([RNG.normal(3000, 800, 40), RNG.uniform(0, 0.5, 40)], axis=1).astype(np.float32)
IMAGES = RNG.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
WORDS = ["neuropil abundant"] * 4


def model_of(config: ModelConfig, *, context: bool = False, **numbers: object) -> MMLNB:
    torch.manual_seed(1)
    image = config.image.model_copy(update={"context": "slide" if context else None})
    chosen = NumbersConfig(facts=FACTS, width=8, bins=4, **numbers)  # type: ignore[arg-type]
    config = config.model_copy(update={"numbers": chosen, "image": image})
    model = MMLNB(config, CaptionTokenizer.train(WORDS, vocabulary=120, max_tokens=24))
    assert model.numbers is not None
    statistics = SlideContext.of(SLIDE).statistics
    model.numbers.learn_bins(number_columns(SLIDE, statistics=statistics, in_slide=model.config.numbers.in_slide))
    if model.image_context is not None:
        torch.nn.init.normal_(model.image_context.layers[-1].weight)
    return model.eval()


def test_numbers_change_the_text_branch_and_not_the_image_branch(tiny_config: ModelConfig):
    predictor = Predictor(model_of(tiny_config), device="cpu")
    assert predictor.info.inputs == ("image", "text", "facts")
    assert predictor.info.facts == FACTS
    one, two = (predictor.predict(IMAGES[:4], WORDS, facts) for facts in (SLIDE[:4], SLIDE[4:8]))
    assert np.abs(one["probability_text"] - two["probability_text"]).max() > 1e-4
    np.testing.assert_array_equal(one["probability_image"], two["probability_image"])


def test_uncertainty_counts(tiny_config: ModelConfig):
    predictor = Predictor(model_of(tiny_config), device="cpu")
    exact = predictor.predict(IMAGES[:4], WORDS, SLIDE[:4], np.zeros((4, 2), np.float32))
    vague = predictor.predict(IMAGES[:4], WORDS, SLIDE[:4], np.array([[900.0, 0.1]] * 4, np.float32))
    np.testing.assert_array_equal(exact["probability"], predictor.predict(IMAGES[:4], WORDS, SLIDE[:4])["probability"])
    assert np.abs(exact["probability_text"] - vague["probability_text"]).max() > 1e-4


def test_the_slide_counts_once_the_model_is_fitted_to_it(tiny_config: ModelConfig):
    predictor = Predictor(model_of(tiny_config), device="cpu")
    assert predictor.info.fits_to == ("facts",)
    one, two = predictor.fit(facts=SLIDE), predictor.fit(facts=SLIDE * 2)
    alone = predictor.predict(IMAGES[:4], WORDS, SLIDE[:4])["probability_text"]
    found = one.predict(IMAGES[:4], WORDS, SLIDE[:4])["probability_text"]
    assert np.abs(found - alone).max() > 1e-4
    assert np.abs(found - two.predict(IMAGES[:4], WORDS, SLIDE[:4])["probability_text"]).max() > 1e-4
    np.testing.assert_array_equal(alone, predictor.predict(IMAGES[:4], WORDS, SLIDE[:4])["probability_text"])
    few = predictor.fit(facts=SLIDE[:9])  # too few to be a slide
    np.testing.assert_array_equal(alone, few.predict(IMAGES[:4], WORDS, SLIDE[:4])["probability_text"])


def test_an_image_branch_in_context_sees_the_slide(tiny_config: ModelConfig):
    predictor = Predictor(model_of(tiny_config, context=True), device="cpu")
    assert predictor.info.fits_to == ("image", "facts")
    alone = predictor.predict(IMAGES[:4], [None] * 4)["probability_image"]
    dark = predictor.fit(images=IMAGES // 4).predict(IMAGES[:4], [None] * 4)["probability_image"]
    bright = predictor.fit(images=IMAGES).predict(IMAGES[:4], [None] * 4)["probability_image"]
    assert np.abs(dark - bright).max() > 1e-5
    assert np.abs(alone - bright).max() > 1e-5


@pytest.mark.parametrize("words", [True, False])
def test_without_caption_and_numbers_the_image_alone_decides(tiny_config: ModelConfig, words: bool):
    predictor = Predictor(model_of(tiny_config, words=words), device="cpu")
    unknown = np.full((4, 2), np.nan, np.float32)
    for facts in (None, unknown):
        out = predictor.predict(IMAGES[:4], [None] * 4, facts)
        assert (out["gate"] == 0).all()
        assert np.isnan(out["probability_text"]).all()
    half_known = np.array([[3000.0, np.nan]] * 4, np.float32)
    assert (predictor.predict(IMAGES[:4], [None] * 4, half_known)["gate"] > 0).all()


def test_without_words_captions_change_nothing(tiny_config: ModelConfig):
    model = model_of(tiny_config, words=False)
    assert sum(p.numel() for p in model.text.parameters()) == 0
    predictor = Predictor(model, device="cpu")
    one, two = (predictor.predict(IMAGES[:2], captions, SLIDE[:2]) for captions in (["a", "b"], [None, None]))
    np.testing.assert_array_equal(one["probability"], two["probability"])


def test_a_folder_keeps_bins_and_context_and_passes_the_conformance_checks(tiny_config: ModelConfig, tmp_path: Path):
    model = model_of(tiny_config, context=True)
    folder = save_model(model, tmp_path / "m", card="card")
    loaded = load_patch_model(folder, device="cpu")
    wanted = Predictor(model, device="cpu").fit(images=IMAGES, facts=SLIDE).predict(IMAGES[:4], WORDS, SLIDE[:4])
    found = loaded.fit(images=IMAGES, facts=SLIDE).predict(images=IMAGES[:4], captions=WORDS, facts=SLIDE[:4])
    np.testing.assert_allclose(found["probability"], wanted["probability"], atol=1e-6)
    check_model(loaded)


def test_a_model_without_numbers_writes_the_file_it_always_wrote(tiny_model: MMLNB, tmp_path: Path):
    folder = save_model(tiny_model, tmp_path / "m", card="card")
    written = (folder / "config.json").read_text()
    assert "numbers" not in written
    assert "context" not in written
    assert set(load_model(folder).state_dict()) == set(tiny_model.state_dict())
    packaged = read_config("phantom-mmlnb")
    assert packaged.numbers is None
    assert packaged.image.context is None


def test_facts_of_another_number_are_refused(tiny_config: ModelConfig):
    predictor = Predictor(model_of(tiny_config), device="cpu")
    with pytest.raises(ModelError, match=r"takes facts and uncertainties \(4, 2\), got \(4, 3\).*nuclei_per_mm2"):
        predictor.predict(IMAGES[:4], WORDS, np.zeros((4, 3), np.float32))


@pytest.mark.parametrize("facts", [("no_such_fact",), ("blood_share", "blood_share"), ()])
def test_unknown_facts_are_refused(facts: tuple[str, ...]):
    with pytest.raises(ValueError, match="facts"):
        NumbersConfig(facts=facts)
