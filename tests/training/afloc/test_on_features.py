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
from wsikit.phantom import make_phantom
from wsikit.phantom.fields import KINDS
from wsikit.slides import open_slide
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.afloc.run import run_afloc_training
from wsikit.training.task import read_config

SIDE, PATCH = 672, 112


class RandomFeatures:
    """A tiny encoder: colours of blocks of 14 px, and their spreads, through random weights. 24 numbers."""

    def __init__(self, fingerprint: str = "random") -> None:
        self.info = EncoderInfo("random-colours", 24, PATCH, 0.5, fingerprint)
        self.weights = np.random.default_rng(3).standard_normal((12, 24)).astype(np.float32)

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        blocks = images.reshape(len(images), 8, 14, 8, 14, 3).astype(np.float32) / 255
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
        "data": {"table": {"images": str(folder / "images")}, "mpp": 0.5, "patch_px": PATCH, "group": "slide"},
        "split": {"validation": 0.2, "test": 0.2},
        "image": {"features": "random-colours", "project": 24},
        "text": {
            "model_type": "bert", "vocabulary": 200, "max_tokens": 48,
            "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                        "hidden_dropout_prob": 0.0},
        },
        "training": {
            "epochs": 10, "batch": 16, "width": 16, "texts": 32, "word_texts": 4, "bag": 2,
            "lr": {"image": 0.01, "text": 0.01, "heads": 0.01},
            "weights": {"word": 0.1, "sentence": 1.0, "report": 0.1, "presence": 2.0},
        },
        "competitors": "negation",
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings | changes))
    return path


def write_phantoms(folder: Path) -> None:
    """Quarters of patches of five slides, with the reference captions of the patches."""
    (folder / "images").mkdir()
    with open(folder / "images" / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "description", "slide", "x", "y"])
        for seed in range(5):
            truth = make_phantom(folder / "made.tiff", size_px=(SIDE, SIDE), seed=seed)
            with open_slide(folder / "made.tiff") as slide:
                for (left, top), caption in zip(truth.coords.tolist(), truth.captions):
                    for x, y in ((left + dx, top + dy) for dx in (0, PATCH) for dy in (0, PATCH)):
                        name = f"{seed}-{x}-{y}.png"
                        patch = slide.read_region(x, y, PATCH, PATCH, mpp=0.5)
                        Image.fromarray(patch).save(folder / "images" / name, compress_level=0)
                        table.writerow([name, caption, f"slide-{seed}", x, y])


def test_a_model_on_random_features_learns_and_maps_a_store(tmp_path: Path, random_features: None) -> None:
    from sklearn.metrics import roc_auc_score

    write_phantoms(tmp_path)
    config = read_config(configuration(tmp_path), AflocTrainConfig)
    metrics = run_afloc_training(config, tmp_path / "out", device="cpu")
    assert "24 features each, of random-colours" in metrics["data"]
    encoder = load_afloc_encoder(tmp_path / "out" / "model", device="cpu")
    assert encoder.info.reads is not None
    assert (encoder.info.reads.name, encoder.info.reads.width) == ("random-colours", 24)

    truth = make_phantom(tmp_path / "other.tiff", size_px=(SIDE, SIDE), seed=77)
    store = wsikit.tile(tmp_path / "other.tiff", tmp_path / "other.zarr", patch_px=PATCH, mpp=0.5)
    with pytest.raises(ModelError, match=r"reads the column features_random-colours, .* wsikit features"):
        wsikit.localize(store, ["neuropil"], encoder=encoder)
    table = wsikit.features(store, encoder=RandomFeatures())
    (found,) = wsikit.localize(store, ["neuropil"], encoder=encoder)
    planted = {tuple(place): share for place, share in zip(truth.coords.tolist(), truth.facts.fractions)}
    shares = np.array(
        [planted[x // 224 * 224, y // 224 * 224][KINDS.index("neuropil")] for x, y in table.coords.tolist()]
    )
    assert roc_auc_score(shares >= np.median(shares), table.read(found.column)) > 0.75
    placed = encoder.place_features(table.read("features_random-colours").astype(np.float32))
    np.testing.assert_allclose(table.read(encoder.info.shared_column), placed, atol=1e-3)

    receipt = table.receipt(encoder.info.shared_column)
    table.drop("features_random-colours")
    wsikit.features(store, encoder=RandomFeatures("other weights"))
    with pytest.raises(ModelError, match="fingerprint other weight"):
        wsikit.localize(store, ["neuropil"], encoder=encoder)
    assert receipt is not None

    with pytest.raises(ModelError, match="reads stored features of random-colours, not pixels"):
        encoder.encode_shared(np.zeros((1, PATCH, PATCH, 3), np.uint8))
    with pytest.raises(RequestError, match="reads stored features of random-colours"):
        wsikit.features(store, encoder=encoder)


def test_settings_of_an_image_encoder_do_not_fit_features(tmp_path: Path) -> None:
    for change, fault in (
        ({"start": "phantom-mmlnb"}, "leave out start and freeze"),
        ({"image": {"features": "uni", "name": "resnet18"}}, "cannot be combined"),
        ({"image": {"options": {}}}, "name"),
    ):
        with pytest.raises(RequestError, match=fault):
            read_config(configuration(tmp_path, **change), AflocTrainConfig)
