"""A network for tests that is configured, trained, saved and loaded as a real one: risk and class by fixed columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from wsikit.training.cohort.protocol import Part, Prediction


class StubSettings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = 1.8


@dataclass
class StubLearner:
    settings: StubSettings
    device: str = "cpu"
    name: str = "stub"

    def fit(self, train: Part, validation: Part, seed: int) -> StubLearner:
        return self

    def predict(self, part: Part) -> Prediction:
        assert part.time is None
        genes, age = part.columns["rna"], part.columns["clinical"][:, 0]
        risk = (self.settings.slope * genes[:, 0] + (age - 55) / 20).astype(float)
        times = np.linspace(1, 100, 50)
        survival = np.exp(-np.outer(np.exp(risk), times) / 30)
        first = np.where(genes[:, 1] > 0, 0.9, 0.1)
        probs = np.stack([first, 1 - first], axis=1) if part.classes else None
        return Prediction(risk, survival, times, probs)


@dataclass(frozen=True)
class StubView:
    id: str
    nodes: tuple[str, ...]
    relevance: dict[str, dict[str, float]]


def save_stub(fitted: StubLearner, folder: Path) -> None:
    folder.mkdir()
    (folder / "stub.json").write_text(fitted.settings.model_dump_json(), encoding="utf-8")


def load_stub(folder: Path, *, device: str = "cpu") -> StubLearner:
    return StubLearner(StubSettings.model_validate_json((folder / "stub.json").read_text(encoding="utf-8")), device)


def explain_stub(fitted: StubLearner, part: Part) -> list[StubView]:
    return [StubView(one, ("rna",), {"rna": {f"G{j}": float(j) for j in range(30)}}) for one in part.ids]
