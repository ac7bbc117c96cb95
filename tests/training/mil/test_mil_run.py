"""Training on slide labels, end to end on a toy cohort of feature files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from tests.training.mil.conftest import Cohort, settings, write_bag
from wsikit.errors import RequestError
from wsikit.inference.predict import predict
from wsikit.inference.vote import vote
from wsikit.models.registry import load_patch_model
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.slide_vectors import read_slide_vector
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile
from wsikit.training.mil import fit
from wsikit.training.mil.cohort import read_cohort
from wsikit.training.mil.end_to_end import encoded
from wsikit.training.mil.run import MODEL, run_mil_evaluation, run_mil_training
from wsikit.training.splits import read_splits


def auc(metrics: dict[str, Any], level: str = "slide") -> float:
    return float(metrics["test"][MODEL][level]["auc"]["value"])


@pytest.mark.parametrize("pooling", ["abmil", "mean", "max", "alpha_beta"])
def test_it_learns_which_patches_make_a_slide_positive(cohort: Cohort, tmp_path: Path, pooling: str):
    manifest = cohort(28)
    config = settings(manifest, mil={"pooling": pooling, "hidden": 8, "attention": 4, "dropout": 0.0, "alpha": 0.2})
    metrics = run_mil_training(config, manifest, tmp_path / "out")
    assert auc(metrics) > 0.9
    assert auc(metrics, "patient") > 0.9
    model: Any = load_patch_model(tmp_path / "out" / "model")
    x = np.zeros((2, 4), np.float32)
    x[1, 0] = 4.0
    plain, marked = model.predict(features=x)["probability"][:, 1]
    assert marked > plain


def test_nothing_is_learned_where_the_loss_does_not_see_the_label(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fit, "class_loss", lambda z, label: (z**2).sum())
    manifest = cohort()
    metrics = run_mil_training(settings(manifest), manifest, tmp_path / "out")
    assert metrics["test"][MODEL]["slide"]["balanced_accuracy"]["value"] < 0.8


def test_ordered_classes(cohort: Cohort, tmp_path: Path):
    manifest = cohort(18, 3)
    config = settings(
        manifest, task="ordinal", classes=[{"code": code} for code in "abc"], training={"epochs": 60, "lr": 0.01}
    )
    metrics = run_mil_training(config, manifest, tmp_path / "out")
    assert metrics["test"][MODEL]["slide"]["kappa_quadratic"]["value"] > 0.7


def test_values(cohort: Cohort, tmp_path: Path):
    manifest = cohort(16, 2, {"value": lambda i: 100 + 50 * ((i // 2) % 2)})
    config = settings(manifest, task="regression", classes=[], training={"epochs": 60, "lr": 0.01})
    metrics = run_mil_training(config, manifest, tmp_path / "out")
    found = metrics["test"][MODEL]["slide"]
    assert found["mean_error"]["value"] < 15  # in the unit of the values; all at the mean: 25
    rows = list(csv.DictReader((tmp_path / "out" / "slides.csv").open()))
    assert {float(row["value"]) for row in rows} <= {100.0, 150.0}


def test_times(cohort: Cohort, tmp_path: Path):
    manifest = cohort(24, 2, {"time": lambda i: (1 if (i // 2) % 2 else 30) + i % 3, "event": lambda i: int(i % 5 > 0)})
    config = settings(manifest, task="survival", classes=[], training={"epochs": 40, "lr": 0.01})
    metrics = run_mil_training(config, manifest, tmp_path / "out")
    model: Any = load_patch_model(tmp_path / "out" / "model")
    bags = read_cohort(config, manifest).bags
    values = np.array([model.slide(bag.features)["value"] for bag in bags])
    early = np.array([bag.value < 10 for bag in bags])
    assert np.median(values[early]) > np.median(values[~early])  # a higher risk is an earlier event
    assert set(metrics["test"][MODEL]) == {"slide", "patient"}


def test_no_patient_is_in_two_parts_and_the_test_part_is_that_of_every_fold(cohort: Cohort, tmp_path: Path):
    manifest = cohort()
    config = settings(manifest, split={"folds": 3, "test": 0.25}, training={"epochs": 1})
    run_mil_training(config, manifest, tmp_path / "out")
    slides = read_cohort(config, manifest).patch_set("classes")
    folds = read_splits(tmp_path / "out" / "splits.json", slides)
    assert len(folds) == 3
    assert len({tuple(parts["test"]) for parts in folds}) == 1
    for parts in folds:
        patients = [set(slides.groups[rows].tolist()) for rows in parts.values()]
        assert sum(map(len, patients)) == len(set.union(*patients))
    validation = np.concatenate([parts["validation"] for parts in folds])
    assert len(set(validation.tolist())) == len(validation)


def test_a_resumed_run_gives_the_same_model(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = cohort()
    config = settings(manifest, training={"epochs": 5})
    run_mil_training(config, manifest, tmp_path / "whole")

    def stop(*arguments: Any, fold: int = 0, **options: Any) -> Any:
        if fold == 1:
            raise KeyboardInterrupt
        return fit.fit_member(*arguments, fold=fold, **options)

    with monkeypatch.context() as patched:
        patched.setattr("wsikit.training.mil.networks.fit_member", stop)
        with pytest.raises(KeyboardInterrupt):
            run_mil_training(config, manifest, tmp_path / "stopped")
    with pytest.raises(RequestError, match="Resume it"):
        run_mil_training(config, manifest, tmp_path / "stopped")
    run_mil_training(config, manifest, tmp_path / "stopped", resume=True)
    one, two = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert one == two
    with pytest.raises(RequestError, match="finished run"):
        run_mil_training(config, manifest, tmp_path / "stopped", resume=True)


def test_evaluation_repeats_the_test_and_refuses_seen_patients(cohort: Cohort, tmp_path: Path):
    manifest, out = cohort(), tmp_path / "out"
    config = settings(manifest)
    trained = run_mil_training(config, manifest, out)
    model: Any = load_patch_model(out / "model")
    common: dict[str, Any] = {"folder": out / "model"}
    again = run_mil_evaluation(model, config, manifest, tmp_path / "e", split_file=out / "splits.json", **common)
    assert again["results"][MODEL] == json.loads(json.dumps(trained["test"][MODEL]))
    with pytest.raises(RequestError, match="trained or selected on"):
        run_mil_evaluation(model, config, manifest, tmp_path / "f", **common)


def test_features_of_another_encoder_are_refused(cohort: Cohort, tmp_path: Path):
    manifest, out = cohort(), tmp_path / "out"
    config = settings(manifest, training={"epochs": 1})
    run_mil_training(config, manifest, out)
    model: Any = load_patch_model(out / "model")
    for path in (tmp_path / "bags" / "features").glob("*.npy"):
        np.save(path, np.load(path)[:, :3])
    with pytest.raises(RequestError, match="trained on 4 features of toy .* another encoder"):
        run_mil_evaluation(model, config, manifest, tmp_path / "e")


# ---- what is wrong with a manifest


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("bags/features/s0.npy,x,p0,", "line 34: slide x: label ''; expected one of a, b"),
        ("bags/features/s0.npy,s0,p0,a", "line 34: slide s0 is named twice"),
        (",x,p0,a", "line 34: give a store, or a file of features"),
        ("bags/features/no.npy,x,p0,a", "no.npy: no such file"),
        ("bags/features/empty.npy,x,p0,a", "no patch with features in x \\(line 34\\)"),
        ("bags/features/wide.npy,x,p0,a", "7 features of an encoder .* with one encoder"),
    ],
)
def test_a_wrong_row_is_named(cohort: Cohort, tmp_path: Path, row: str, expected: str):
    manifest = cohort()
    write_bag(tmp_path / "bags", "empty", np.full((2, 4), np.nan, np.float32))
    write_bag(tmp_path / "bags", "wide", np.zeros((2, 7), np.float32))
    manifest.write_text(manifest.read_text() + row + "\n")
    with pytest.raises(RequestError, match=expected):
        read_cohort(settings(manifest), manifest)


def test_all_slides_without_patches_are_named_at_once(cohort: Cohort, tmp_path: Path):
    manifest = cohort()
    write_bag(tmp_path / "bags", "empty", np.full((2, 4), np.nan, np.float32))
    rows = "".join(f"bags/features/empty.npy,{name},p0,a\n" for name in "xy")
    manifest.write_text(manifest.read_text() + rows)
    with pytest.raises(RequestError, match=r"no patch with features in x \(line 34\), y \(line 35\)"):
        read_cohort(settings(manifest), manifest)


def test_a_class_without_slides_is_refused(cohort: Cohort):
    manifest = cohort()
    with pytest.raises(RequestError, match="no slide of class c"):
        read_cohort(settings(manifest, classes=[{"code": code} for code in "abc"]), manifest)


def test_files_of_features_need_a_scale(cohort: Cohort):
    manifest = cohort()
    with pytest.raises(RequestError, match="give data: mpp and patch_px"):
        read_cohort(settings(manifest, data={"manifest": str(manifest)}), manifest)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"task": "ordinal", "mil": {"pooling": "alpha_beta"}}, "alpha_beta is for task classes"),
        ({"task": "regression"}, "leave out the classes"),
        ({"classes": [{"code": "a"}]}, "list two or more"),
        ({"features": None}, "give features, or an image encoder"),
        ({"classes": [{"code": "a"}, {"code": "b", "background": True}]}, "none is background"),
    ],
)
def test_settings_that_contradict_each_other(tmp_path: Path, changes: dict[str, Any], expected: str):
    with pytest.raises(ValueError, match=expected):
        settings(tmp_path / "cohort.csv", **changes)


def test_balanced_class_weights_sum_to_the_number_of_slides(cohort: Cohort):
    manifest = cohort(12, 3, {"label": lambda i: "b" if (i // 2) % 3 == 2 else "a"})
    config = settings(manifest, training={"class_weights": "balanced"})
    bags = read_cohort(config, manifest).bags
    weights = fit.Targets.of(bags, config).weights
    assert sum(weights[bag.label] for bag in bags) == pytest.approx(len(bags))
    assert weights[1] == pytest.approx(2 * weights[0])


def test_a_step_may_see_a_sample_of_the_patches(cohort: Cohort):
    manifest = cohort()
    config = settings(manifest, training={"patches": 3, "epochs": 2})
    bags = read_cohort(config, manifest).bags
    seen: list[int] = []
    forward = fit.MilNetwork.forward

    def count(self: Any, x: torch.Tensor) -> Any:
        if self.training:
            seen.append(len(x))
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fit.MilNetwork, "forward", count)
        fit.fit_member(bags[:16], bags[16:], config, fit.Targets())
    assert set(seen) == {3 * 8}  # of 8 slides per step


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of eight small stores: dark tissue is class b."""
    folder = tmp_path_factory.mktemp("slides")
    rng, lines = np.random.default_rng(0), ["store,label"]
    for i in range(8):
        pixels = np.full((512, 512, 3), 240, np.uint8)
        tissue = rng.integers(-25, 25, (320, 320, 3)) + (120 if i % 2 else 190, 60, 130)
        pixels[96:416, 96:416] = np.clip(tissue, 0, 255)
        path = folder / f"s{i}.tiff"
        scale = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}  # 1 µm/px
        tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", **scale)
        tile(path, folder / f"s{i}.zarr", patch_px=64, mpp=1.0)
        lines.append(f"s{i}.zarr,{'ab'[i % 2]}")
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    return folder / "cohort.csv"


