"""Patches whose class follows from planted concepts, which their features reveal."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from wsikit.models.concept_criteria import Criteria, read_criteria
from wsikit.models.model_folder import EncoderRecord
from wsikit.training.concepts.config import ConceptTrainConfig
from wsikit.training.concepts.data import ConceptData
from wsikit.training.data import PatchSet

CLASSES = ("UD", "PD", "D", "other")
AXES = ("neuropil", "differentiation", "necrosis")


@pytest.fixture(autouse=True)
def _one_thread_of_blas() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@dataclass(frozen=True)
class World:
    """Planted patches; row i of each field is one patch."""

    criteria: Criteria
    concepts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.str_]
    features: npt.NDArray[np.float32]

    def data(self, rows: Any = slice(None), *, concepts: npt.NDArray[np.int64] | None = None) -> ConceptData:
        """Some patches; `concepts` replaces the planted ones."""
        chosen = self.concepts if concepts is None else concepts
        labels = self.labels[rows]
        patches = PatchSet(np.zeros((len(labels), 0, 0, 3), np.uint8), labels, self.groups[rows], ("",) * len(labels))
        encoder = EncoderRecord(name="planted", width=self.features.shape[1])
        return ConceptData(patches, self.features[rows], None, chosen[rows], None, encoder, 0.5, "")

    @property
    def halves(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows of the first and of the last half of the patients."""
        first = np.isin(self.groups, np.unique(self.groups)[::2])
        return np.flatnonzero(first), np.flatnonzero(~first)


def make_world(*, noise: float, patients: int = 60, each: int = 6, seed: int = 0) -> World:
    """Concepts at random, the class by a rule, and features that are a linear map of the concepts plus noise."""
    rng = np.random.default_rng(seed)
    criteria = read_criteria("inpc").only(AXES)
    n = patients * each
    sizes = [len(axis.options) for axis in criteria.axes.values()]
    concepts = np.stack([rng.integers(size, size=n) for size in sizes], axis=1)
    concepts[:, 2] = rng.choice(3, n, p=[0.5, 0.25, 0.25])
    labels = np.where(concepts[:, 0] == 0, 0, 1)
    labels = np.where(concepts[:, 1] == 2, 2, labels)
    labels = np.where(concepts[:, 2] == 2, 3, labels)
    shown = np.concatenate([np.eye(size)[concepts[:, axis]] for axis, size in enumerate(sizes)], axis=1)
    features = shown @ rng.normal(size=(sum(sizes), 24)) + rng.normal(0, noise, (n, 24))
    groups = np.repeat([f"p{index:02d}" for index in range(patients)], each)
    return World(criteria, concepts.astype(np.int64), labels.astype(np.int64), groups, features.astype(np.float32))


@pytest.fixture(scope="session")
def world() -> World:
    return make_world(noise=1.6)


def settings_of(**changes: Any) -> ConceptTrainConfig:
    """A configuration; keywords replace sections."""
    record: dict[str, Any] = {
        "architecture": "concepts",
        "name": "toy",
        "data": {"names": {"images": ".", "pattern": "x"}, "mpp": 0.5, "patch_px": 8},
        "classes": [{"code": code, "background": code == "other"} for code in CLASSES],
        "image": {"features": "planted"},
        "concepts": {"scores": "learned", "labels": {"source": "table"}, "axes": list(AXES)},
    }
    return ConceptTrainConfig.model_validate(record | changes)


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Path:
    """The patches as a folder: images without content, patches.csv with classes and concepts, features.npz."""
    place = tmp_path / "images"
    place.mkdir()
    names = [f"{index}.png" for index in range(len(world.labels))]
    Image.new("RGB", (8, 8), (200, 120, 160)).save(place / names[0])
    for name in names[1:]:
        (place / name).write_bytes((place / names[0]).read_bytes())
    with open(place / "patches.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "class", "patient", *AXES])
        for index, name in enumerate(names):
            options = [tuple(axis.options) for axis in world.criteria.axes.values()]
            chosen = [options[axis][world.concepts[index, axis]] for axis in range(len(AXES))]
            table.writerow([name, CLASSES[world.labels[index]], world.groups[index], *chosen])
    np.savez(tmp_path / "features.npz", features=world.features, ids=np.array(names, dtype=np.str_))
    return place


@pytest.fixture
def settings(folder: Path) -> Callable[..., ConceptTrainConfig]:
    """Makes a configuration on that folder; keywords replace sections."""
    own = {
        "data": {"table": {"images": str(folder)}, "mpp": 0.5, "patch_px": 8},
        "image": {"features": "planted", "file": str(folder.parent / "features.npz")},
        "split": {"validation": 0.2, "test": 0.3},
    }
    return lambda **changes: settings_of(**(own | changes))
