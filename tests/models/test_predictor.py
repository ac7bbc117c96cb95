"""The predictor with the packaged model: independent rows, refusals with a reason, better than a colour baseline."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from wsikit.captions import load_captioner
from wsikit.errors import ModelError
from wsikit.models.io import load_model, read_config
from wsikit.models.predictor import Columns, Predictor
from wsikit.phantom import phantom_patches
from wsikit.slides import open_slide
from wsikit.training.baselines import colour_histogram, fit_histogram_baseline

SEEDS = range(77_000, 77_006)
"""Slides of no training and no reported test."""


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(load_model(), device="cpu")


@pytest.fixture(scope="module")
def patches() -> tuple[np.ndarray, np.ndarray, list[str]]:
    found = list(phantom_patches(SEEDS, 6))
    images = np.stack([patch.image for patch in found])
    captions = [caption.text for caption in load_captioner().caption(images, mpp=0.5)]
    return images, np.array([patch.label for patch in found]), captions


def assert_same(one: Columns, two: Columns) -> None:
    for name in ("probability", "gate", "probability_image", "probability_text", "ood_score"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-5, err_msg=name)


def test_unseen_slides_are_classified_far_better_than_by_colour(predictor: Predictor, patches):
    images, labels, captions = patches
    seen = list(phantom_patches(range(12), 3))
    floor = fit_histogram_baseline(np.stack([p.image for p in seen]), np.array([p.label for p in seen]))
    by_colour = (floor.predict(colour_histogram(images)) == labels).mean()
    by_model = (predictor.predict(images, captions)["probability"].argmax(axis=1) == labels).mean()
    assert by_model > 0.9
    assert by_model > by_colour + 0.1


def test_a_row_does_not_depend_on_its_batch(predictor: Predictor, patches):
    images, _, captions = patches
    images, mixed = images[:9], [*captions[:4], None, "", *captions[6:8], "neuropil"]
    together = predictor.predict(images, mixed)
    alone = [predictor.predict(images[i : i + 1], mixed[i : i + 1]) for i in range(9)]
    one_by_one = {name: np.concatenate([single[name] for single in alone]) for name in together}
    assert_same(together, one_by_one)
    assert_same(together, Predictor(predictor.model, device="cpu", batch=4).predict(images, mixed))


def test_without_a_caption_the_image_alone_decides(predictor: Predictor, patches):
    images, _, captions = patches
    silent = predictor.predict(images[:4], [None, "", "   ", None])
    assert (silent["gate"] == 0).all()
    assert np.isnan(silent["probability_text"]).all()
    np.testing.assert_array_equal(
        silent["probability_image"], predictor.predict(images[:4], captions[:4])["probability_image"]
    )
    tokens = predictor.model.read(captions[:4])
    arrays = (images[:4], tokens.ids, tokens.mask, tokens.present)
    with torch.inference_mode():
        closed = predictor.model(*(torch.from_numpy(array) for array in arrays), rho=0.0)
    np.testing.assert_allclose(silent["probability"], closed.logits.softmax(dim=1).numpy(), atol=1e-6)


def test_captions_of_other_patches_are_trusted_less(predictor: Predictor, patches):
    images, _, captions = patches
    own, others = predictor.predict(images, captions), predictor.predict(images, captions[::-1])
    assert others["gate"].mean() < 0.8 * own["gate"].mean()


def test_words_that_name_the_class_are_not_read(predictor: Predictor):
    read = predictor.model.read(["Dense, poorly differentiated; PD.", "Dense, undifferentiated; UD."])
    assert (read.ids[0] == read.ids[1]).all()
    assert read.present.all()


def test_probabilities_are_float32_and_sum_to_one(predictor: Predictor, patches):
    images, _, captions = patches
    out = predictor.predict(images[:3], captions[:3])
    for probs in (out["probability"], out["probability_image"], out["probability_text"]):
        assert probs.shape == (3, 4)
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert out["gate"].shape == (3,)
    assert ((out["gate"] >= 0) & (out["gate"] <= 1)).all()


def test_no_patches_give_no_rows(predictor: Predictor):
    out = predictor.predict(np.empty((0, 224, 224, 3), np.uint8), [])
    assert out["probability"].shape == (0, 4)
    assert out["gate"].shape == (0,)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 256, 256, 3), np.uint8),
        ((2, 3, 224, 224), np.uint8),
        ((2, 224, 224, 3), np.float32),
        ((224, 224, 3), np.uint8),
    ],
)
def test_patches_of_another_shape_or_type_are_refused(predictor: Predictor, shape: tuple, dtype: type):
    with pytest.raises(ModelError, match="takes uint8 patches"):
        predictor.predict(np.zeros(shape, dtype), [None] * shape[0])


def test_a_caption_too_few_is_refused(predictor: Predictor):
    with pytest.raises(ModelError, match="2 patches and 1 captions"):
        predictor.predict(np.zeros((2, 224, 224, 3), np.uint8), [None])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_not_replaced_in_silence():
    with pytest.raises(ModelError, match="no GPU here"):
        Predictor(load_model(), device="cuda")


def test_the_packaged_model_loads_offline_and_says_what_it_is(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = load_model("phantom-mmlnb")
    assert model.config.classes == ("UD", "PD", "D", "other")
    assert model.config.voting == ("UD", "PD", "D")
    assert (model.config.mpp, model.config.patch_px, model.config.captioner) == (0.5, 224, "morphometry")
    for text in (model.config.notice, model.card):
        assert "synthetic" in text
        assert "Not for clinical use" in text
    folder = model.folder
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4e6


def test_every_figure_of_the_card_is_one_of_the_metrics():
    model = load_model()
    metrics = json.loads((model.folder / "metrics.json").read_text())
    rows = [row for rows in metrics["results"].values() for row in rows]
    known = {f"{v:.3f}" for row in rows for v in (*row["accuracy_interval"], *row["balanced_accuracy_interval"])}
    known |= {
        f"{row['scores'][k]:.3f}"
        for row in rows
        for k in ("accuracy", "balanced_accuracy", "macro_f1", "kappa_quadratic")
    }
    stated = set(re.findall(r"\b[01]\.\d{3}\b", model.card))
    assert len(stated) > 20
    assert stated <= known


def test_the_configuration_is_read_without_the_weights():
    assert read_config("phantom-mmlnb").patch_px == 224


def test_unseen_synthetic_slides_are_familiar(predictor: Predictor, patches):
    ood_score = predictor.predict(patches[0], patches[2])["ood_score"]
    assert (ood_score > 1).mean() < 0.06


@pytest.mark.parametrize(
    ("name", "assumed_mpp"),
    [("her2st_C2_pyramid.tif", None), ("serrated_adenoma_gallery-01_half.tif", 0.5), ("CMU-1-Small-Region.svs", None)],
)
def test_real_breast_and_colon_are_unlike_anything_it_was_trained_on(
    predictor: Predictor, slides_dir: Path, name: str, assumed_mpp: float | None
):
    with open_slide(slides_dir / name, mpp=assumed_mpp) as slide:
        side = 224 * 0.5 / slide.mpp[0]
        width, height = slide.dimensions
        places = np.random.default_rng(0).uniform(0, 1, (150, 2)) * (width - side, height - side)
        drawn = [slide.read_region(int(x), int(y), 224, 224, mpp=0.5) for x, y in places]
    tissue = np.stack([image for image in drawn if (image.min(axis=2) < 200).mean() > 0.5][:40])
    assert len(tissue) >= 20
    assert (predictor.predict(tissue, [None] * len(tissue))["ood_score"] > 1).mean() > 0.75
