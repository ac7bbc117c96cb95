"""MMLNB whose image branch reads features of a frozen encoder: trained, evaluated, and run on stores with captions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import wsikit
from tests.training.heads.conftest import COLOURS, MeanColour, Store, Trained
from wsikit.errors import ModelError, RequestError
from wsikit.models.io import load_model
from wsikit.models.protocol import ImageFeatureExtractor
from wsikit.testing import check_model
from wsikit.training.config import FeatureTrainConfig
from wsikit.training.heads.config import read_training_config
from wsikit.training.run import run_evaluation, run_training

MMLNB_PARTS: dict[str, Any] = {
    "name": "toy-fusion",
    "split": {"validation": 0.2, "test": 0.2},
    "image": {"features": "mean-colour", "project": 8},
    "text": {
        "model_type": "bert",
        "max_tokens": 40,
        "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    },
    "prmf": {"d": 16},
    "training": {
        "epochs": 12,
        "batch": 8,
        "lr": {"image": 1e-2, "text": 1e-3, "fusion": 1e-2},
        "stain_scale": 0.1,
        "lambda_text": 0.3,
    },
}


def config_of(folder: Path, **sections: Any) -> FeatureTrainConfig:
    path = folder / "fusion.yaml"
    path.write_text(yaml.safe_dump(MMLNB_PARTS | sections))
    config = read_training_config(path)
    assert isinstance(config, FeatureTrainConfig)
    return config


@pytest.fixture
def on_images(images: Path, tmp_path: Path) -> FeatureTrainConfig:
    """A configuration on `images`, with captions that say the class in other words."""
    with open(images / "t.csv", newline="") as file:
        rows = list(csv.reader(file))
    words = {"UD": "neuropil absent", "PD": "neuropil sparse", "D": "neuropil abundant"}
    texts = [["description", *rows[0]], *([words[row[1]], *row] for row in rows[1:])]
    with open(images / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(texts)
    data = {"table": {"images": str(images)}, "mpp": 0.5, "patch_px": 32}
    return config_of(tmp_path, data=data, classes=[{"code": code} for code in COLOURS])


def test_a_fusion_on_features_of_images(on_images: FeatureTrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    test = run_training(on_images, out, device="cpu", load=lambda name: MeanColour())["test"]
    assert test["fused"]["patch"]["balanced_accuracy"]["value"] == 1.0
    assert test["image alone"]["patch"]["balanced_accuracy"]["value"] == 1.0
    assert test["floor: linear, on the features"]["patch"]["balanced_accuracy"]["value"] == 1.0
    assert "floor: colour histogram" not in test
    model = wsikit.load_model(out / "model", device="cpu")
    assert model.info.inputs == ("features:mean-colour", "text")
    assert model.info == wsikit.describe_model(out / "model")
    assert not isinstance(model, ImageFeatureExtractor)  # it reads no pixels
    check_model(model, feature_dim=12)
    x = np.array([[90, 40, 130] * 4, [220, 170, 200] * 4, [np.nan] * 12]) / 255
    probs = model.predict(features=x, captions=[None, None, "neuropil absent"])["probability"]
    assert probs[:2].argmax(axis=1).tolist() == [0, 2]
    assert np.isnan(probs[2]).all()

    own, split = load_model(out / "model"), out / "splits.json"
    options: dict[str, Any] = {"split_file": split, "device": "cpu"}
    found = run_evaluation(own, on_images, tmp_path / "ev", load=lambda name: MeanColour(), **options)
    assert found["results"]["fused"]["patch"]["auc"] == pytest.approx(test["fused"]["patch"]["auc"])
    with pytest.raises(RequestError, match="trained on features of mean-colour .* Give features of the same encoder"):
        run_evaluation(own, on_images, tmp_path / "ev2", load=lambda name: MeanColour("beef"), **options)


def test_a_fusion_on_features_of_stores(trained: Trained, make_store: Store, tmp_path: Path) -> None:
    data = {"stores": {"manifest": str(trained.manifest)}, "patch_px": 64}
    config = config_of(tmp_path, data=data, classes=[{"code": "left"}, {"code": "right"}], captions={"source": "none"})
    training = config.training.model_copy(update={"epochs": 4})
    run_training(config.model_copy(update={"training": training}), tmp_path / "out", device="cpu")
    store = make_store(tmp_path / "new.zarr", seed=9)
    table = wsikit.predict(store, model=tmp_path / "out" / "model", device="cpu")
    right = table.coords[:, 0] + 32 > 700
    assert (table.read("probability").argmax(axis=1) == right).all()
    assert (table.read("gate") == 0).all()
    other = make_store(tmp_path / "other.zarr", fingerprint="beef")
    with pytest.raises(ModelError, match="of an encoder with the fingerprint beef"):
        wsikit.predict(other, model=tmp_path / "out" / "model", device="cpu")


def test_an_encoder_that_is_not_trained_takes_no_settings_of_training(tmp_path: Path) -> None:
    data = {"table": {"images": "x"}, "mpp": 0.5, "patch_px": 32}
    classes = [{"code": code} for code in COLOURS]
    with pytest.raises(RequestError, match="features and name cannot be combined"):
        config_of(tmp_path, data=data, classes=classes, image={"features": "uni", "name": "resnet18"})
    assert json.loads(json.dumps(config_of(tmp_path, data=data, classes=classes).model_dump(mode="json")))
