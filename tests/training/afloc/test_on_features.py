"""AFLoc over stored features of a frozen encoder, here one of random weights: it learns, and maps stores."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import yaml
from PIL import Image

import wsikit
from wsikit.encoders import registry
from wsikit.encoders.protocol import EncoderInfo
from wsikit.encoders.registry import load_encoder
from wsikit.errors import ModelError, RequestError
from wsikit.models.afloc_encoder import load_afloc_encoder
from wsikit.slides.store import SlideStore
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.afloc.run import run_afloc_training
from wsikit.training.task import read_config

SIDE = 32
COLOURS = (((226, 150, 190), "Fat; no necrosis."), ((70, 60, 150), "Necrosis; no fat."))


class RandomFeatures:
    """A tiny encoder: colours of blocks of 4 px, and their spreads, through random weights. 24 numbers."""

    def __init__(self, fingerprint: str = "random") -> None:
        self.info = EncoderInfo("random-colours", 24, SIDE, 0.5, fingerprint)
        self.weights = np.random.default_rng(3).standard_normal((12, 24)).astype(np.float32)

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        blocks = images.reshape(len(images), 8, 4, 8, 4, 3).astype(np.float32) / 255
        mean, spread = blocks.mean(axis=(2, 4)), blocks.std(axis=(2, 4))
        parts = [part(one, axis=(1, 2)) for one in (mean, spread) for part in (np.mean, np.std)]
        found: npt.NDArray[np.float32] = np.tanh(4 * np.hstack(parts) @ self.weights)
        return found


@pytest.fixture
def random_features(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tiny encoder under its name; all others as usual. One thread: more only wait for each other here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def load(name: str, **options: Any) -> Any:
        return RandomFeatures() if name == "random-colours" else load_encoder(name, **options)

    monkeypatch.setattr(registry, "load_encoder", load)
    yield
    torch.set_num_threads(threads)


def configuration(folder: Path, **changes: Any) -> Path:
    settings = {
        "architecture": "afloc", "name": "on-features",
        "data": {"table": {"images": str(folder / "images")}, "mpp": 0.5, "patch_px": SIDE, "group": "slide"},
        "split": {"validation": 0.2, "test": 0.2},
        "image": {"features": "random-colours", "project": 24},
        "text": {
            "model_type": "bert", "vocabulary": 80, "max_tokens": 32,
            "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                        "hidden_dropout_prob": 0.0},
        },
        "training": {
            "epochs": 20, "batch": 8, "width": 8, "texts": 12, "word_texts": 4, "bag": 2,
            "lr": {"image": 0.01, "text": 0.01, "heads": 0.01},
        },
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def write_patches(folder: Path) -> None:
    """48 noisy pink or blue patches of 12 slides, with captions."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    with open(folder / "images" / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "description", "slide", "x", "y"])
        for n in range(48):
            colour, caption = COLOURS[n % 2]
            pixels = np.clip(np.array(colour) + rng.normal(0, 15, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{n}.png")
            table.writerow([f"{n}.png", caption, f"slide-{n // 4}", n % 2 * SIDE, n // 2 * SIDE])


def test_a_model_on_random_features_learns_and_maps_a_store(
    tmp_path: Path, random_features: None, square_store: SlideStore
) -> None:
    write_patches(tmp_path)
    config = read_config(configuration(tmp_path), AflocTrainConfig)
    metrics = run_afloc_training(config, tmp_path / "out", device="cpu")
    assert "24 features each, of random-colours" in metrics["data"]
    assert metrics["test"]["terms"]["fat"]["auroc"] > 0.9
    assert "Stored features of random-colours" in (tmp_path / "out" / "model" / "README.md").read_text()
    encoder = load_afloc_encoder(tmp_path / "out" / "model", device="cpu")
    assert encoder.info.reads is not None
    assert (encoder.info.reads.name, encoder.info.reads.width) == ("random-colours", 24)

    with pytest.raises(ModelError, match=r"reads the column features_random-colours, .* wsikit features"):
        wsikit.localize(square_store, ["necrosis"], encoder=encoder)
    table = wsikit.features(square_store, encoder=RandomFeatures())
    (found,) = wsikit.localize(square_store, ["necrosis"], encoder=encoder)
    x, y, side = 288, 352, 384  # the blue square
    centres = table.coords + SIDE / 2
    inside = ((centres > (x, y)) & (centres < (x + side, y + side))).all(axis=1)
    assert np.isfinite(table.read(found.column)).all()
    places = table.read(encoder.info.shared_column).astype(np.float32)
    scores = places @ encoder.encode_texts(["necrosis", "fat"]).T
    assert (scores[inside, 0] > scores[inside, 1]).all()
    assert (scores[~inside, 0] < scores[~inside, 1]).all()
    placed = encoder.place_features(table.read("features_random-colours").astype(np.float32))
    np.testing.assert_allclose(places, placed, atol=1e-3)

    table.drop("features_random-colours")
    wsikit.features(square_store, encoder=RandomFeatures("other weights"))
    with pytest.raises(ModelError, match="fingerprint other weight"):
        wsikit.localize(square_store, ["necrosis"], encoder=encoder)
    with pytest.raises(ModelError, match="reads stored features of random-colours, not pixels"):
        encoder.encode_shared(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    with pytest.raises(RequestError, match="reads stored features of random-colours"):
        wsikit.features(square_store, encoder=encoder)


def test_settings_of_an_image_encoder_do_not_fit_features(tmp_path: Path) -> None:
    for change, fault in (
        ({"start": "phantom-mmlnb"}, "leave out start and freeze"),
        ({"image": {"features": "uni", "name": "resnet18"}}, "cannot be combined"),
        ({"image": {"options": {}}}, "name"),
    ):
        with pytest.raises(RequestError, match=fault):
            read_config(configuration(tmp_path, **change), AflocTrainConfig)
