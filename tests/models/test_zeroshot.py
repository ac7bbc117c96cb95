"""Classes by words as a patch model: description, predictions, fingerprint, whole runs, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import wsikit
from wsikit.errors import ModelError
from wsikit.models.zeroshot import class_prompts, read_zeroshot
from wsikit.slides.store import SlideStore

CONFIG: dict[str, Any] = {
    "encoder": "colours",
    "classes": {
        "cells": {"prompts": ["round blue cells"], "name": "Cells", "color": "#123456"},
        "pil": {"concept": "neuropil"},
        "glass": {"prompts": ["bare glass"], "background": True},
    },
}


def write(folder: Path, **changes: Any) -> str:
    path = folder / "tissues.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}, sort_keys=False))
    return f"zeroshot:{path}"


def test_a_description_loads_no_encoder(tmp_path: Path, named_encoder: Any) -> None:
    info = wsikit.describe_model(write(tmp_path))
    assert (info.name, info.architecture, info.patch_px, info.mpp) == ("tissues", "zeroshot", 32, 0.5)
    assert info.classes == ("cells", "pil", "glass")
    assert info.class_names == ("Cells", "Neuropil", "glass")
    assert info.colors == ("#123456", "#f0e442", "#8c8c8c")
    assert info.background == ("glass",)
    assert "not trained on labels" in info.notice
    assert named_encoder.loads == 0


def test_probabilities_are_the_softmax_of_cosines_at_the_temperature(tmp_path: Path, named_encoder: Any) -> None:
    colours = list(named_encoder.COLOURS.values())
    images = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])
    features = named_encoder.encode_shared(images)
    texts = np.eye(named_encoder.info.width)[[1, 0, 2]]  # blue; pink, as all its synonyms have; white
    neuropil = named_encoder.encode_texts([f"{text}" for text in ("neuropil",)])
    np.testing.assert_allclose(neuropil[0], texts[1])
    for temperature in (None, 0.5):
        model = wsikit.load_model(write(tmp_path, temperature=temperature, templates=["{}"]))
        found = model.predict(images=images)["probability"]
        logits = np.array([[f @ t for t in texts] for f in features]) / (temperature or 1 / named_encoder.logit_scale)
        np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)
        np.testing.assert_allclose(model.predict(images=images[2:3])["probability"], found[2:3], atol=1e-6)
        assert model.predict(images=images[:0])["probability"].shape == (0, 3)


def test_texts_are_encoded_once(tmp_path: Path, named_encoder: Any) -> None:
    model = wsikit.load_model(write(tmp_path))
    n_texts = len(named_encoder.texts)
    assert n_texts == len(
        {text for one in class_prompts(read_zeroshot(tmp_path / "tissues.yaml"), tmp_path) for text in one.prompts}
    )
    for _ in range(2):
        model.predict(images=np.zeros((3, 32, 32, 3), np.uint8))
    assert len(named_encoder.texts) == n_texts


def test_the_fingerprint_is_of_all_that_changes_predictions(tmp_path: Path, named_encoder: Any) -> None:
    before = wsikit.describe_model(write(tmp_path)).fingerprint
    assert wsikit.describe_model(write(tmp_path, name="other", notice="x")).fingerprint == before
    classes = {**CONFIG["classes"], "cells": {"prompts": ["neuroblasts"], "name": "Cells", "color": "#123456"}}
    changes: list[dict[str, Any]] = [{"temperature": 1.0}, {"templates": ["{}"]}, {"mpp": 1.0}, {"classes": classes}]
    found = {wsikit.describe_model(write(tmp_path, **change)).fingerprint for change in changes}
    named_encoder.info = type(named_encoder)("colours", notice="new").info
    object.__setattr__(named_encoder.info, "fingerprint", "other weights")
    found.add(wsikit.describe_model(write(tmp_path)).fingerprint)
    assert len({before, *found}) == len(changes) + 2


def test_predict_and_vote_on_the_planted_square(square_store: SlideStore, tmp_path: Path, named_encoder: Any) -> None:
    table = wsikit.predict(square_store, model=write(tmp_path))
    blue = table.read("probability")[:, 0] > 0.5
    centres = table.coords + 16
    truth = ((centres > (288, 352)) & (centres < (288 + 384, 352 + 384))).all(axis=1)
    assert np.array_equal(blue, truth)
    result = wsikit.vote(square_store)
    assert result.probs.argmax() == 1
    wsikit.export(square_store, "png", tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_a_whole_run_and_a_second_one_that_loads_nothing(
    square_slide: Path, tmp_path: Path, named_encoder: Any
) -> None:
    model = write(tmp_path)
    for loads in (1, 1):
        assert wsikit.run(square_slide, tmp_path / "out", model=model, device="cpu").exit_status == 0
        assert named_encoder.loads == loads
    with open(tmp_path / "out" / "slides.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["subtype"]) == ("done", "pil")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": {"a": ["x"]}}, "two or more"),
        ({"classes": {"a": ["x"], "b": {"concept": "cartilage"}}}, "no concept 'cartilage'"),
        ({"classes": {"a": ["x"], "b": {}}}, "no prompts"),
        ({"classes": {"a": ["x"], "b": ["no x"]}}, "negated"),
        ({"classes": {"a": ["x"], "b": [" "]}}, "empty"),
        ({"classes": {"a": ["x"], "b": ["x"]}}, "equal prompts"),
        ({"classes": {"a": {"prompts": ["x"], "color": "red"}, "b": ["y"]}}, "color"),
        (
            {"classes": {"a": {"prompts": ["x"], "background": True}, "b": {"prompts": ["y"], "background": True}}},
            "vote",
        ),
        ({"temperature": 0}, "temperature"),
        ({"templates": ["no place"]}, "template"),
        ({"encodr": "colours"}, "encodr"),
        ({"encoder": "missing"}, "missing"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(
    tmp_path: Path, named_encoder: Any, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        wsikit.describe_model(write(tmp_path, **changes))


def test_files_that_are_no_configuration_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.yaml: no such file"):
        wsikit.describe_model(f"zeroshot:{tmp_path}/none.yaml")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ModelError, match=r"a.json: neither"):
        wsikit.describe_model(f"zeroshot:{tmp_path}/a.json")
    (tmp_path / "cut.yaml").write_text("classes: [")
    with pytest.raises(ModelError, match=r"cut.yaml: neither") as caught:
        wsikit.describe_model(f"zeroshot:{tmp_path}/cut.yaml")
    assert "\n" not in str(caught.value)


def test_a_file_of_classes_without_its_prefix_is_named_with_it(tmp_path: Path) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text("classes: {}")
    with pytest.raises(ModelError, match="zeroshot:.*classes.yaml"):
        wsikit.load_model(str(file))


def test_json_is_read_as_yaml_is(tmp_path: Path, named_encoder: Any) -> None:
    yaml_print = wsikit.describe_model(write(tmp_path)).fingerprint
    (tmp_path / "tissues.json").write_text(json.dumps(CONFIG))
    assert wsikit.describe_model(f"zeroshot:{tmp_path}/tissues.json").fingerprint == yaml_print


def test_the_example_configuration_is_valid() -> None:
    path = Path(__file__).parents[2] / "pipelines" / "configs" / "zeroshot_tissues.yaml"
    config = read_zeroshot(path)
    assert len(class_prompts(config, path)) == len(config.classes)
