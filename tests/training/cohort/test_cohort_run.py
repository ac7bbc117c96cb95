"""`wsikit train` on a cohort: files, resuming, learners from outside, refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from tests.training.cohort.conftest import rows_of_cohort, write_rows
from wsikit.cli.main import cli
from wsikit.errors import RequestError
from wsikit.training.cohort import cross_validation
from wsikit.training.cohort.config import CohortTrainConfig
from wsikit.training.cohort.cross_validation import FoldResult
from wsikit.training.cohort.protocol import Part, Prediction
from wsikit.training.cohort.run import CohortCallbacks, run_cohort_training
from wsikit.training.task import read_config

Rows = list[dict[str, Any]]
Configured = Callable[..., CohortTrainConfig]


@dataclass
class Oracle:
    """A network for tests: the risk is gene G0 and age, the class the sign of G1; counts its fits."""

    name: str = "oracle"
    fits: int = 0
    stop_at: int | None = None

    def fit(self, train: Part, validation: Part, seed: int) -> Oracle:
        self.fits += 1
        if self.fits == self.stop_at:
            raise KeyboardInterrupt
        return self

    def predict(self, part: Part) -> Prediction:
        assert part.time is None
        genes, age = part.columns["rna"], part.columns["clinical"][:, 0]
        risk = (1.8 * genes[:, 0] + (age - 55) / 20).astype(float)
        times = np.linspace(1, 100, 50)
        survival = np.exp(-np.outer(np.exp(risk), times) / 30)
        if not part.classes:
            return Prediction(risk, survival, times)
        first = np.where(genes[:, 1] > 0, 0.9, 0.1)
        return Prediction(risk, survival, times, np.stack([first, 1 - first], axis=1))


def test_a_run_writes_metrics_predictions_splits_and_figures(
    rows: Rows, configured: Configured, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    metrics = run_cohort_training(configured(rows, labels={"column": "kind"}), out, network=Oracle())
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "splits.json", "folds", "metrics.json", "predictions.csv", "km.png", "calibration.png",
    }  # fmt: skip
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    models = metrics["survival"]["models"]
    assert list(models)[:3] == ["oracle", "no column", "age"]
    best = models["oracle"]["c_harrell"]
    assert best["low"] < best["value"] < best["high"]
    assert best["value"] > models["late fusion"]["c_harrell"]["value"] - 0.02 > models["age"]["c_harrell"]["value"]
    assert models["oracle"]["integrated_brier"]["value"] < models["no column"]["integrated_brier"]["value"]
    over_age = metrics["survival"]["differences"]["age"]["c_harrell"]
    assert over_age["low"] > 0
    assert metrics["classes"]["models"]["oracle"]["accuracy"]["value"] == 1.0
    of_oracle = metrics["survival"]["groups"]["oracle"]
    assert of_oracle["log_rank_p"] < 1e-3
    assert of_oracle["high"]["events"] > of_oracle["low"]["events"]
    assert of_oracle["high"]["median_months"] < of_oracle["low"]["median_months"]
    groups = metrics["survival"]["calibration"]["oracle"]["12"]["groups"]
    assert sum(one["n"] for one in groups) == 120
    with open(out / "predictions.csv", encoding="utf-8", newline="") as file:
        written = [row for row in csv.DictReader(file) if row["learner"] == "oracle"]
    assert len({row["patient"] for row in written}) == len(written) == 120
    assert {row["group"] for row in written} == {"low", "high"}


def test_an_interrupted_run_resumes_to_the_same_metrics(rows: Rows, configured: Configured, tmp_path: Path) -> None:
    config = configured(rows)
    whole = run_cohort_training(config, tmp_path / "whole", network=Oracle())
    with pytest.raises(KeyboardInterrupt):
        run_cohort_training(config, tmp_path / "out", network=Oracle(stop_at=2))
    with pytest.raises(RequestError, match="unfinished run"):
        run_cohort_training(config, tmp_path / "out", network=Oracle())
    network = Oracle()
    resumed = run_cohort_training(config, tmp_path / "out", network=network, resume=True)
    assert network.fits == 2
    assert resumed["survival"] == whole["survival"]
    with pytest.raises(RequestError, match="finished run"):
        run_cohort_training(config, tmp_path / "out", network=Oracle(), resume=True)


def test_a_run_is_not_resumed_with_other_data(rows: Rows, configured: Configured, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_cohort_training(configured(rows), tmp_path / "out", network=Oracle(stop_at=2))
    rows[0]["G0_rna"] += 1
    with pytest.raises(RequestError, match="begun with other data"):
        run_cohort_training(configured(rows), tmp_path / "out", network=Oracle(), resume=True)


def test_grades_have_a_quadratic_kappa(rows: Rows, configured: Configured, tmp_path: Path) -> None:
    labels = {"column": "kind", "ordered": True}
    metrics = run_cohort_training(configured(rows, labels=labels, survival=None), tmp_path / "out", network=Oracle())
    assert metrics["classes"]["models"]["oracle"]["kappa_quadratic"]["value"] == 1.0
    assert metrics["classes"]["models"]["no column"]["kappa_quadratic"]["value"] == 0.0
    assert "survival" not in metrics
    assert not (tmp_path / "out" / "km.png").exists()


def test_a_learner_that_breaks_the_protocol_is_named(rows: Rows, configured: Configured, tmp_path: Path) -> None:
    class Short(Oracle):
        def predict(self, part: Part) -> Prediction:
            return Prediction(np.zeros(3))

    with pytest.raises(RequestError, match=r"short: risk of shape \(3,\); expected"):
        run_cohort_training(configured(rows), tmp_path / "out", network=Short(name="short"))


def test_each_fold_is_reported_when_it_is_done(rows: Rows, configured: Configured, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def note(result: FoldResult, done: int, total: int) -> None:
        seen.append((result.learner, done, total))

    config = configured(rows, data={"columns": {"clinical": ["age", "sex"], "rna": "G*_rna"}})
    run_cohort_training(config, tmp_path / "out", network=Oracle(), callbacks=CohortCallbacks(fold=note))
    assert [one[1:] for one in seen] == [(done, 24) for done in range(1, 25)]
    assert [one[0] for one in seen].count("oracle") == 3


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """cohort.csv, other.csv and config.yaml."""
    write_rows(tmp_path / "cohort.csv", rows_of_cohort())
    write_rows(tmp_path / "other.csv", rows_of_cohort(90, seed=5))
    config = {
        "architecture": "baselines",
        "name": "cohort",
        "data": {
            "csv": "cohort.csv",
            "site": "hospital",
            "columns": {"rna": "*_rna", "clinical": ["age", "sex"]},
        },
        "survival": {"time": "months", "event": "died"},
        "split": {"folds": 3, "seeds": [0]},
        "draws": 100,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return tmp_path


def call(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["train", *map(str, arguments)], standalone_mode=True)
    text = result.output + ("" if result.exception is None else str(result.exception))
    return result.exit_code, text


def test_a_dry_run_checks_and_writes_nothing(written: Path) -> None:
    code, text = call(written / "config.yaml", "--dry-run")
    assert code == 0, text
    assert "120 patients of 12 sites" in text
    assert "seed 0: 3 folds of training + validation + test" in text
    assert {path.name for path in written.iterdir()} == {"cohort.csv", "other.csv", "config.yaml"}


def test_the_same_configuration_runs_on_another_table_of_the_same_layout(written: Path) -> None:
    code, text = call(written / "config.yaml", "--data", written / "other.csv", "-o", written / "out", "--threads", "1")
    assert code == 0, text
    assert "90 patients of 12 sites" in text
    assert "late fusion" in text
    assert "C (Harrell)" in text


def test_a_table_of_few_hospitals_runs_with_the_same_configuration_and_a_warning(written: Path) -> None:
    few = [row | {"hospital": f"医院{i % 3}"} for i, row in enumerate(rows_of_cohort(90, seed=5))]
    write_rows(written / "other.csv", few)
    arguments = (written / "config.yaml", "--data", written / "other.csv", "--threads", "1")
    code, text = call(*arguments, "--dry-run", "--strict")
    assert code != 0
    assert "not kept apart, as 3 hospitals are too few for 3 folds" in text
    code, text = call(*arguments, "-o", written / "out")
    assert code == 0, text
    assert json.loads((written / "out" / "splits.json").read_text(encoding="utf-8"))["sites"] == "balanced"
    assert "3 hospitals" in str(json.loads((written / "out" / "metrics.json").read_text(encoding="utf-8"))["findings"])


def test_without_o_the_folder_has_the_name_of_the_configuration(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(written)
    code, text = call("config.yaml", "--threads", "1")
    assert code == 0, text
    assert (written / "config" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "baselines", "baselines": False}, "leaves nothing to do"),
        ({"survival": None}, "there is nothing to learn"),
        ({"survival": {"time": "months"}}, "give either event"),
        ({"data": {"csv": "no.csv", "columns": {"rna": "*_rna"}}}, "no such file"),
        ({"survival": {"time": "months", "event": "dead"}}, "no column 'dead'; did you mean 'died'?"),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(written: Path, change: dict[str, Any], said: str) -> None:
    record = yaml.safe_load((written / "config.yaml").read_text(encoding="utf-8")) | change
    (written / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    code, text = call(written / "config.yaml", "-o", written / "out")
    assert code != 0
    assert said in text
    assert not (written / "out").exists()


def test_warnings_are_refused_with_strict(written: Path) -> None:
    rows = rows_of_cohort()
    rows[3]["months"] = 0
    write_rows(written / "cohort.csv", rows)
    assert call(written / "config.yaml", "--dry-run")[0] == 0
    code, text = call(written / "config.yaml", "--dry-run", "--strict")
    assert code != 0
    assert "a months of 0" in text


@pytest.mark.parametrize("name", ["baselines_gbmlgg", "umeml_gbmlgg", "umeml_gbmlgg_class", "umeml_gbmlgg_grade"])
def test_the_configurations_of_the_glioma_cohort_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIKIT_DATA", "somewhere")
    root = Path(__file__).parents[3]
    config = read_config(root / "pipelines" / "configs" / f"{name}.yaml", CohortTrainConfig, data="other.csv")
    assert Path(config.data.csv).name == "other.csv"
    assert config.data.columns["rna"] == ("*_rnaseq",)
    assert config.split.sites == "auto"


def test_gene_sets_are_found_next_to_the_configuration(written: Path) -> None:
    (written / "sets.gmt").write_text("a\tsource\tA\n")
    record = yaml.safe_load((written / "config.yaml").read_text())
    sets = {"tokens": "gene_sets", "gene_sets": "sets.gmt"}
    record |= {"architecture": "umeml", "umeml": {"tables": {"rna": sets, "mut": [sets, {"tokens": "row"}]}}}
    (written / "config.yaml").write_text(yaml.safe_dump(record))
    tables = read_config(written / "config.yaml", CohortTrainConfig).umeml["tables"]
    assert [tables["rna"]["gene_sets"], tables["mut"][0]["gene_sets"]] == [str(written / "sets.gmt")] * 2


def test_a_stopped_training_of_umeml_resumes_by_fold_to_the_same_predictions(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold's training depends on its patients and its seed, not on folds that the same process did before."""
    record = yaml.safe_load((written / "config.yaml").read_text(encoding="utf-8"))
    small = {
        "width": 8,
        "epochs": 1,
        "decoder": {"heads": 2},
        "tables": {"rna": {"heads": 2}, "clinical": {"heads": 2}},
    }
    record |= {"architecture": "umeml", "umeml": small, "baselines": False, "deploy": False}
    (written / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    assert call(written / "config.yaml", "-o", written / "whole", "--threads", "1")[0] == 0
    write_fold, fits = cross_validation.write_fold, 0

    def stop_at_the_third(path: Path, result: FoldResult) -> None:
        nonlocal fits
        fits += 1
        if fits == 3:
            raise KeyboardInterrupt
        write_fold(path, result)

    monkeypatch.setattr(cross_validation, "write_fold", stop_at_the_third)
    assert call(written / "config.yaml", "-o", written / "out", "--threads", "1")[0] != 0
    assert len(list((written / "out" / "folds").iterdir())) == 2
    code, text = call(written / "config.yaml", "-o", written / "out", "--threads", "1")
    assert code != 0
    assert "--resume" in text
    code, text = call(written / "config.yaml", "-o", written / "out", "--threads", "1", "--resume")
    assert code == 0, text
    assert fits == 4
    predictions = [(written / run / "predictions.csv").read_bytes() for run in ("whole", "out")]
    assert predictions[0] == predictions[1]


def test_umeml_runs_on_another_small_table_without_hospitals_with_few_events_and_two_slides_of_a_patient(
    written: Path,
) -> None:
    """The glioma configuration's settings, smaller: ten intervals are too many for 15 events, a gene is constant, ages
    are missing; new patients are predicted and evaluated by the model."""
    rows = [{name: cell for name, cell in row.items() if name != "hospital"} for row in rows_of_cohort(90, seed=5)]
    died = [i for i, row in enumerate(rows) if row["died"]]
    for i, row in enumerate(rows):
        row |= {"died": int(i in died[:15]), "G3_rna": 1.5, "age": "" if i % 9 == 0 else row["age"], "slide": f"s{i}"}
    write_rows(written / "other.csv", [*rows, *(row | {"slide": row["slide"] + "b"} for row in rows[::10])])
    new = [row | {"patient": f"new {i}", "G3_rna": 1.0} for i, row in enumerate(rows)]
    write_rows(written / "new.csv", new)
    record = yaml.safe_load((written / "config.yaml").read_text(encoding="utf-8"))
    del record["data"]["site"]
    record |= {
        "architecture": "umeml",
        "umeml": {"width": 8, "epochs": 1, "batch": 64, "decoder": {"heads": 4}, "refit": True, "survival": "chosen"},
    }
    (written / "config.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    arguments = ("--data", written / "other.csv", "-o", written / "out", "--threads", "1")
    code, text = call(written / "config.yaml", *arguments)
    assert code == 0, text
    assert "UMEML minus late fusion" in text
    model = ("--model", str(written / "out" / "model"))
    for command in (
        ["predict", str(written / "new.csv"), *model],
        ["evaluate", *model[1:], "--data", str(written / "new.csv")],
    ):
        result = CliRunner().invoke(cli, [*command, "-o", str(written / command[0])])
        assert result.exit_code == 0, result.output
        assert len((written / command[0] / "patients.csv").read_text(encoding="utf-8").splitlines()) == 91
