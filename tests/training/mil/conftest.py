"""Bags of a toy cohort: a positive slide has some patches with a high first number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wsikit.training.mil.config import MilTrainConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def write_bag(folder: Path, name: str, features: np.ndarray) -> None:
    """In torchmil's layout."""
    for part, values in (("features", features), ("coords", 448 * np.stack([np.arange(len(features))] * 2, axis=1))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        np.save(folder / part / f"{name}.npy", values)


Cohort = Callable[..., Path]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """A manifest of bags: two slides per patient, the classes in turn; `columns` gives further cells of slide i."""

    def make(n_patients: int = 16, n_classes: int = 2, columns: dict[str, Callable[[int], Any]] | None = None) -> Path:
        rng = np.random.default_rng(0)
        columns = columns or {"label": lambda i: "abc"[(i // 2) % n_classes]}
        lines = [",".join(["features", "slide", "patient", *columns])]
        for i in range(2 * n_patients):
            grade = (i // 2) % n_classes
            x = rng.normal(size=(rng.integers(6, 14), 4)).astype(np.float32)
            x[:3, 0] += 4 * grade
            write_bag(tmp_path / "bags", f"s{i}", x)
            cells = [str(value(i)) for value in columns.values()]
            lines.append(",".join([f"bags/features/s{i}.npy", f"s{i}", f"p{i // 2}", *cells]))
        (tmp_path / "cohort.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "cohort.csv"

    return make


def settings(manifest: Path, **changes: Any) -> MilTrainConfig:
    record: dict[str, Any] = {
        "architecture": "mil",
        "name": "toy",
        "data": {"manifest": str(manifest), "mpp": 0.5, "patch_px": 224},
        "classes": [{"code": "a"}, {"code": "b"}],
        "features": "toy",
        "mil": {"hidden": 8, "attention": 4, "dropout": 0.0},
        "training": {"epochs": 30, "lr": 0.01},
        "split": {"folds": 2, "test": 0.25},
    }
    return MilTrainConfig.model_validate(record | changes)
