"""`wsikit train` with a fusion fitted on unseen patients, and the arm of `wsikit ablate`; models come back whole."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wsikit.cli.main import main
from wsikit.cli.train import epoch_line
from wsikit.errors import RequestError
from wsikit.models.io import load_model
from wsikit.models.prmf_calibrated import CalibratedPRMF
from wsikit.training.ablation import AblationConfig, Pair, load_patches, run_ablation
from wsikit.training.branches import branch_outputs
from wsikit.training.config import TrainConfig, read_config
from wsikit.training.factory import load_data
from wsikit.training.forward import outputs_of
from wsikit.training.module import EpochRecord
from wsikit.training.run import RunCallbacks, run_training
from wsikit.training.texts import with_captions

SETTINGS: dict[str, Any] = {
    "name": "toy",
    "data": {"mpp": 4.0, "patch_px": 32},
    "classes": [{"code": "a"}, {"code": "b"}],
    "captions": {"source": "captioner", "captioner": "morphometry"},
    "image": {"name": "lcnet_035"},
    "training": {"epochs": 3, "batch": 16, "lr": {"image": 3e-3, "text": 1e-3, "fusion": 3e-3}},
    "text": {"model_type": "distilbert", "options": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}},
    "numbers": {"words": False, "width": 8, "bins": 4, "field_um": 300.0},
    "prmf": {"d": 16},
    "cross_fit": {"text": {"epochs": 20, "lr": 1e-2, "batch": 16}, "folds": 3, "field_um": 300.0},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 patches of 9 patients in rows; the class is the depth of the stain, in runs of five along the row."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    rows = [["file_name", "class", "patient", "x", "y"]]
    for i in range(90):
        patient, place = divmod(i, 10)
        code = "ab"[place // 5]
        base = np.array((200, 120, 180)) if code == "a" else np.array((160, 90, 150))
        pixels = base + rng.normal(0, 25, (32, 32, 1)) + rng.normal(0, 8, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append([f"{i}.png", code, f"p{patient}", str(32 * place), "0"])
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def _written(images: Path, folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    data = SETTINGS["data"] | {"table": {"images": str(images)}}
    path.write_text(yaml.safe_dump(SETTINGS | {"data": data} | changes))
    return path


def test_a_trained_model_reads_the_field_and_is_the_same_after_loading(images: Path, tmp_path: Path):
    path = _written(images, tmp_path, split={"validation": 0.25, "test": 0.25})
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert not ended.value.code
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["fusion"]["kept"] in ("gate", "mean", "image")
    assert set(metrics["fusion"]["loss_on_unseen_patients"]) == {"image", "mean", "gate", "field"}
    model = load_model(tmp_path / "out" / "model")
    assert isinstance(model.fusion, CalibratedPRMF)
    recorded = metrics["fusion"]["field"]
    assert (model.config.prmf.field is None) == (recorded is None)
    assert model.fusion.temperature_text.item() == pytest.approx(metrics["fusion"]["temperatures"][1])

    config = read_config(path, TrainConfig)
    loaded = load_data(config)
    data = with_captions(loaded.prepared.patches, config.captions, mpp=loaded.prepared.mpp, numbers=True)
    outputs = outputs_of(model, data.with_field(300.0))
    assert np.isfinite(outputs.logits).all()
    assert (outputs.logits_text.argmax(axis=1) == data.labels).mean() > 0.9
    silent = outputs_of(model, data.with_captions([""] * len(data)))
    np.testing.assert_allclose(silent.probs, _softmax(silent.logits_image), atol=1e-6)


class StoppedError(Exception):
    """What stops a run in these tests."""


@pytest.mark.parametrize("stop", ["in the image branch", "between the folds"])
def test_a_stopped_run_resumes_to_the_same_model(images: Path, tmp_path: Path, stop: str):
    path = _written(images, tmp_path, split={"validation": 0.25, "test": 0.25})
    config, said = read_config(path, TrainConfig), []

    def epoch(record: EpochRecord) -> None:
        if stop == "in the image branch" and record.epoch == 1:
            raise StoppedError

    def message(text: str) -> None:
        if text.startswith("branches for the fusion: 2 of 3"):
            raise StoppedError

    def same(out: Path, **options: Any) -> dict[str, Any]:
        callbacks = options.pop("callbacks", RunCallbacks(message=said.append))
        return run_training(config, out, device="cpu", callbacks=callbacks, **options)

    whole = same(tmp_path / "whole")
    with pytest.raises(StoppedError):
        same(tmp_path / "cut", callbacks=RunCallbacks(message=message, epoch=epoch))
    with pytest.raises(RequestError, match="holds an unfinished run"):
        same(tmp_path / "cut")
    said.clear()
    resumed = same(tmp_path / "cut", resume=True)
    already = "branches for the fusion: 2 of 3 folds are already done"
    assert (already in said) == (stop == "between the folds")
    assert resumed["fusion"] == whole["fusion"]
    assert [epoch["loss"] for epoch in resumed["epochs"]] == [epoch["loss"] for epoch in whole["epochs"]]
    one, two = (load_model(tmp_path / name / "model").state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_run_whose_text_settings_have_changed_is_not_resumed(images: Path, tmp_path: Path):
    split = {"validation": 0.25, "test": 0.25}
    config = read_config(_written(images, tmp_path, split=split), TrainConfig)

    def stop(record: EpochRecord) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        run_training(config, tmp_path / "out", device="cpu", callbacks=RunCallbacks(epoch=stop))
    other = SETTINGS["cross_fit"] | {"folds": 4}
    changed = read_config(_written(images, tmp_path, split=split, cross_fit=other), TrainConfig)
    with pytest.raises(RequestError, match="differs in cross_fit"):
        run_training(changed, tmp_path / "out", device="cpu", resume=True)


def test_the_line_of_an_epoch_names_validation_only_where_there_is_one():
    record = EpochRecord(0, "image", 0.0, 0.5, 0.0, 2.0)
    assert epoch_line(record, 10) == "epoch 1/10 image: loss 0.500, gate 0.00, 2 s"
    validated = replace(record, validation={"nll": 0.25, "auc": 0.9})
    assert epoch_line(validated, 10).endswith("2 s; validation nll 0.250, auc 0.900")


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def test_an_ablation_has_the_arm_and_its_branches_have_not_seen_what_the_fusion_is_fitted_on(
    images: Path, tmp_path: Path
):
    folds = {"k": 3, "training_seeds": [0]}
    path = _written(images, tmp_path, folds=folds, fusion={"epochs": 3, "batch": 16, "views": 1}, rivals=[])
    config, out = read_config(path, AblationConfig), tmp_path / "out"
    run_ablation(config, out)
    data, splits = load_patches(out)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        with np.load(out / Pair(0, first, second).file) as found:
            held = np.concatenate([splits[fold]["test"] for fold in (first, second)])
            assert set(found["rows"]) == set(held)
    with np.load(out / "predictions/seed0_fold0.npz") as found:
        names = {key.removeprefix("probs/") for key in found.files if key.startswith("probs/")}
    expected = {f"PRMF robust|{way} captions" for way in ("measured", "no", "shuffled")}
    assert expected <= names
    assert "PRMF robust, first revision|measured captions" in names
    model = load_model(out / "models" / "fold0")
    outputs = branch_outputs(model, data.select(splits[0]["test"]))
    assert outputs.image.shape == (len(splits[0]["test"]), 2)


def test_settings_of_the_text_branch_are_given_once(images: Path, tmp_path: Path):
    path = _written(images, tmp_path, text_training={"epochs": 1}, fusion={"epochs": 3})
    with pytest.raises(RequestError, match="either text_training, or cross_fit"):
        read_config(path, AblationConfig)


def test_a_published_block_is_not_cross_fitted(images: Path, tmp_path: Path):
    path = _written(images, tmp_path, prmf={"d": 16, "mode": "paper"})
    with pytest.raises(RequestError, match="cross_fit: fits the robust fusion"):
        read_config(path, TrainConfig)


def test_a_field_without_places_is_refused_by_name(images: Path, tmp_path: Path):
    with open(images / "t.csv") as file:
        rows = [row[:3] for row in csv.reader(file)]
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    data = SETTINGS["data"] | {"table": {"images": str(images), "csv": str(tmp_path / "t.csv")}}
    path = _written(images, tmp_path, data=data)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(path), "-o", str(tmp_path / "out"), "--device", "cpu"])
    assert ended.value.code == 2
    assert not (tmp_path / "out" / "model").exists()
