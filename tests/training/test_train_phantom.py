"""The pipeline of the packaged model, end to end on a handful of tiny slides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wsikit.models.io import load_model, packaged_models

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "pipelines" / "configs" / "train_phantom.yaml"


@pytest.mark.slow
def test_one_command_makes_slides_a_model_its_card_and_its_metrics(tmp_path: Path):
    config = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    config["data"] |= {"train_seeds": [0, 3], "test_seeds": [90, 93], "slide_px": 672, "most_per_training_slide": 6}
    config["training"] |= {"epochs": 4, "batch": 8}
    config["threads"] = 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [sys.executable, ROOT / "pipelines" / "train_phantom.py", "--config", "tiny.yaml", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = load_model(tmp_path / "out" / "model")
    metrics = json.loads((tmp_path / "out" / "model" / "metrics.json").read_text())
    assert metrics["settings"]["data"]["train_seeds"] == [0, 3]
    assert len(metrics["epochs"]) == 4
    clear, everything = metrics["results"].values()
    assert [row["name"] for row in clear] == [row["name"] for row in everything]
    assert everything[0]["scores"]["n"] == metrics["patches"]["test"]
    assert "floor: colour histogram" in model.card
    assert "synthetic" in model.card


def test_the_packaged_model_was_made_with_the_settings_shipped():
    """A changed configuration without a new model would make the command of the card wrong."""
    assert "phantom-mmlnb" in packaged_models()
    folder = load_model("phantom-mmlnb").folder
    assert folder is not None
    made_with = json.loads((folder / "metrics.json").read_text())["settings"]
    shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))

    def compare(shipped: object, made: object, where: str) -> None:
        if isinstance(shipped, dict):
            assert isinstance(made, dict), where
            for key, value in shipped.items():
                compare(value, made[key], f"{where}.{key}")
        else:
            assert shipped == made, where

    compare(shipped, made_with, "settings")
