"""One cohort with the features of its slides in the files of other tools: training and prediction are the same."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import wsikit
from wsikit.cli.main import cli
from wsikit.exporters.hdf5 import PatchSource, write_layout
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec

PATIENTS = 24
FOLDERS = {
    "trident": "trident/20x_224px_0px_overlap/features_x",
    "clam": "clam",
    "clam, .pt": "clam/pt_files",
    "stamp": "stamp/x",
    "atlaspatch": "atlaspatch/patches",
}
"""What a lab gives as `features:`."""


def call(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cohort.csv, config.yaml, stores/ and the same features as files of each tool, written by wsikit's exporters."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    wsikit.make_phantom(folder / "slide.tiff", size_px=(700, 700))
    wsikit.tile(folder / "slide.tiff", folder / "one.zarr", mpp=0.5, patch_px=224)
    rows: list[dict[str, Any]] = []
    for number in range(PATIENTS):
        path, share = folder / "stores" / f"s{number}.zarr", rng.random()
        shutil.copytree(folder / "one.zarr", path)
        with SlideStore(path) as store:
            table = store.patches()
            features = rng.normal(size=(len(table), 6))
            features[: round(len(table) * share), 0] += 4
            features = features.astype(np.float16).astype(np.float32)  # so that STAMP's files hold the same numbers
            for block in table.prepare((ColumnSpec("features_x", "float32", 6),), Receipt("features", 1)):
                table.write("features_x", block, features[block])
            source = PatchSource(f"s{number}", table, "features_x", f"s{number}.svs")
            for layout in ("trident", "clam", "stamp", "atlaspatch"):
                write_layout(layout, folder / layout, source)
        months = float(rng.exponential(30 * np.exp(-3 * (share - 0.5)))) + 0.1
        age = round(float(rng.normal(60, 9)), 1)
        rows.append(
            {
                "patient": f"P{number}",
                "slide": f"s{number}.svs",
                "months": months,
                "died": int(number % 4 > 0),
                "age": age,
            }
        )
    with open(folder / "cohort.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config: dict[str, Any] = {
        "architecture": "umeml",
        "name": "slides",
        "data": {"csv": "cohort.csv", "slide": "slide", "features": "stores", "columns": {"clinical": "age"}},
        "survival": {"time": "months", "event": "died", "horizons": [12]},
        "split": {"folds": 2, "seeds": [0], "validation": 0.4},
        "draws": 100,
        "min_at_risk": 2,
        "umeml": {
            "width": 8,
            "epochs": 1,
            "decoder": {"heads": 2},
            "patches": {"prototypes": 3, "heads": 2},
            "tables": {"clinical": {"heads": 2, "direct": "columns"}},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    call("train", folder / "config.yaml", "-o", folder / "out", "--device", "cpu")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", FOLDERS)
def test_a_cohort_trains_and_predicts_from_the_files_of_other_tools_as_from_stores(
    cohort: Path, tmp_path: Path, layout: str
) -> None:
    config = yaml.safe_load((cohort / "config.yaml").read_text(encoding="utf-8"))
    config["data"]["features"], config["data"]["csv"] = str(cohort / FOLDERS[layout]), str(cohort / "cohort.csv")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    text = call("train", tmp_path / "config.yaml", "-o", tmp_path / "out", "--device", "cpu")
    assert "slides alone" in text
    assert f"{PATIENTS} slides" in json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["data"]
    assert (tmp_path / "out" / "predictions.csv").read_text() == (cohort / "out" / "predictions.csv").read_text()
    for model, features, out in (
        (tmp_path / "out" / "model", FOLDERS[layout], tmp_path / "one"),
        (cohort / "out" / "model", "stores", tmp_path / "two"),
    ):
        call("predict", cohort / "cohort.csv", "--model", model, "--features", cohort / features, "-o", out)
    assert (tmp_path / "one" / "patients.csv").read_text() == (tmp_path / "two" / "patients.csv").read_text()
    assert len(list((tmp_path / "one" / "patients").glob("*.html"))) == PATIENTS
