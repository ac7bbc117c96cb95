"""Predictions that depend on the patches around: numbers of the field as an input, and the last step of the fusion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import wsikit
from wsikit.inference import predict as stage
from wsikit.models.config import (
    FieldTermsConfig,
    ImageEncoderConfig,
    ModelConfig,
    NumbersConfig,
    PRMFConfig,
    TextEncoderConfig,
)
from wsikit.models.field_context import field_means
from wsikit.models.field_terms import with_field
from wsikit.models.io import save_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.slides.store import SlideStore

FACTS = ("eosin_share", "haematoxylin_share")
FIELD = FieldTermsConfig(sd_um=100.0, image=1.5, text=0.5, image_slide=-0.5, text_slide=0.2)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model that reads the numbers of the field, and whose fusion reads the field."""
    tokenizer = CaptionTokenizer.train(["Eosin abundant."], vocabulary=40, max_tokens=8)
    config = ModelConfig(
        name="field", version="1", classes=("a", "b"), class_names=("a", "b"), colors=("#000000", "#ffffff"),
        mpp=0.5, patch_px=64, stain="brightfield", captioner="morphometry", text_max_tokens=8, notice="Test.",
        prmf=PRMFConfig(d=8, revision=2, field=FIELD), image=ImageEncoderConfig(name="lcnet_035"),
        text=TextEncoderConfig(model_type="distilbert", options={"dim": 8, "n_layers": 1, "n_heads": 1}),
        numbers=NumbersConfig(facts=FACTS, width=8, bins=4, field_um=100.0, words=False),
    )  # fmt: skip
    torch.manual_seed(0)
    model = MMLNB(config, tokenizer).eval()
    rng = np.random.default_rng(0)
    model.numbers.learn_bins(rng.uniform(0, 1, (50, 2, model.numbers.numbers)))
    assert isinstance(model.fusion, CalibratedPRMF)
    torch.nn.init.normal_(model.fusion.head_text[-1].weight, std=2.0)
    torch.nn.init.normal_(model.fusion.head_image.weight, std=2.0)
    folder = tmp_path_factory.mktemp("model") / "field"
    save_model(model, folder, card="# field\n")
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    slide = wsikit.make_phantom(folder / "s.tiff", size_px=(448, 448)).path
    store = wsikit.tile(slide, folder / "s.zarr", patch_px=64)
    wsikit.caption(store)
    return folder / "s.zarr"


def test_the_probabilities_of_a_slide_have_what_the_patches_around_add(captioned: Path, model_folder: Path):
    table = wsikit.predict(captioned, model=str(model_folder))
    image, text, gate = (table.read(name) for name in ("probability_image", "probability_text", "gate"))
    centres = (table.coords + 32) * np.asarray(table.grid.slide_mpp)
    expected = with_field(FIELD, image, text, gate, centres)
    found = table.read("probability")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    alone = gate[:, None] * text + (1 - gate[:, None]) * image
    assert np.abs(found - alone).max() > 0.02  # the field matters


def test_the_numbers_of_the_field_are_those_of_the_whole_table(captioned: Path, model_folder: Path, monkeypatch):
    table = SlideStore(captioned).patches()
    names = list(table.attributes("caption_facts")["names"])
    facts = table.read("caption_facts")[:, [names.index(name) for name in FACTS]]
    centres = (table.coords + 32) * np.asarray(table.grid.slide_mpp)
    seen = []
    model = wsikit.load_model(str(model_folder), device="cpu")
    original = type(model).predict

    def spy(self, **inputs):
        seen.append(inputs["around"])
        return original(self, **inputs)

    monkeypatch.setattr(type(model), "predict", spy)
    monkeypatch.setattr(stage, "_AT_ONCE", 7)
    for name in ("probability", "probability_image"):
        table.drop(name) if name in table.columns() else None
    wsikit.predict(captioned, model=str(model_folder))
    readable = np.isfinite(table.read("probability")).all(axis=1)
    np.testing.assert_allclose(np.concatenate(seen), field_means(facts, centres, 100.0)[readable], rtol=1e-5)


def test_a_run_that_ended_before_the_last_step_continues_to_the_same_result(
    captioned: Path, model_folder: Path, monkeypatch
):
    table = wsikit.predict(captioned, model=str(model_folder))
    whole = table.read("probability")
    table.drop("probability")
    table.drop("gate")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage._Predict, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            wsikit.predict(captioned, model=str(model_folder))
    assert "probability" not in SlideStore(captioned).patches().columns()
    again = wsikit.predict(captioned, model=str(model_folder))
    np.testing.assert_allclose(again.read("probability"), whole, atol=1e-6)