def test_an_image_encoder_is_trained_with_the_loss_of_the_bag(slides: Path, tmp_path: Path):
    image = {"name": "resnet10t", "options": {"channels": [4, 8, 8, 8], "stem_width": 4}}
    training = {"epochs": 30, "patience": 30, "patches": 4, "batch": 4, "lr": 0.01}
    config = settings(slides, data={"manifest": str(slides)}, features=None, image=image, training=training)
    metrics = run_mil_training(config, slides, tmp_path / "out")
    assert metrics["members"][0]["validation"] < 0.69
    model: Any = load_patch_model(tmp_path / "out" / "model", device="cpu")
    assert model.info.inputs == ("image",)
    bag = read_cohort(config, slides).bags[1]
    with SlideStore(bag.store) as store:
        table = predict(store, model=tmp_path / "out" / "model", device="cpu")
        voted = vote(store)
        attention = table.read("attention")
    found = model.slide(encoded(bag, model.encode).features)
    np.testing.assert_allclose(attention, found["attention"], atol=1e-5)
    np.testing.assert_allclose(voted.probs, found["probability"], atol=1e-5)


def test_the_value_of_a_slide_is_stored_with_its_patches(slides: Path, tmp_path: Path):
    lines = [line.split(",") for line in slides.read_text().splitlines()[1:]]
    manifest = slides.with_name("values.csv")
    rows = [f"{store},{10 if label == 'a' else 30}" for store, label in lines]
    manifest.write_text("\n".join(["store,value", *rows]) + "\n")
    spec = ColumnSpec("features_toy", "float32", 2)
    for store, label in lines:
        with SlideStore(slides.parent / store) as opened:
            table = opened.patches()
            values = np.random.default_rng(0).normal(size=(len(table), 2)) + (2 if label == "a" else -2)
            for part in table.prepare([spec], Receipt("made up", 1, {})):
                table.write("features_toy", part, values[part].astype(np.float32))
    config = settings(manifest, data={"manifest": str(manifest)}, task="regression", classes=[], unit="months")
    run_mil_training(config, manifest, tmp_path / "out")
    model: Any = load_patch_model(tmp_path / "out" / "model")
    bag = read_cohort(config, manifest).bags[1]
    with SlideStore(bag.store) as store:
        table = predict(store, model=model)
        vector = read_slide_vector(table, "value")
    assert vector is not None
    assert vector.values[0] == pytest.approx(model.slide(bag.features)["value"], rel=1e-5)
    assert vector.attributes["unit"] == "months"
