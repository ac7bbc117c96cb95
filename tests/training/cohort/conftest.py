"""A small cohort: a table with follow-up, classes, genes and hospitals; some columns carry signal."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsikit.training.cohort.config import CohortTrainConfig
from wsikit.training.cohort.protocol import Part

N = 120


def rows_of_cohort(n: int = N, *, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the table: the risk is age + gene G0, the class is the sign of G1."""
    rng = np.random.default_rng(seed)
    genes, age = rng.normal(size=(n, 12)), rng.uniform(30, 80, n)
    time = rng.exponential(30 * np.exp(-1.8 * genes[:, 0] - (age - 55) / 20)) + 0.03
    censoring = rng.exponential(80, n) + 0.03
    rows = []
    for i in range(n):
        row: dict[str, Any] = {
            "patient": f"P{i:03d}",
            "slide": f"P{i:03d}-A.svs",
            "hospital": f"H{i % 12}",
            "age": round(float(age[i]), 1),
            "sex": i % 2,
            "months": round(float(min(time[i], censoring[i])), 2),
            "died": int(time[i] <= censoring[i]),
            "kind": "A" if genes[i, 1] > 0 else "B",
        }
        rows.append(row | {f"G{j}_rna": round(float(genes[i, j]), 4) for j in range(12)})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Rows of the table, to be changed."""
    return rows_of_cohort()


@pytest.fixture
def configured(tmp_path: Path) -> Callable[..., CohortTrainConfig]:
    """Writes rows as a CSV and gives their configuration: configured(rows, survival={…}, labels=…, data={…}, …)."""

    def make(rows: list[dict[str, Any]], **changes: Any) -> CohortTrainConfig:
        path = write_rows(tmp_path / "cohort.csv", rows)
        data = {
            "csv": str(path),
            "site": "hospital",
            "columns": {"rna": "*_rna", "clinical": ["age", "sex"]},
        } | changes.pop("data", {})
        record: dict[str, Any] = {
            "architecture": "baselines",
            "name": "cohort",
            "data": data,
            "survival": {"time": "months", "event": "died"},
            "split": {"folds": 3, "seeds": [0], "validation": 0.25},
            "components": 3,
            "draws": 100,
        }
        return CohortTrainConfig.model_validate(record | changes)

    return make


def part_of(n: int = N, *, seed: int = 0) -> Part:
    """The same cohort as a part."""
    table = rows_of_cohort(n, seed=seed)
    genes = np.array([[row[f"G{j}_rna"] for j in range(12)] for row in table], dtype=np.float32)
    clinical = np.array([[row["age"], row["sex"]] for row in table], dtype=np.float32)
    return Part(
        ids=tuple(row["patient"] for row in table),
        columns={"rna": genes, "clinical": clinical},
        names={"rna": tuple(f"G{j}_rna" for j in range(12)), "clinical": ("age", "sex")},
        time=np.array([row["months"] for row in table]),
        event=np.array([row["died"] == 1 for row in table]),
        labels=np.array([0 if row["kind"] == "A" else 1 for row in table]),
        classes=("A", "B"),
    )
