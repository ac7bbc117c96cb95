"""`wsikit train` on slide labels, from seeds of synthetic slides to maps next to what is planted."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from wsikit.cli.main import cli
from wsikit.slides.store import SlideStore

CONFIG = {
    "architecture": "mil",
    "name": "tiny",
    "task": "ordinal",
    "data": {"phantoms": {"seeds": [6000, 6009], "slide_px": 672, "min_tissue": 0.1}},
    "classes": [{"code": "UD"}, {"code": "PD"}, {"code": "D"}],
    "features": "phantom-afloc",
    "training": {"epochs": 3},
    "split": {"test": 0.34, "folds": 2},
    "maps": 1,
}


def wsikit(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mil")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    level = logging.getLogger("wsikit").level  # the command line sets it, before the guard of each test
    output = wsikit("train", folder / "tiny.yaml", "-o", folder / "out", "--threads", 1)
    logging.getLogger("wsikit").setLevel(level)
    assert "Dice of the patches of the slide's subtype, mean over 3 test slides" in output
    return folder / "out"


def test_a_training_from_nothing_leaves_model_figures_and_maps(trained: Path):
    for name in ("config.yaml", "splits.json", "slides.csv", "metrics.json", "model/README.md", "maps/dice.json"):
        assert (trained / name).is_file(), name
    assert len(list((trained / "maps").glob("*_planted.png"))) == 1
    rows = list(csv.DictReader((trained / "slides.csv").open()))
    assert len(rows) == 3
    assert "planted" not in (trained / "cohort" / "cohort.csv").read_text()


def test_evaluation_finds_the_slides_that_were_made(trained: Path, tmp_path: Path):
    output = wsikit("evaluate", trained / "model", "--split", trained / "splits.json", "-o", tmp_path / "e", "--json")
    found = json.loads(output[output.index("{") :])
    assert found["slides"] == 3
    again = json.loads((trained / "metrics.json").read_text())["test"]["model"]
    assert found["results"]["model"] == again


def test_run_votes_as_the_model_predicts_the_slide(trained: Path, tmp_path: Path):
    rows = list(csv.DictReader((trained / "slides.csv").open()))
    slide = trained / "cohort" / "slides" / f"{rows[0]['slide']}.tiff"
    wsikit("run", slide, "--model", trained / "model", "--min-tissue", 0.1, "-o", tmp_path / "run")
    store = tmp_path / "run" / "slides" / f"{slide.stem}.zarr"
    voted = SlideStore(store).patches().votes()["attention"]["probs"]
    expected = [float(rows[0][f"probability_{code}"]) for code in ("UD", "PD", "D")]
    np.testing.assert_allclose(voted, expected, atol=1e-3)  # features are stored as float16
    named = wsikit("vote", store, "--method", "attention", "--json")
    np.testing.assert_allclose(json.loads(named)["probs"], voted, atol=1e-12)
    assert "weigh most in the slide" in (tmp_path / "run" / "results" / slide.stem / "report.html").read_text()


def test_another_test_set_is_refused_before_anything_is_made(tmp_path: Path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    arguments = ["train", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path / "out"), "--test-data", "x"]
    result = CliRunner().invoke(cli, arguments)
    assert "not for mil" in str(result.exception)
    assert not (tmp_path / "out").exists()
