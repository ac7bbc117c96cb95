"""The pipelines run as their own first lines say."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from wsikit.cli.main import cli

ROOT = Path(__file__).parents[1]


def test_classify_slides_runs_from_its_configuration(tmp_path: Path, slide_path: Path) -> None:
    config = yaml.safe_load((ROOT / "pipelines" / "configs" / "classify_slides.yaml").read_text())
    config |= {"slides": [str(slide_path)], "out": str(tmp_path / "out"), "device": "cpu"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, str(ROOT / "pipelines" / "classify_slides.py"), str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out" / "slides.csv", encoding="utf-8", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done"]


def test_classify_slides_names_a_misspelt_setting(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("slides: [x.svs]\nmodle: mine\n")
    command = [sys.executable, str(ROOT / "pipelines" / "classify_slides.py"), str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "unknown setting 'modle'" in done.stderr


@pytest.mark.parametrize(
    ("name", "group", "setting", "value"),
    [("irene_phantom", "decoder", "bidirectional", 2), ("mirror_phantom", "mirror", "retention", 0.1)],
)
def test_the_configurations_of_options_train_on_the_synthetic_cohort(
    name: str, group: str, setting: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [sys.executable, str(ROOT / "pipelines" / "phantom_cohort.py"), "-o", str(tmp_path / "cohort")]
    done = subprocess.run([*made, "--patients", "60"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("WSIKIT_COHORT", str(tmp_path / "cohort"))
    config = yaml.safe_load((ROOT / "pipelines" / "configs" / f"{name}.yaml").read_text())
    config["umeml"] |= {"epochs": 1, "width": 16}
    config |= {"split": {"folds": 2, "seeds": [0]}, "baselines": False, "deploy": False, "draws": 100}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    trained = CliRunner().invoke(cli, ["train", str(tmp_path / "config.yaml"), "-o", str(tmp_path / "out")])
    assert trained.exit_code == 0, trained.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["settings"]["umeml"][group][setting] == value
    assert "clinical 2" in metrics["data"]
    assert 0 < metrics["survival"]["models"]["UMEML"]["c_harrell"]["value"] < 1
