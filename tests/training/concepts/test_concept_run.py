"""`wsikit train` with `architecture: concepts`, and `wsikit evaluate` of its model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.training.concepts.conftest import AXES, CLASSES, World
from wsikit.cli.main import main
from wsikit.errors import RequestError
from wsikit.models.concept_criteria import read_criteria
from wsikit.models.registry import describe_model, load_patch_model
from wsikit.training.concepts.config import ConceptTrainConfig
from wsikit.training.concepts.data import load_concept_data
from wsikit.training.concepts.run import ALL_SET, ON_INPUTS, ORACLE, WAY, run_concept_training
from wsikit.training.heads.config import read_training_config

Settings = Callable[..., ConceptTrainConfig]


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def concepts_of(**changes: Any) -> dict[str, Any]:
    return {"scores": "learned", "labels": {"source": "table"}, "axes": list(AXES)} | changes


def test_from_a_table_to_a_model_that_is_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "concepts.yaml"
    record = {
        "architecture": "concepts",
        "name": "toy",
        "data": {"table": {"images": str(folder)}, "mpp": 0.5, "patch_px": 8},
        "classes": [{"code": code, "background": code == "other"} for code in CLASSES],
        "image": {"features": "planted", "file": str(tmp_path / "features.npz")},
        "split": {"validation": 0.2, "test": 0.3},
        "concepts": concepts_of(),
    }
    config.write_text(yaml.safe_dump(record))
    assert call("train", config, "-o", tmp_path / "out", "--threads", 1) == 0
    shown = capsys.readouterr().out
    assert "agreement within the classes" in shown
    assert "balanced accuracy with concepts set to the truth" in shown
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    test = metrics["test"]
    assert {WAY, ALL_SET, ORACLE, ON_INPUTS, "floor: majority class", "floor: colour histogram"} == set(test)
    through, by_hand, oracle = (test[way]["patch"]["balanced_accuracy"]["value"] for way in (WAY, ALL_SET, ORACLE))
    assert through <= by_hand
    assert by_hand >= oracle - 0.02
    assert [len(step["set"]) for step in metrics["interventions"]] == [0, 1, 2, 3]
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "a table with one column per axis, independent of the class" in card
    assert "| neuropil = absent |" in card
    assert str(tmp_path) not in card + (tmp_path / "out" / "model" / "metrics.json").read_text()
    info = describe_model(tmp_path / "out" / "model")
    assert info.inputs == ("features:planted",)
    assert [axis.name for axis in info.axes] == list(AXES)
    # the same patches, as the test part of the split: the same figures
    arguments = ["--split", tmp_path / "out" / "splits.json", "-o", tmp_path / "again"]
    assert call("evaluate", tmp_path / "out" / "model", *arguments) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["results"][WAY]["patch"]["auc"] == test[WAY]["patch"]["auc"]
    assert again["concepts"] == metrics["concepts"]
    assert again["patients_seen_in_training"] == 0
    assert call("evaluate", tmp_path / "out" / "model", "-o", tmp_path / "seen") == 2


def test_labels_copied_from_the_class_are_stated_in_the_card(settings: Settings, tmp_path: Path) -> None:
    of_class = {"UD": {"neuropil": "absent"}, "PD": {"neuropil": "scant"}, "D": {"neuropil": "moderate"}}
    labels = {"source": "class", "of_class": of_class}
    metrics = run_concept_training(settings(concepts=concepts_of(labels=labels)), tmp_path / "out")
    assert "COPIED FROM THE CLASS" in (tmp_path / "out" / "model" / "README.md").read_text()
    neuropil = metrics["concepts"]["neuropil"]
    assert neuropil["within_class"]["value"] is None  # what is copied cannot be checked against itself
    assert metrics["concepts"]["necrosis"]["patches"] == 0


def test_attention_over_the_one_token_of_stored_features(settings: Settings, tmp_path: Path, world: World) -> None:
    attends = {"anchors": "lexicon", "width": 16, "heads": 2, "epochs": 8, "lr": 3e-3}
    config = settings(concepts=concepts_of(mode="attend", scores="attention", attend=attends))
    metrics = run_concept_training(config, tmp_path / "out")
    assert metrics["test"][WAY]["patch"]["balanced_accuracy"]["value"] > 0.5  # at chance: 0.25
    model = load_patch_model(tmp_path / "out" / "model")
    found = model.predict(features=world.features[:4])
    assert found["concept_neuropil"].shape == (4, 4)
    np.testing.assert_allclose(found["concept_neuropil"].sum(axis=1), 1, atol=1e-5)


def test_equal_runs_give_equal_models(settings: Settings, tmp_path: Path) -> None:
    config = settings(concepts=concepts_of(linear={"l1": 0.01}))
    for name in ("a", "b"):
        run_concept_training(config, tmp_path / name)
    assert describe_model(tmp_path / "a" / "model").fingerprint == describe_model(tmp_path / "b" / "model").fingerprint


def test_a_wrong_option_in_the_table_is_named_with_its_line(settings: Settings, folder: Path) -> None:
    with open(folder / "patches.csv", newline="") as file:
        rows = list(csv.reader(file))
    rows[3][3] = "plenty"
    with open(folder / "patches.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(RequestError, match="line 4: 'plenty' in column 'neuropil'; expected absent, scant, moderate"):
        load_concept_data(settings(), read_criteria("inpc").only(AXES))
    rows[3][3] = ""
    with open(folder / "patches.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert load_concept_data(settings(), read_criteria("inpc").only(AXES)).concepts[2, 0] == -1


def test_labels_from_captions_are_the_grades_that_they_state(settings: Settings, folder: Path) -> None:
    with open(folder / "patches.csv", newline="") as file:
        rows = list(csv.reader(file))
    rows = [[*rows[0], "description"], *([*row, "Abundant fibrillary matrix (neuropil-like)."] for row in rows[1:])]
    with open(folder / "patches.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    config = settings(concepts=concepts_of(labels={"source": "captions"}))
    found = load_concept_data(config, read_criteria("inpc").only(AXES)).concepts
    assert (found[:, 0] == 3).all()
    assert (found[:, 1] == -1).all()  # not stated


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None, "concepts": concepts_of()}, "need image"),
        ({"concepts": concepts_of(scores="facts")}, "leave image out"),
        ({"concepts": concepts_of(mode="attend", scores="learned")}, "mode attend goes with scores attention"),
        ({"concepts": concepts_of(labels={"source": "class"})}, "of_class"),
        ({"concepts": concepts_of(labels={"source": "class", "of_class": {"X": {}}})}, "X is no class"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: Settings, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_axes_that_do_not_exist_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no rosettes in criteria inpc"):
        run_concept_training(settings(concepts=concepts_of(axes=["rosettes"])), tmp_path / "out")


def test_the_packaged_configuration_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WSIKIT_PATCHES", str(tmp_path))
    path = Path(__file__).parents[3] / "pipelines" / "configs" / "concepts_phantom.yaml"
    config = read_training_config(path)
    assert isinstance(config, ConceptTrainConfig)
    assert config.concepts.layer.fit_on == "truth"
