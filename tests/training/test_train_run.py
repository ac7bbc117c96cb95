"""`wsikit train` and `wsikit evaluate`: from a configuration to a model that predicts, also on real patches."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from wsikit.cli.main import main
from wsikit.errors import ModelError, RequestError
from wsikit.models.io import load_model
from wsikit.models.predictor import Predictor
from wsikit.training.captioner.patients import patient_id
from wsikit.training.config import CaptionsConfig, TrainConfig, read_config
from wsikit.training.factory import build_model, load_data
from wsikit.training.run_record import seen_patients
from wsikit.training.texts import with_captions

ROOT = Path(__file__).parents[2]

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"mpp": 0.5, "patch_px": 32},
    "captions": {"source": "none"},
    "split": {"validation": 0.25, "test": 0.25},
    "image": {"name": "lcnet_035"},
    "text": {
        "model_type": "bert",
        "max_tokens": 40,
        "options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    },
    "prmf": {"d": 16},
    "training": {"epochs": 3, "batch": 8, "lr": {"image": 1e-3, "text": 1e-3, "fusion": 1e-3}},
}
COLOURS = {"UD": (90, 40, 130), "PD": (150, 80, 160), "D": (220, 170, 200)}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A folder of 72 patches of 12 patients, each of one class, which colour and words reveal; and t.csv."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [["file_name", "description", "class", "patient", "slide"]]
    for patient in range(12):
        code = list(COLOURS)[patient % 3]
        for i in range(6):
            name = f"{patient}_{i}.png"
            pixels = np.array(COLOURS[code]) + rng.normal(0, 12, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            text = {"UD": "neuropil absent", "PD": "neuropil sparse", "D": "neuropil abundant"}[code]
            rows.append([name, text, code, f"p{patient}", f"p{patient}-s{i % 2}"])
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(TINY | {"classes": [{"code": code} for code in COLOURS]} | changes))
    return path


def config_of(table: Path, **changes: Any) -> Path:
    data = {"table": {"images": str(table)}, "mpp": 0.5, "patch_px": 32}
    changes = {"data": data, "captions": {"source": "table"}, "ordered": True} | changes
    return write(table.parent, **changes)


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_train_then_evaluate_then_predict(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config, out = config_of(table), tmp_path / "out"
    assert call("train", config, "-o", out, "--device", "cpu") == 0
    metrics = json.loads((out / "metrics.json").read_text())
    splits = json.loads((out / "splits.json").read_text())
    assert {path.name for path in out.iterdir()} == {"config.yaml", "figures", "metrics.json", "model", "splits.json"}
    assert {path.name for path in (out / "figures").iterdir()} == {
        "roc.png",
        "reliability.png",
        "confusion.png",
        "gate.png",
    }
    test = splits["folds"][0]["test"]
    fused = metrics["test"]["fused"]
    assert fused["patch"]["n"] == test["n"] == len(test["ids"])
    assert fused["patient"]["n"] == test["groups"]
    assert fused["slide"]["n"] == 2 * test["groups"]
    assert metrics["split"]["test"]["sha256"] == test["sha256"]
    assert metrics["test"]["floor: words, as the model reads them"]["patch"]["accuracy"]["value"] == 1.0
    assert metrics["test"]["without captions"]["gate"] == 0.0
    assert str(table) not in (out / "model" / "metrics.json").read_text()  # the model may be shared, the place not

    model = load_model(out / "model")
    probs = Predictor(model, device="cpu").predict(np.zeros((2, 32, 32, 3), np.uint8), ["neuropil absent", None])
    probs = probs["probability"]
    assert probs.shape == (2, 3)
    assert "Split by patient" in model.card

    seen = ("evaluate", out / "model", "-o", tmp_path / "all", "--device", "cpu")
    assert call(*seen) == 2
    assert "was trained or selected on" in capsys.readouterr().err
    chosen = ("evaluate", out / "model", "--split", out / "splits.json", "-o", tmp_path / "ev", "--device", "cpu")
    assert call(*chosen, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["patients_seen_in_training"] == 0
    wanted, found = fused["patch"]["auc"]["value"], said["results"]["fused"]["patch"]["auc"]["value"]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert call(*seen, "--allow-seen") == 0
    assert json.loads((tmp_path / "all" / "metrics.json").read_text())["patients_seen_in_training"] == 9

    assert call("train", config, "-o", out) == 2
    assert "holds a finished run" in capsys.readouterr().err


def other_patients(table: Path, folder: Path, prefix: str = "q") -> Path:
    """A copy of the table whose patients have other names, with places on the slide."""
    shutil.copytree(table, folder)
    with open(folder / "t.csv", newline="") as file:
        head, *rows = csv.reader(file)
    with open(folder / "t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*head, "x", "y"])
        for i, (name, text, code, patient, slide) in enumerate(rows):
            writer.writerow([name, text, code, prefix + patient[1:], f"{prefix}-{slide}", 32 * i, 0])
    return folder


def test_one_command_trains_on_one_set_and_tests_on_another(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = {"table": {"images": str(table)}, "mpp": 4.0, "patch_px": 32}
    captions = {"source": "captioner", "captioner": "morphometry-in-slide"}
    config, out = config_of(table, data=data, captions=captions), tmp_path / "out"
    assert call("train", config, "-o", out, "--test-data", table, "--device", "cpu") == 2
    assert "12 patient(s) are also in the training data, such as p0" in capsys.readouterr().err
    assert not out.exists()

    other = other_patients(table, tmp_path / "other")
    assert call("train", config, "-o", out, "--test-data", other, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert "AUC over the image alone" in said
    record = json.loads((out / "test_data" / "metrics.json").read_text())
    assert record["patches"] == 72
    assert record["patients_seen_in_training"] == 0
    ways = {"image alone", "text alone", "mean of both", "mean of both, logits", "fused, calibrated"}
    rivals = {"boosting on facts", "boosting on facts, slide context", "image + boosting on facts"}
    assert ways | rivals | {"image + colour histogram"} <= set(record["results"])
    assert rivals <= set(record["fused_over"])
    assert record["results"]["boosting on facts"]["patch"]["balanced_accuracy"]["value"] > 0.9  # colours are facts
    one, two = (record["results"][way]["patch"]["auc"]["value"] for way in ("fused", "image alone"))
    assert record["gains_over_image"]["fused"]["auc"]["value"] == pytest.approx(one - two, abs=1e-9)
    assert record["shares"]["slide"] == {"reason": "0 with 20 patches or more, and 24 smaller ones"}

    again = ("evaluate", out / "model", "--config", config, "--data", other, "-o", tmp_path / "ev", "--device", "cpu")
    assert call(*again) == 0
    later = json.loads((tmp_path / "ev" / "metrics.json").read_text())
    assert later["results"] == {way: record["results"][way] for way in later["results"]}
    assert set(record["results"]) - set(later["results"]) >= rivals


def test_patients_are_unknown_where_the_model_was_trained_on_slides(table: Path, tmp_path: Path):
    patches = load_data(read_config(config_of(table), TrainConfig)).prepared.patches
    record = {"patients": {"train": [patient_id("p3")]}, "settings": {"data": {"group": "patient"}}}
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    assert seen_patients(tmp_path, patches.groups, group="patient") == 1
    assert seen_patients(tmp_path, patches.groups, group="slide") is None
    (tmp_path / "metrics.json").write_text(json.dumps({"settings": record["settings"]}))
    assert seen_patients(tmp_path, patches.groups, group="patient") is None
    assert seen_patients(None, patches.groups) is None


@pytest.mark.parametrize(
    ("collection", "pattern", "classes"),
    [
        ("osteosarcoma3", r"(?P<label>.+?)___.+\.jpg", ["Viable", "Non-Viable-Tumor", "Non-Tumor"]),
        ("nct_crc7", r"(?P<label>.+?)___.+\.jpg", None),
    ],
)
def test_real_patches_of_several_classes(
    collection: str, pattern: str, classes: list[str] | None, data_dir: Path, tmp_path: Path
):
    place = data_dir / "patches" / f"{collection}.zip"
    if classes is None:
        from wsikit.training.datasets import read_names

        classes = sorted(set(map(str, read_names(place, pattern).classes)))
    data = {"names": {"images": "elsewhere.zip", "pattern": pattern}, "mpp": 0.5, "patch_px": 32, "group": "file"}
    config = write(tmp_path, data=data, classes=[{"code": code} for code in classes])
    assert call("train", config, "--data", place, "-o", tmp_path / "out", "--device", "cpu") == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]["fused"]["patch"]
    assert len(figures["confusion"]["counts"]) == len(classes)
    assert figures["kappa_quadratic"]["reason"] == "the classes have no order"


def test_one_fold_of_several_is_trained_and_the_split_kept_whole(table: Path, tmp_path: Path):
    config = config_of(table, split={"folds": 4, "fold": 2})
    assert call("train", config, "-o", tmp_path / "out", "--device", "cpu") == 0
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(splits["folds"]) == 4
    assert metrics["split"]["fold"] == 2
    assert metrics["split"]["test"]["sha256"] == splits["folds"][2]["test"]["sha256"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainig": {}}, r"trainig: no such setting, did you mean training\?"),
        ({"classes": [{"code": "UD"}, {"code": "UD"}]}, "must differ"),
        ({"classes": [{"code": "UD", "values": ["x"]}, {"code": "D", "values": ["x"]}]}, "one value is mapped to two"),
        ({"classes": [{"code": "o", "background": True}, {"code": "D"}]}, "list voting classes first"),
        ({"data": {"patch_px": 32}}, "give one of table, names and stores"),
        ({"data": {"patch_px": 32, "table": {"images": "x"}}}, "give mpp"),
        ({"captions": {"source": "csv"}}, "source 'csv' and csv None cannot be combined"),
        ({"text": {"max_tokens": 9}}, "give either model_type .* or pretrained"),
        ({"stages": [{"name": "late", "since": 0.5, "learns": ["fusion"]}]}, "the first must begin at 0"),
        ({"training": TINY["training"] | {"epochs": 2}}, "take more epochs"),
        ({"data": {"patch_px": 32, "mpp": 1, "table": {"images": "${NO_SUCH_PLACE}/x"}}}, "NO_SUCH_PLACE is not set"),
    ],
)
def test_errors_in_a_configuration_are_reported(tmp_path: Path, changes: dict[str, Any], said: str):
    data = {"table": {"images": "x"}, "mpp": 0.5, "patch_px": 32}
    with pytest.raises(RequestError, match=said):
        read_config(write(tmp_path, **{"data": data} | changes), TrainConfig)


def test_the_shipped_configurations_are_valid(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WSIKIT_DATA", "somewhere")
    idc = read_config(ROOT / "pipelines" / "configs" / "train_idc.yaml", TrainConfig)
    assert idc.codes == ("benign", "IDC")
    assert idc.values == {"0": "benign", "1": "IDC"}


def test_captions_by_a_captioner_that_saw_a_patient_are_refused(table: Path, tmp_path: Path):
    data = load_data(read_config(config_of(table), TrainConfig)).prepared.patches
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    record = {"patients": {"trained": [patient_id("p3")], "validated": []}}
    (adapter / "wsikit.json").write_text(json.dumps(record))
    spec = CaptionsConfig(source="captioner", captioner=f"base#{adapter}")
    with pytest.raises(RequestError, match="was trained on 1 of these patients, such as p3. Use out-of-fold captions"):
        with_captions(data, spec, mpp=0.5)


def test_out_of_fold_captions_are_checked_fold_by_fold(table: Path, tmp_path: Path):
    data = load_data(read_config(config_of(table), TrainConfig)).prepared.patches
    rows = [["file_name", "description", "patient", "fold", "adapter"]]
    fold_of = {group: int(group[1:]) % 2 for group in set(data.groups.tolist())}
    rows += [[one, f"text of {one}", g, fold_of[g], "abc"] for one, g in zip(data.ids, data.groups.tolist())]
    with open(tmp_path / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    source = CaptionsConfig(source="csv", csv=str(tmp_path / "captions.csv"))
    with pytest.raises(RequestError, match="captions by the adapter of fold 0, whose record .* is missing"):
        with_captions(data, source, mpp=0.5)
    for fold in (0, 1):
        (tmp_path / f"fold-{fold}").mkdir()
        trained = [patient_id(g) for g, of in fold_of.items() if of != fold]
        record = {"patients": {"trained": trained, "validated": []}}
        (tmp_path / f"fold-{fold}" / "wsikit.json").write_text(json.dumps(record))
    assert with_captions(data, source, mpp=0.5).captions == tuple(f"text of {one}" for one in data.ids)
    (tmp_path / "fold-0" / "wsikit.json").write_text(json.dumps(record))  # the one of fold 1, which saw fold 0
    with pytest.raises(RequestError, match="was trained on 6 of these patients"):
        with_captions(data, source, mpp=0.5)


def test_the_vocabulary_is_learnt_from_the_captions_that_the_model_reads(table: Path):
    config = read_config(config_of(table), TrainConfig)
    one = build_model(config, ("neuropil absent",), mpp=0.5)
    two = build_model(config, ("neuropil absent", "rosettes"), mpp=0.5)
    assert one.read(["rosettes"]).ids.tolist() != two.read(["rosettes"]).ids.tolist()
    assert one.config.mpp == 0.5


def test_encoders_that_are_not_local_are_not_downloaded(table: Path):
    config = config_of(table, image={"name": "lcnet_035", "weights": "timm/nothing_of_the_kind"})
    with pytest.raises(ModelError, match="Nothing is downloaded"):
        build_model(read_config(config, TrainConfig), ("a",), mpp=0.5)


def test_a_text_encoder_from_a_local_folder_brings_its_weights_and_words(table: Path, tmp_path: Path):
    config = read_config(config_of(table), TrainConfig)
    source = build_model(config, ("neuropil absent, rosettes",), mpp=0.5)
    folder = tmp_path / "bert"
    source.text.body.save_pretrained(folder)
    source.tokenizer.save(folder)
    taken = read_config(config_of(table, text={"pretrained": str(folder), "max_tokens": 40}), TrainConfig)
    model = build_model(taken, ("other words",), mpp=0.5)
    for name, value in source.text.state_dict().items():
        assert (model.text.state_dict()[name] == value).all()
    assert model.read(["rosettes"]).ids.tolist() == source.read(["rosettes"]).ids.tolist()


def test_a_model_of_another_architecture_is_evaluated_on_the_same_data(table: Path, tmp_path: Path):
    from wsikit.models.protocol import ModelInfo
    from wsikit.training.config import TrainConfig, read_config
    from wsikit.training.run import run_evaluation

    class ByColour:
        """Knows the three colours; of another architecture than MMLNB."""

        info = ModelInfo(
            "colours", "1", "colours", "1", 32, 0.5, "H&E", tuple(COLOURS), tuple(COLOURS), ("#000000",) * 3
        )

        def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
            distance = np.linalg.norm(images.mean(axis=(1, 2))[:, None] - np.array(list(COLOURS.values())), axis=2)
            return {"probability": (distance == distance.min(axis=1, keepdims=True)).astype(np.float32)}

    metrics = run_evaluation(ByColour(), read_config(config_of(table), TrainConfig), tmp_path / "out")
    assert set(metrics["results"]) == {"fused"}
    assert metrics["results"]["fused"]["patch"]["n"] == 72
    assert metrics["results"]["fused"]["patch"]["balanced_accuracy"]["value"] == 1.0
    assert metrics["model"] == {"name": "colours", "fingerprint": "1"}
    assert (tmp_path / "out" / "figures" / "confusion.png").is_file()
