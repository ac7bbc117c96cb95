"""`wsikit ablate` on a toy table: all arms, resuming, correct metrics."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from wsikit.cli.main import main
from wsikit.errors import RequestError
from wsikit.models.io import load_model
from wsikit.models.predictor import Predictor
from wsikit.training.ablation import AblationConfig, jobs, load_patches, run_ablation
from wsikit.training.ablation_report import draw, drawn_units, leads_of, summarise
from wsikit.training.ablation_rivals import arm_of
from wsikit.training.captioner.patients import patient_id
from wsikit.training.config import read_config
from wsikit.training.rivals import DEFAULT, ON_FIELD, mean_of_logits
from wsikit.training.unimodal import train_image_branch, train_text_branch

RIVALS = set(DEFAULT) - ON_FIELD
"""No field is measured here."""

ONE_THREAD = os.cpu_count() or 1
"""Workers that leave each one thread: several add up in another order from run to run."""

SETTINGS = {
    "name": "toy",
    "data": {"mpp": 4.0, "patch_px": 32},
    "classes": [{"code": "a"}, {"code": "b"}],
    "captions": {"source": "captioner", "captioner": "morphometry"},
    "folds": {"k": 3, "training_seeds": [0, 1]},
    "image": {"name": "lcnet_035"},
    "training": {"epochs": 3, "batch": 16, "lr": {"image": 3e-3, "text": 1e-3, "fusion": 3e-3}},
    "text": {
        "model_type": "distilbert",
        "max_tokens": 96,
        "options": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    },
    "reading": {"captions": 128, "epochs": 1},
    "text_training": {"epochs": 2, "batch": 16},
    "prmf": {"d": 16},
    "fusion": {"epochs": 3, "batch": 16, "views": 2},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> AblationConfig:
    """90 patches of 9 patients, the classes paler and deeper stain."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    rows = [["file_name", "class", "patient", "slide", "x", "y"]]
    for i in range(90):
        code = "ab"[i % 2]
        base = np.array((200, 120, 180)) if code == "a" else np.array((170, 100, 160))
        pixels = base + rng.normal(0, 25, (32, 32, 1)) + rng.normal(0, 8, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append([f"{i}.png", code, f"p{i % 9}", f"s{i % 9}", str(32 * (i // 9)), "0"])
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    path = folder / "ablate.yaml"
    path.write_text(yaml.safe_dump(SETTINGS | {"data": SETTINGS["data"] | {"table": {"images": str(folder)}}}))
    return read_config(path, AblationConfig)


@pytest.fixture(scope="module")
def finished(config: AblationConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    run_ablation(config, out, workers=ONE_THREAD)
    return out


def test_every_patch_is_tested_once_per_seed_and_by_no_branch_that_saw_its_patient(config, finished):
    data, splits = load_patches(finished)
    for parts in splits:
        assert not set(data.groups[parts["train"]]) & set(data.groups[parts["test"]])
        assert len(parts["train"]) + len(parts["test"]) == len(data)
    for seed in (0, 1):
        rows = [np.load(finished / job.file)["rows"] for job in jobs(config) if job.seed == seed]
        np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(len(data)))


def test_figures_are_means_over_the_seeds_of_those_of_sklearn(config, finished):
    data, _ = load_patches(finished)
    key = "PRMF robust|measured captions"
    wanted = {}
    for name in ("image only", key):
        of_seed = []
        for seed in (0, 1):
            probs = np.full((len(data), 2), np.nan)
            for job in jobs(config):
                if job.seed == seed:
                    with np.load(finished / job.file) as found:
                        probs[found["rows"]] = found[f"probs/{name}"]
            of_seed += [roc_auc_score(data.labels == c, probs[:, c]) for c in (0, 1)]
        wanted[name] = np.mean(of_seed)
    results = {f"{r.arm}|{r.captions}".rstrip("|"): r for r in summarise(config, finished)}
    assert results["image only"].auc[0] == pytest.approx(wanted["image only"], abs=1e-6)
    assert results[key].auc_gain[0] == pytest.approx(wanted[key] - wanted["image only"], abs=1e-6)
    low, high = results[key].auc_gain[1:]
    assert low <= results[key].auc_gain[0] <= high
    assert results["PRMF robust|no captions"].gate == 0
    assert results["concatenation|measured captions"].gate is None
    # baselines; image, text, mean; rivals; arms by captions; fitted on shuffled
    assert len(results) == 3 + 3 + len(RIVALS) + 9 + 1


def test_an_interrupted_run_computes_only_what_is_missing(config, finished, tmp_path):
    gone, kept = (finished / job.file for job in list(jobs(config))[-2:])
    before, old = kept.stat().st_mtime_ns, dict(np.load(gone))
    gone.unlink()
    with pytest.raises(RequestError, match="computes only what is missing"):
        summarise(config, finished)
    run_ablation(config, finished, workers=ONE_THREAD)
    assert kept.stat().st_mtime_ns == before
    for key, value in np.load(gone).items():
        np.testing.assert_allclose(value, old[key], atol=1e-5, err_msg=key)


def test_the_second_table_is_the_robust_fusion_minus_each_rival(config, finished):
    drawn = draw(config, finished)
    results = {(r.arm, r.captions): r for r in summarise(config, finished, drawn)}
    leads = {lead.rival: lead for lead in leads_of(drawn)}
    robust = results["PRMF robust", "measured captions"]
    for rival, captions in (("image + boosting on facts", ""), ("mean of both, logits", "measured captions")):
        other = results[rival, captions]
        assert leads[rival].auc[0] == pytest.approx(robust.auc[0] - other.auc[0])
        assert leads[rival].ece[0] == pytest.approx(robust.ece[0] - other.ece[0])
        assert leads[rival].auc[1] <= leads[rival].auc[0] <= leads[rival].auc[2]
    assert leads["image only"].auc == pytest.approx(robust.auc_gain)
    assert "PRMF robust" not in leads


def test_rivals_with_the_image_are_means_of_logits_of_its_predictions(config, finished):
    for job in jobs(config):
        with np.load(finished / job.file) as arms, np.load(finished / job.rivals) as rivals:
            np.testing.assert_array_equal(arms["rows"], rivals["rows"])
            image, text = arms["probs/image only"], arms["probs/text only|measured captions"]
            found = rivals["probs/mean of both, logits|measured captions"]
            np.testing.assert_allclose(found, mean_of_logits(image, text), atol=1e-5)
            both = mean_of_logits(image, rivals["probs/boosting on facts"])
            np.testing.assert_allclose(rivals["probs/image + boosting on facts"], both, atol=1e-5)
            colours = mean_of_logits(image, arms["probs/floor: colour histogram"])
            np.testing.assert_allclose(rivals["probs/image + colour histogram"], colours, atol=1e-5)


def test_a_rival_can_be_added_to_a_finished_ablation(config, finished):
    asked = config.model_copy(update={"rivals": (*DEFAULT, "two_image_seeds")})
    with pytest.raises(RequestError, match="has no two image seeds"):
        summarise(asked, finished)
    times = {job.file: (finished / job.file).stat().st_mtime_ns for job in jobs(config)}
    before = dict(np.load(finished / next(jobs(config)).rivals))
    run_ablation(asked, finished, workers=ONE_THREAD)
    assert times == {job.file: (finished / job.file).stat().st_mtime_ns for job in jobs(config)}
    after = dict(np.load(finished / next(jobs(config)).rivals))
    assert set(after) == set(before) | {f"probs/{arm_of('two_image_seeds')}"}
    for key, values in before.items():
        np.testing.assert_array_equal(after[key], values, err_msg=key)
    image = np.load(finished / next(jobs(config)).file)["probs/image only"]
    assert np.abs(after["probs/two image seeds"] - image).max() > 1e-3


def test_models_that_are_kept_name_the_patients_of_their_training(config, finished, tmp_path, capsys):
    data, splits = load_patches(finished)
    model = finished / "models" / "fold1"
    known = json.loads((model / "metrics.json").read_text())["patients"]
    assert known["train"] == sorted({patient_id(name) for name in data.groups[splits[1]["train"]]})

    def evaluate(model: Path, out: str, *options: str) -> int:
        settings = str(Path(config.data.table.images) / "ablate.yaml")
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", str(model), "--config", settings, "-o", str(tmp_path / out), "--device", "cpu", *options])
        return int(ended.value.code or 0)

    assert evaluate(model, "seen") == 2
    assert "was trained or selected on 6 of these patients" in capsys.readouterr().err
    test = ("--split", str(finished / "splits.json"), "--fold", "1")
    assert evaluate(model, "test", *test) == 0
    assert "is unknown" not in capsys.readouterr().err
    record = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert record["patients_seen_in_training"] == 0
    assert evaluate(model, "other", "--split", str(finished / "splits.json"), "--fold", "0") == 2

    older = tmp_path / "older"
    shutil.copytree(model, older)
    (older / "metrics.json").unlink()
    assert evaluate(older, "unknown", *test) == 0
    assert "whether these were among them is unknown (recorded as null)" in capsys.readouterr().err
    assert json.loads((tmp_path / "unknown" / "metrics.json").read_text())["patients_seen_in_training"] is None


def test_another_image_branch_is_asked_for_with_its_settings(config):
    record = config.model_dump(mode="json")
    assert "other_image" not in record  # finished ablations have none, and can be continued
    with pytest.raises(ValidationError, match="other_image need other_image, the settings of another image branch"):
        AblationConfig.model_validate(record | {"rivals": ["other_image"]})
    other = {"name": "lcnet_035", "context": "slide"}
    given = AblationConfig.model_validate(record | {"rivals": ["other_image"], "other_image": other})
    assert given.other_image.context == "slide"
    assert given.image.context is None


def test_a_folder_of_other_settings_is_refused(config, finished):
    other = config.model_copy(update={"start": 0.5})
    with pytest.raises(RequestError, match="other settings"):
        run_ablation(other, finished)


def test_a_model_of_a_fold_predicts_as_its_arm_did(config, finished):
    data, splits = load_patches(finished)
    test = data.select(splits[1]["test"])
    predictor = Predictor(load_model(finished / "models" / "fold1"), device="cpu")
    found = predictor.predict(test.images, test.captions)
    with np.load(finished / "predictions" / "seed0_fold1.npz") as kept:
        np.testing.assert_array_equal(kept["rows"], splits[1]["test"])
        np.testing.assert_allclose(found["probability"], kept["probs/PRMF robust|measured captions"], atol=1e-3)
        np.testing.assert_allclose(found["gate"], kept["gate/PRMF robust|measured captions"], atol=1e-3)


def test_intervals_may_draw_squares_of_a_slide_instead_of_patients(config, finished):
    data, _ = load_patches(finished)
    assert len(np.unique(drawn_units(config, data))) == 9
    folds = config.folds.model_copy(update={"block_px": 64.0})
    squares = drawn_units(config.model_copy(update={"folds": folds}), data)
    assert len(np.unique(squares)) == 45  # ten patches of 32 px in a row per patient: five squares of 64 each
    for square in np.unique(squares):
        assert len(np.unique(data.groups[squares == square])) == 1


def test_the_command_writes_table_record_and_figure(config, finished, tmp_path, capsys):
    source = Path(config.data.table.images)
    with pytest.raises(SystemExit) as ended:
        main(["ablate", str(source / "ablate.yaml"), "-o", str(finished)])
    assert not ended.value.code
    assert "| PRMF robust | shuffled captions |" in capsys.readouterr().out
    record = json.loads((finished / "results.json").read_text())
    assert record["patches"] == 90
    assert len(record["test_sha256"]) == 3
    page = (finished / "results.md").read_text()
    first, second = page.split("## The robust fusion minus each rival")
    assert first.count("\n| ") == 1 + 16 + len(RIVALS)
    assert second.count("\n| ") == 1 + 3 + 3 + len(RIVALS) + 2
    assert len(record["robust_minus"]) == 3 + 3 + len(RIVALS) + 2
    assert Image.open(finished / "results.png").width > 500


def test_the_text_branch_learns_after_the_image_branch_has_frozen_it(config, finished):
    """Once it did not, and the arms fused features of an untrained encoder."""
    data, splits = load_patches(finished)
    training, test = data.select(splits[0]["train"]), data.select(splits[0]["test"])
    model = load_model(finished / "models" / "fold0")
    train_image_branch(model, training, config.training)
    before = {name: value.clone() for name, value in model.text.state_dict().items()}
    weight = np.ones(2, np.float32)
    train_text_branch(model, training, test, config.text_training, weight=weight, seed=0)
    assert any(not before[name].equal(value) for name, value in model.text.state_dict().items())
