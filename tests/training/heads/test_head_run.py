"""`wsikit train` with a head, from images and from stores, and what uses its model: evaluate, predict, run, vote."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from PIL import Image

import wsikit
from tests.training.heads.conftest import MeanColour, Store, Trained, write_features
from wsikit.cli.main import main
from wsikit.errors import ModelError, RequestError
from wsikit.models.model_folder import EncoderRecord, joined_notice
from wsikit.models.registry import describe_model, load_patch_model
from wsikit.training.config import TrainConfig
from wsikit.training.heads.config import FeatureInput, HeadTrainConfig, read_training_config
from wsikit.training.heads.run import HeadCallbacks, run_head_evaluation, run_head_training
from wsikit.training.report import Units, figures_of
from wsikit.training.task import StoresSource

Settings = Callable[..., HeadTrainConfig]


def no_encoder(name: str) -> Any:
    raise AssertionError(f"{name}: features are there already")


def train(config: HeadTrainConfig, out: Path, **options: Any) -> dict[str, Any]:
    return run_head_training(config, out, **({"load": lambda name: MeanColour()} | options))


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("head", ["linear", "mlp", "knn"])
def test_from_images_to_a_model_folder(settings: Settings, tmp_path: Path, head: str) -> None:
    metrics = train(settings(head=head, ordered=True), tmp_path / "out")
    test = metrics["test"]
    assert set(test) == {"head", "head, uncalibrated", "floor: majority class", "floor: colour histogram"}
    assert test["head"]["patch"]["balanced_accuracy"]["value"] == 1.0
    assert test["head"]["patient"]["kappa"]["value"] == 1.0
    assert test["floor: majority class"]["patch"]["auc"]["value"] == 0.5
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert test["head"]["patch"]["n"] == splits["folds"][0]["test"]["n"]
    assert test["head"]["patch"]["auc"]["low"] is not None
    info = describe_model(tmp_path / "out" / "model")
    assert (info.architecture, info.inputs, info.classes) == ("head", ("features:mean-colour",), ("UD", "PD", "D"))
    assert (info.features[0].width, info.features[0].fingerprint) == (12, "f00d")
    model = load_patch_model(tmp_path / "out" / "model")
    assert model.info == info
    colours = np.array([[90, 40, 130] * 4, [220, 170, 200] * 4]) / 255
    assert model.predict(features=colours)["probability"].argmax(axis=1).tolist() == [0, 2]
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "CC0-1.0" in card
    assert str(tmp_path) not in (tmp_path / "out" / "model" / "metrics.json").read_text()
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        "roc.png",
        "reliability.png",
        "confusion.png",
    }


def test_equal_runs_give_equal_models(settings: Settings, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(settings(head="mlp"), tmp_path / name)
    assert describe_model(tmp_path / "a" / "model").fingerprint == describe_model(tmp_path / "b" / "model").fingerprint


def test_labels_at_random_are_at_chance(settings: Settings, images: Path, tmp_path: Path) -> None:
    with open(images / "t.csv", newline="") as file:
        rows = list(csv.reader(file))
    labels = np.random.default_rng(1).permutation([row[1] for row in rows[1:]])
    with open(images / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([a, label, *c] for (a, _, *c), label in zip(rows[1:], labels))])
    auc = train(settings(), tmp_path / "out")["test"]["head"]["patch"]["auc"]
    assert auc["low"] < 0.5 < auc["high"]


def test_features_that_were_computed_are_used_again(settings: Settings, images: Path, tmp_path: Path) -> None:
    train(settings(), tmp_path / "out")
    made = tmp_path / "out" / "features.npz"
    again = train(settings(image={"features": "mean-colour", "file": str(made)}), tmp_path / "a", load=no_encoder)
    assert describe_model(tmp_path / "a" / "model").features[0].fingerprint == "f00d"
    with np.load(made) as saved, h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"], file["ids"] = saved["features"][::-1], saved["ids"][::-1].tolist()
    other = train(
        settings(image={"features": "mean-colour", "file": str(tmp_path / "f.h5")}), tmp_path / "b", load=no_encoder
    )
    assert other["test"]["head"] == again["test"]["head"]
    assert other["encoder"]["fingerprint"] == ""
    (images / "new.png").write_bytes((images / "0_0.png").read_bytes())
    with open(images / "t.csv", "a", newline="") as file:
        csv.writer(file).writerow(["new.png", "UD", "p0", "p0-s0"])
    with pytest.raises(RequestError, match=r"no features of new.png \(1 of 91 images\)"):
        train(settings(image={"features": "mean-colour", "file": str(made)}), tmp_path / "c")


def test_an_interrupted_run_uses_its_split_and_its_features_again(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = train(settings(), out)
    shutil.rmtree(out / "model")
    with pytest.raises(RequestError, match="Resume it"):
        train(settings(), out)
    resumed = train(settings(split={"seed": 9, "validation": 0.2, "test": 0.2}), out, resume=True, load=no_encoder)
    assert resumed["split"]["test"]["sha256"] == whole["split"]["test"]["sha256"]
    assert resumed["test"]["head"] == whole["test"]["head"]


def test_patches_without_finite_features_are_left_out_and_counted(
    settings: Settings, images: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(images / "3_2.png")
    said: list[str] = []
    metrics = train(settings(), tmp_path / "out", callbacks=HeadCallbacks(message=said.append))
    assert "90 images of 32 px at 0.5 µm/px; 12 features each, of mean-colour; 1 left out" in said[0]
    assert sum(metrics["split"][part]["n"] for part in ("train", "validation", "test")) == 89


def test_evaluation_is_that_of_the_training_and_refuses_seen_patients_and_other_features(
    settings: Settings, tmp_path: Path
) -> None:
    metrics = train(settings(), tmp_path / "out")
    folder = tmp_path / "out" / "model"
    model, config = load_patch_model(folder), settings()

    def evaluate(out: str, **options: Any) -> dict[str, Any]:
        options = {"load": lambda name: MeanColour(), "folder": folder} | options
        return run_head_evaluation(model, config, tmp_path / out, **options)

    found = evaluate("ev", split_file=tmp_path / "out" / "splits.json")
    assert found["results"]["head"] == metrics["test"]["head"]
    with pytest.raises(RequestError, match="was trained or selected on 24 of these patients"):
        evaluate("all")
    assert evaluate("all", allow_seen=True)["patients_seen_in_training"] == 24
    with pytest.raises(RequestError, match=r"trained on features of mean-colour .* f00d\), these are of .* beef"):
        evaluate("other", load=lambda name: MeanColour("beef"))


def test_from_stores_to_predictions_votes_and_maps(trained: Trained, make_store: Store, tmp_path: Path) -> None:
    metrics = json.loads((trained.out / "metrics.json").read_text())
    assert metrics["test"]["head"]["patch"]["balanced_accuracy"]["value"] == 1.0
    assert metrics["test"]["floor: colour histogram"]["patch"]["auc"]["value"] < 0.9  # the disc is alike on both sides
    assert not (trained.out / "features.npz").exists()
    store = make_store(tmp_path / "new.zarr", seed=9)
    with wsikit.open_slide(store) as opened:
        write_features(opened.patches(), seed=9, lost=(3,))
    assert call("predict", store, "--model", trained.out / "model") == 0
    found = wsikit.open_slide(store).patches()
    probs = found.read("probability")
    assert np.isnan(probs[3]).all()
    right = found.coords[:, 0] + 32 > 700
    assert (probs.argmax(axis=1) == right)[np.arange(len(probs)) != 3].all()
    assert call("vote", store) == 0
    assert call("export", store, "--to", "png", "-o", tmp_path / "map.png") == 0
    assert (tmp_path / "map.png").is_file()


def test_without_the_colour_floor_no_pixels_are_read(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("pixels are read")

    monkeypatch.setattr("wsikit.training.datasets.stores.read_patches", fail)
    metrics = train(trained.config.model_copy(update={"colour_floor": False}), tmp_path / "out")
    assert set(metrics["test"]) == {"head", "head, uncalibrated", "floor: majority class"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "beef"}, "of an encoder with the fingerprint beef, model toy was trained on features of f00d"),
        ({"width": 11}, "has 11 numbers per patch, model toy was trained on 12"),
    ],
)
def test_features_of_another_encoder_are_refused(
    trained: Trained, make_store: Store, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    store = make_store(tmp_path / "new.zarr", **changes)
    with pytest.raises(ModelError, match=said) as refused:
        wsikit.predict(store, model=trained.out / "model")
    assert "\n" not in str(refused.value)
    manifest = tmp_path / "slides.csv"
    regions = trained.manifest.parent / "r.geojson"
    manifest.write_text(trained.manifest.read_text().replace("r.geojson", str(regions)) + f"{store},{regions},p9\n")
    data = trained.config.data.model_copy(update={"stores": StoresSource(manifest=str(manifest))})
    with pytest.raises(RequestError, match="Compute the features of all stores with one encoder"):
        train(trained.config.model_copy(update={"data": data}), tmp_path / "again")


def test_a_missing_column_is_refused_with_the_command_that_computes_it(
    trained: Trained, tiled: Path, tmp_path: Path
) -> None:
    command = "wsikit features .*disc.zarr --encoder mean-colour"
    with pytest.raises(ModelError, match=f"column features_mean-colour, which is missing or incomplete. .*{command}"):
        wsikit.predict(tiled, model=trained.out / "model")
    other = trained.config.model_copy(update={"image": FeatureInput(features="other")})
    with pytest.raises(RequestError, match="no complete column features_other. .*there: mean-colour"):
        train(other, tmp_path / "other")


def test_features_without_a_fingerprint_are_used_with_a_warning(
    trained: Trained, make_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="wsikit"):
        wsikit.predict(make_store(tmp_path / "new.zarr", fingerprint=None), model=trained.out / "model")
    assert "fingerprint is not recorded with the column" in caplog.text


def test_prediction_imports_neither_torch_nor_scikit_learn(trained: Trained, make_store: Store, tmp_path: Path) -> None:
    code = (
        "import sys; from wsikit.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print([name for name in ('torch', 'sklearn', 'scipy', 'timm', 'transformers') if name in sys.modules])"
    )
    command = ["predict", make_store(tmp_path / "new.zarr"), "--model", trained.out / "model"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_stain_normalisation_is_refused_where_no_pixels_are_read(
    trained: Trained, make_store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"stain normalisation \(macenko\) would have no effect"):
        wsikit.predict(make_store(tmp_path / "new.zarr"), model=trained.out / "model", stain="macenko")


@pytest.mark.parametrize("name", ["model.safetensors", "novelty.safetensors"])
def test_a_damaged_head_is_refused_when_it_is_described(trained: Trained, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(trained.out / "model", tmp_path / "model")
    (folder / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(ModelError, match=f"{name}: damaged"):
        describe_model(folder)


def test_the_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    (example,) = (part for part in re.findall(r"```yaml\n(.*?)```", page, flags=re.S) if "head:" in part)
    (tmp_path / "c.yaml").write_text(example, encoding="utf-8")
    assert isinstance(read_training_config(tmp_path / "c.yaml"), HeadTrainConfig)


def test_the_section_head_decides_what_is_trained(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    record = settings().model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(record | {"head": "knn"}))
    config = read_training_config(path)
    assert isinstance(config, HeadTrainConfig)
    assert config.head.kind == "knn"
    del record["head"]
    path.write_text(yaml.safe_dump(record))
    with pytest.raises(RequestError, match="no head to train on them. Add head: linear"):
        read_training_config(path)
    for wrong, said in (
        ("forest", "does not match any of the expected tags"),
        ({"kind": "knn", "k": [0]}, "each 1 or more"),
        (
            {"kind": "linear", "hidden": 3},
            "head.linear.hidden: no such setting; there are class_weights, folds, kind, l2, most",
        ),
    ):
        path.write_text(yaml.safe_dump(record | {"head": wrong}))
        with pytest.raises(RequestError, match=said):
            read_training_config(path)


def test_a_class_without_patches_is_refused(settings: Settings, tmp_path: Path) -> None:
    classes = [{"code": code} for code in ("UD", "PD", "D", "other")]
    with pytest.raises(RequestError, match="no patch of class other"):
        train(settings(classes=classes), tmp_path / "out")


def test_one_patient_in_the_test_part_gives_no_interval_rather_than_one_without_width() -> None:
    truth, probs = np.arange(20) % 2, np.random.default_rng(0).dirichlet([2, 2], 20)
    one, two = (
        figures_of(Units(truth, probs, np.arange(20) % n), ("a", "b"), 0, seed=0)["balanced_accuracy"] for n in (1, 2)
    )
    assert (one["low"], one["high"]) == (None, None)
    assert two["low"] < one["value"] == two["value"]


def test_the_notice_of_the_encoder_is_said_to_be_that_of_the_encoder() -> None:
    encoder = EncoderRecord(name="toy", width=8, notice="Made of synthetic tissue.")
    assert joined_notice("Research only.", encoder) == "Research only. Its encoder toy: Made of synthetic tissue."
    assert joined_notice("Research only.", EncoderRecord(name="toy", width=8)) == "Research only."


def test_the_shipped_configuration_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIKIT_DATA", "somewhere")
    config = read_training_config(Path(__file__).parents[3] / "pipelines" / "configs" / "train_head.yaml")
    assert isinstance(config, HeadTrainConfig)
    assert config.codes == ("benign", "IDC")
    assert not isinstance(config, TrainConfig)


def test_the_command_line_trains_and_evaluates(settings: Settings, tmp_path: Path) -> None:
    """With a timm model whose weights are random, from a fixed seed."""
    record = settings(image={"features": "random:lcnet_035"}).model_dump(mode="json", exclude_unset=True)
    path, out = tmp_path / "c.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(record))
    assert call("train", path, "-o", out, "--device", "cpu") == 0
    chosen = ("evaluate", out / "model", "--split", out / "splits.json", "-o", tmp_path / "ev", "--device", "cpu")
    assert call(*chosen) == 0
    found = json.loads((tmp_path / "ev" / "metrics.json").read_text())["results"]["head"]
    assert found == json.loads((out / "metrics.json").read_text())["test"]["head"]
    info = describe_model(out / "model")
    assert "random weights" in info.notice.lower()
    assert info.features[0].encoder == "random:lcnet_035"
