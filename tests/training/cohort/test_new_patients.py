"""A model of patients after its training: predictions of a new table, evaluation on another cohort."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tests.training.cohort.conftest import rows_of_cohort, write_rows
from wsikit.cli.main import cli
from wsikit.training.cohort import learners
from wsikit.training.cohort.learners import Network

STUB = "tests.training.cohort.stub_network"


def call(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    return result.exit_code, result.output + ("" if result.exception is None else str(result.exception))


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cohort.csv, config.yaml and the finished run out/ of a stub in place of UMEML."""
    parts = ("StubSettings", "StubLearner", "save_stub", "load_stub", "explain_stub")
    monkeypatch.setitem(learners.NETWORKS, "umeml", Network(*(f"{STUB}:{part}" for part in parts)))
    write_rows(tmp_path / "cohort.csv", rows_of_cohort())
    config: dict[str, Any] = {
        "architecture": "umeml",
        "name": "stub",
        "data": {"csv": "cohort.csv", "site": "hospital", "columns": {"rna": "*_rna", "clinical": ["age", "sex"]}},
        "survival": {"time": "months", "event": "died", "horizons": [12, 36]},
        "labels": {"column": "kind"},
        "split": {"folds": 3, "seeds": [0]},
        "baselines": False,
        "draws": 100,
        "umeml": {"slope": 1.5},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    code, text = call("train", tmp_path / "config.yaml", "-o", tmp_path / "out", "--device", "cpu")
    assert code == 0, text
    return tmp_path


def others(n: int = 60) -> list[dict[str, Any]]:
    """Rows of other patients, of a hospital that their table does not name."""
    table = [row | {"patient": f"Q{i}"} for i, row in enumerate(rows_of_cohort(n, seed=9))]
    return [{name: value for name, value in row.items() if name != "hospital"} for row in table]


def test_the_model_states_its_columns_and_hides_its_patients(trained: Path) -> None:
    about = json.loads((trained / "out" / "model" / "cohort.json").read_text())
    assert about["data"]["columns"]["clinical"] == ["age", "sex"]
    assert len(about["data"]["columns"]["rna"]) == 12
    assert len(about["patients"]) == 120
    assert "P000" not in json.dumps(about)
    assert (trained / "out" / "model" / "metrics.json").is_file()


def test_new_patients_need_no_configuration_and_no_outcome(trained: Path) -> None:
    kept = ["patient", "age", "sex", *(f"G{j}_rna" for j in reversed(range(12)))]
    write_rows(trained / "new.csv", [{name: row[name] for name in kept} for row in others(5)])
    code, text = call("predict", trained / "new.csv", "--model", trained / "out" / "model", "-o", trained / "pred")
    assert code == 0, text
    with open(trained / "pred" / "patients.csv", encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    row = others(5)[0]
    assert [one["patient"] for one in found] == [f"Q{i}" for i in range(5)]
    risk = 1.5 * row["G0_rna"] + (row["age"] - 55) / 20
    assert float(found[0]["risk"]) == pytest.approx(risk, rel=1e-4)
    # the curve is a step function at 50 times, two months apart
    assert float(found[0]["survival_36m"]) == pytest.approx(np.exp(-np.exp(risk) * 36 / 30), abs=0.05)
    assert found[0]["class"] == row["kind"]
    assert {one["group"] for one in found} <= {"low", "high"}
    with open(trained / "pred" / "curves.csv", encoding="utf-8", newline="") as file:
        curve = [float(one["survival"]) for one in csv.DictReader(file) if one["patient"] == "Q0"]
    assert curve[0] == 1.0
    assert curve == sorted(curve, reverse=True)
    view = json.loads((trained / "pred" / "patients" / "Q0.json").read_text())
    assert list(view["relevance"]["rna"])[0] == "G29"
    assert len(view["relevance"]["rna"]) == 20


def test_a_new_table_without_a_column_of_the_model_is_refused(trained: Path) -> None:
    write_rows(trained / "new.csv", [{k: v for k, v in row.items() if k != "G3_rna"} for row in others(5)])
    code, text = call("predict", trained / "new.csv", "--model", trained / "out" / "model", "-o", trained / "pred")
    assert code != 0
    assert "no column 'G3_rna'" in text
    assert not (trained / "pred").exists()


def test_patients_of_the_training_are_reported_when_predicted(trained: Path) -> None:
    code, text = call("predict", trained / "cohort.csv", "--model", trained / "out" / "model", "-o", trained / "pred")
    assert code == 0, text
    assert "120 of 120 patients were in the training" in text


def test_another_cohort_is_evaluated_with_the_configuration_of_the_training(trained: Path) -> None:
    write_rows(trained / "other.csv", others())
    code, text = call("evaluate", trained / "out" / "model", "--data", trained / "other.csv", "-o", trained / "eval")
    assert code == 0, text
    assert "C (Harrell)" in text
    metrics = json.loads((trained / "eval" / "metrics.json").read_text())
    assert metrics["survival"]["models"]["stub"]["c_harrell"]["value"] > 0.7
    assert metrics["classes"]["models"]["stub"]["accuracy"]["value"] == 1.0
    assert metrics["patients_seen_in_training"] == 0
    assert {"km.png", "calibration.png", "patients.csv"} <= {path.name for path in (trained / "eval").iterdir()}


def test_an_evaluation_on_patients_of_the_training_is_refused(trained: Path) -> None:
    code, text = call("evaluate", trained / "out" / "model", "-o", trained / "eval")
    assert code != 0
    assert "trained or selected on 120 of these patients" in text
    assert not (trained / "eval").exists()
    code, text = call("evaluate", trained / "out" / "model", "-o", trained / "eval", "--allow-seen")
    assert code == 0, text
    assert json.loads((trained / "eval" / "metrics.json").read_text())["patients_seen_in_training"] == 120


def test_options_of_patients_are_refused_for_stores(trained: Path) -> None:
    code, text = call("predict", "x.zarr", "-o", trained / "pred")
    assert code != 0
    assert "for models of patients" in text
