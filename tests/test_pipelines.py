"""The pipelines run as their own first lines say."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import yaml

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
