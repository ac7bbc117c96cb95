"""The number of a slide, of models on labels of slides, in all results of a run."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import wsikit
from wsikit.batch.records import DONE, SlideRow
from wsikit.cli.main import cli
from wsikit.encoders.registry import describe_encoder
from wsikit.models.mil import MilModel, names_of
from wsikit.models.mil_config import GROUPS, MilConfig
from wsikit.models.mil_kind import save_mil
from wsikit.models.model_folder import EncoderRecord
from wsikit.results.slide_value import SlideValue, expected_grade, stored_value
from wsikit.slides.store import SlideStore

ENCODER = "phantom-afloc"


def mil_model(task: str) -> MilModel:
    """An untrained model with a mean over the patches."""
    classes = ("UD", "PD", "D") if task == "ordinal" else GROUPS
    about = describe_encoder(ENCODER)
    config = MilConfig(
        name="toy", version="1", task=task, pooling="mean", mpp=about.mpp, patch_px=about.patch_px, stain="H&E",
        notice="A test.", members=1, classes=classes, class_names=classes, colors=("#112233",) * len(classes),
        encoder=EncoderRecord(name=ENCODER, width=about.width, fingerprint=about.fingerprint),
        times=(6.0, 12.0) if task == "survival" else (), unit="months" if task != "ordinal" else "",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    shapes: dict[str, Any] = {
        "mean": about.width, "scale": about.width, "weight1": (about.width, 4), "bias1": 4, "weight": (4, 1), "bias": 1,
        "cuts": config.cuts,
    }  # fmt: skip
    arrays = {f"0.{name}": rng.normal(size=shapes[name]).astype(np.float32) for name in names_of(config)}
    arrays["0.scale"] = np.ones(about.width, np.float32)
    if config.cuts:
        arrays["0.cuts"] = np.sort(arrays["0.cuts"])
    return MilModel(config, arrays, fingerprint=task)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tiff"
    wsikit.make_phantom(path, size_px=(900, 900), seed=3)
    return path


@pytest.mark.parametrize(
    ("task", "kind", "unit"),
    [
        ("regression", "value", "months"),
        ("survival", "risk", "log odds of the hazard"),
        ("ordinal", "expected_grade", "UD = 1 to D = 3"),
    ],
)
def test_a_run_writes_the_value_of_a_slide_to_all_its_results(
    slide: Path, tmp_path: Path, task: str, kind: str, unit: str
):
    model, out = mil_model(task), tmp_path / "out"
    folder = save_mil(model, tmp_path / "model", card="# toy")
    result = wsikit.run(slide, out, model=folder, device="cpu")
    assert result.failed == ()
    table = result.store().patches()
    found = model.slide(table.read(f"features_{ENCODER}").astype(np.float32))
    expected = found["value"] if task != "ordinal" else float(found["probability"] @ [1, 2, 3])

    row = next(csv.DictReader((out / "slides.csv").open()))
    assert (row["value_kind"], row["value_unit"]) == (kind, unit)
    assert float(row["value"]) == pytest.approx(expected, rel=1e-4)
    record = json.loads((out / "results" / "slide" / "result.json").read_text())["value"]
    assert (record["kind"], record["unit"]) == (kind, unit)
    assert record["value"] == pytest.approx(expected, rel=1e-4)
    number = f"{float(row['value']):.4g}"
    report = (out / "results" / "slide" / "report.html").read_text()
    title = {"value": "Value of the slide", "risk": "Risk of the slide", "expected_grade": "Expected grade"}[kind]
    assert re.search(rf'<th scope="row">{title}</th><td class="num">{re.escape(number)}[ ,]', report)
    assert f'title="{unit}">{kind.replace("_", " ")} {number}</span>' in (out / "index.html").read_text()
    assert f"{kind.replace('_', ' ')} {number} ({unit})" in result[0].summary()
    assert wsikit.run(slide, out, model=folder, device="cpu")[0] == result[0]  # read back from its row


def test_a_run_that_names_the_vote_by_attention_takes_that_of_the_model(slide: Path, tmp_path: Path):
    model = mil_model("ordinal")
    folder = save_mil(model, tmp_path / "model", card="# toy")
    command = ["run", str(slide), "--model", str(folder), "-o", str(tmp_path / "out"), "--device", "cpu"]
    result = CliRunner().invoke(cli, [*command, "--vote-method", "attention"], catch_exceptions=False)
    assert result.exit_code == 0
    with SlideStore(tmp_path / "out" / "slides" / "slide.zarr") as store:
        table = store.patches()
        found = model.slide(table.read(f"features_{ENCODER}").astype(np.float32))
        assert list(table.votes()) == ["attention"]
        np.testing.assert_allclose(table.votes()["attention"]["probs"], found["probability"], atol=1e-5)


def test_the_value_of_another_model_is_not_shown(slide: Path, tmp_path: Path):
    store = wsikit.tile(slide, tmp_path / "s.zarr")
    wsikit.features(store, encoder=ENCODER)
    table = wsikit.predict(store, model=mil_model("regression"))
    assert stored_value(table) is not None
    table = wsikit.predict(store, model=mil_model("ordinal"))
    assert stored_value(table) is None
    assert "value" not in table.columns()


def test_a_model_without_order_has_no_grade():
    assert expected_grade({}, ("a", "b"), (0.5, 0.5)) is None
    ordered = {"vote": {"pool": "ordinal"}}
    assert expected_grade(ordered, ("a", "b"), (0.25, 0.75)) == SlideValue("expected_grade", 1.75, "a = 1 to b = 2")
    assert expected_grade(ordered, ("a", "b"), (float("nan"), float("nan"))) is None


def test_a_slide_without_value_has_no_words_of_one():
    assert SlideRow("a", "a.svs", DONE, "D", {"D": 0.9}).summary() == "D, p=0.90"
