"""`wsikit train` with `architecture: afloc`: a tiny model learns which colour a word means, and resumes exactly."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from wsikit.cli.main import main
from wsikit.encoders.prompts import is_negated
from wsikit.encoders.registry import load_encoder
from wsikit.errors import RequestError
from wsikit.models.afloc_losses import published_loss
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.afloc.learner import Learner, report_of
from wsikit.training.afloc.run import AflocCallbacks, afloc_patches, build_afloc, run_afloc_training
from wsikit.training.afloc.statements import names_of, statements_of
from wsikit.training.afloc.trainer import neighbours_of
from wsikit.training.data import PatchSet
from wsikit.training.task import read_config

COLOURS = {"Necrosis; blood absent.": (220, 60, 60), "Fat; no necrosis.": (60, 60, 220)}


def write_data(folder: Path) -> Path:
    """48 noisy red or blue patches of 12 slides, with captions and no classes."""
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with open(images / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "description", "slide", "x", "y"])
        for n in range(48):
            caption = list(COLOURS)[n % 2]
            pixels = np.clip(np.array(COLOURS[caption]) + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(images / f"{n}.png")
            table.writerow([f"{n}.png", caption, f"slide-{n // 4}", n % 2 * 32, n // 2 * 32])
    return images


def settings(**training: Any) -> dict[str, Any]:
    return {
        "architecture": "afloc", "name": "tiny-afloc",
        "data": {"table": {"images": "images"}, "mpp": 0.5, "patch_px": 32, "group": "slide"},
        "split": {"validation": 0.25, "test": 0.25},
        "image": {"name": "resnet10t", "options": {"channels": [4, 8, 8, 16], "stem_width": 4}},
        "text": {
            "model_type": "bert", "vocabulary": 80, "max_tokens": 32,
            "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                        "hidden_dropout_prob": 0.0},
        },
        "training": {
            "epochs": 2, "batch": 8, "width": 8, "texts": 12, "word_texts": 4,
            "lr": {"image": 0.01, "text": 0.01, "heads": 0.01}, **training,
        },
    }  # fmt: skip


def config_of(folder: Path, **training: Any) -> AflocTrainConfig:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings(**training)))
    return read_config(path, AflocTrainConfig)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path)
    return tmp_path


def test_the_verb_trains_an_encoder_that_finds_the_named_tissue(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = data / "config.yaml"
    config.write_text(yaml.safe_dump(settings(epochs=20)))
    with pytest.raises(SystemExit) as ended:
        main(["train", str(config), "-o", str(data / "out"), "--device", "cpu"])
    assert ended.value.code == 0
    metrics = json.loads((data / "out" / "metrics.json").read_text())
    assert metrics["test"]["terms"]["fat"]["auroc"] > 0.9
    assert "fat" in capsys.readouterr().out
    assert not (data / "out" / "checkpoints").exists()
    encoder: Any = load_encoder(data / "out" / "model", device="cpu")
    patches = np.stack([np.asarray(Image.open(data / "images" / f"{n}.png")) for n in range(8)])
    scores = encoder.encode_shared(patches) @ encoder.encode_texts(["necrosis", "fat"]).T
    assert scores[::2, 0].min() > scores[1::2, 0].max()  # red ones
    assert scores[1::2, 1].min() > scores[::2, 1].max()
    card = (data / "out" / "model" / "README.md").read_text()
    assert "No labels" in card
    assert str(data) not in card + (data / "out" / "model" / "metrics.json").read_text()


class StopError(Exception):
    pass


def test_a_stopped_run_resumes_to_the_same_weights(data: Path) -> None:
    config = config_of(data, queue=16, bag=2)
    run_afloc_training(config, data / "whole", device="cpu")

    def stop(record: Any) -> None:
        if record.epoch == 1:
            raise StopError

    with pytest.raises(StopError):
        run_afloc_training(config, data / "parts", device="cpu", callbacks=AflocCallbacks(epoch=stop))
    with pytest.raises(RequestError, match="unfinished run"):
        run_afloc_training(config, data / "parts", device="cpu")
    run_afloc_training(config, data / "parts", device="cpu", resume=True)
    weights = [(data / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def learner_of(folder: Path, **training: Any) -> tuple[Learner, PatchSet]:
    config = config_of(folder, **training)
    prepared, patches = afloc_patches(config, AflocCallbacks())
    statements = statements_of(patches.captions)
    model = build_afloc(config, statements, mpp=prepared.mpp)
    bags = neighbours_of(patches, config.training.bag)
    return Learner(model, patches, statements, config.training, bags), patches


def test_frozen_parts_do_not_change_and_stay_in_eval_mode(data: Path) -> None:
    learner, _ = learner_of(data, lr={"image": 0.0, "text": 0.01, "heads": 0.01})
    learner.train()
    assert not learner.model.image.training
    before = [buffer.clone() for buffer in learner.model.image.buffers()]
    learner(torch.arange(8))["loss"].backward()
    assert all(parameter.grad is None for parameter in learner.model.image.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.image.buffers()))
    partly, _ = learner_of(data, freeze=["conv1", "layer1"])
    partly.train()
    partly(torch.arange(8))["loss"].backward()
    body: Any = partly.model.image.body
    assert body.layer1[0].conv1.weight.grad is None
    assert body.layer3[0].conv1.weight.grad is not None


def test_a_frozen_part_that_does_not_exist_is_refused(data: Path) -> None:
    with pytest.raises(RequestError, match="layer9"):
        learner_of(data, freeze=["layer9"])


@pytest.mark.parametrize("training", [{}, {"published": True}, {"bag": 4, "sentence": "region"}, {"queue": 32}])
def test_every_level_gives_a_finite_loss_with_gradients(data: Path, training: dict[str, Any]) -> None:
    learner, _ = learner_of(data, **training)
    learner.train()
    for rows in (torch.arange(8), torch.arange(8, 16)):
        loss = learner(rows)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(learner.sums[level] > 0 for level in ("word", "sentence", "report"))
    if training.get("queue"):
        assert len(learner.queue) == 16


def test_draws_depend_on_seed_and_epoch_and_reach_the_whole_caption(data: Path) -> None:
    learner, _ = learner_of(data, joined=1.0)
    rows = np.arange(4)
    texts, holds = learner.draw(12, rows, np.random.default_rng(1))
    assert texts == learner.draw(12, rows, np.random.default_rng(1))[0]
    assert texts != learner.draw(12, rows, np.random.default_rng(2))[0]
    assert len(set(texts)) == len(texts)
    for text, column in zip(texts, holds.T):
        if ". " in text:  # true of a patch only if both parts are
            both = [learner._statements.texts.index(part) for part in text.split(". ", 1)]
            assert column.tolist() == learner._statements.holds[:, both].all(axis=1).tolist()


def test_bags_are_neighbours_of_one_slide() -> None:
    coords = np.array([[0, 0], [1, 0], [9, 0], [0, 0]], float)
    slides = np.array(["a", "a", "a", "b"])
    patches = PatchSet(np.zeros((4, 2, 2, 3), np.uint8), np.zeros(4, int), slides, ("",) * 4, coords=coords)
    assert neighbours_of(patches, 2).tolist() == [[0, 1], [1, 0], [2, 1], [3, 3]]
    assert neighbours_of(patches, 1).tolist() == [[0], [1], [2], [3]]


def test_the_report_of_a_bag_names_equal_captions_once() -> None:
    assert report_of(["Fat.", "Necrosis.", "Fat.", " "]) == "Fat. Necrosis."


def test_configurations_that_leave_nothing_to_learn_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for change, fault in (
        ({"captions": {"source": "none"}}, "nothing to learn"),
        ({"training": settings()["training"] | {"weights": {"word": 0}}}, "nothing would be learnt"),
        ({"training": settings()["training"] | {"lr": {"image": 1.0}}}, "a rate of 0 or more for each"),
        ({"prmf": {"d": 8}}, "prmf"),
    ):
        path.write_text(yaml.safe_dump(settings() | change))
        with pytest.raises(RequestError, match=fault):
            read_config(path, AflocTrainConfig)


def test_patches_without_any_caption_are_refused(data: Path) -> None:
    table = (data / "images" / "patches.csv").read_text().splitlines()
    rows = [line.split(",") for line in table]
    (data / "images" / "patches.csv").write_text(
        "\n".join(",".join([r[0], *([""] if n else [r[1]]), *r[2:]]) for n, r in enumerate(rows))
    )
    with pytest.raises(RequestError, match="none of the 48 patches has one"):
        run_afloc_training(config_of(data), data / "out", device="cpu")


def test_the_published_loss_of_a_perfect_batch_is_near_zero() -> None:
    assert float(published_loss(torch.eye(6), 20.0)) < 1e-6


def test_presence_is_the_cross_entropy_of_a_phrase_against_its_denial(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, patches = learner_of(data, weights={"presence": 1.0})
    terms = learner._statements.terms
    sign = torch.from_numpy(2 * learner._statements.named - 1)  # (N, T): 1 where the caption names the term

    def sentences(texts: list[str]) -> torch.Tensor:
        rows = torch.zeros(len(texts), len(terms))
        for row, text in enumerate(texts):
            (term,) = (n for n, term in enumerate(terms) if any(name in text for name in names_of(term)))
            rows[row, term] = -1.0 if is_negated(text) else 1.0
        return rows

    monkeypatch.setattr(learner.model, "sentences", sentences)
    monkeypatch.setattr(learner.model.heads, "of_patch", torch.nn.Identity())
    rows = np.arange(len(patches))
    scale = float(learner.model.heads.temperature("sentence").detach())
    for features, cosine in ((sign, 1.0), (-sign, -1.0)):
        loss = learner._presence(features, rows, np.random.default_rng(0))
        expected = math.log1p(math.exp(-2 * scale * cosine / math.sqrt(len(terms))))
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    learner._statements.named[:] = np.nan
    assert float(learner._presence(sign, rows, np.random.default_rng(0)).detach()) == 0.0
