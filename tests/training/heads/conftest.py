"""Labelled images and stores with features, small enough for every test; the encoder is a few means of colour."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from wsikit.encoders.protocol import EncoderInfo
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile
from wsikit.training.heads.config import HeadTrainConfig


@pytest.fixture(autouse=True)
def _one_thread_of_blas() -> Iterator[None]:
    with threadpool_limits(1):
        yield


COLOURS = {"UD": (90, 40, 130), "PD": (150, 80, 160), "D": (220, 170, 200)}


class MeanColour:
    """An encoder: mean colour of each quarter of a patch, 12 numbers; NaN for a black patch."""

    def __init__(self, fingerprint: str = "f00d") -> None:
        self.info = EncoderInfo("mean-colour", 12, 32, None, fingerprint, source="a test", licence="CC0-1.0")

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        half = images.shape[1] // 2
        parts = images[:, : 2 * half, : 2 * half].reshape(len(images), 2, half, 2, half, 3).mean(axis=(2, 4)) / 255
        features = parts.reshape(len(images), 12).astype(np.float32)
        features[(images == 0).all(axis=(1, 2, 3))] = np.nan
        return features


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 180 patches of 30 patients, each of one class, which the colour reveals; and t.csv."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    rows = [["file_name", "class", "patient", "slide"]]
    for patient in range(30):
        code = list(COLOURS)[patient % 3]
        for i in range(6):
            name = f"{patient}_{i}.png"
            pixels = np.array(COLOURS[code]) + rng.normal(0, 12, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            rows.append([name, code, f"p{patient}", f"p{patient}-s{i % 2}"])
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture
def settings(images: Path) -> Callable[..., HeadTrainConfig]:
    """A configuration of a head on `images`; keywords replace sections."""

    def make(**changes: Any) -> HeadTrainConfig:
        record: dict[str, Any] = {
            "name": "toy",
            "data": {"table": {"images": str(images)}, "mpp": 0.5, "patch_px": 32},
            "classes": [{"code": code} for code in COLOURS],
            "split": {"validation": 0.2, "test": 0.2},
            "image": {"features": "mean-colour"},
            "head": "linear",
        }
        return HeadTrainConfig.model_validate(record | changes)

    return make


Store = Callable[..., Path]


@pytest.fixture
def make_store(tmp_path: Path, slide_path: Path) -> Store:
    """Writes a store of the disc with patches of 64 px, and their features as the column features_mean-colour."""

    def make(name: str = "disc", *, fingerprint: str | None = "f00d", width: int = 12, seed: int = 0) -> Path:
        folder = tmp_path / f"{name}.zarr"
        with tile(slide_path, folder, patch_px=64) as store:
            table = store.patches()
            rng = np.random.default_rng(seed)
            x = (table.coords[:, :1] + 32 > 700).astype(np.float32)  # right of the middle
            features = (x + rng.normal(0, 0.1, (len(table), width))).astype(np.float16)
            record: Any = {"name": "mean-colour", "fingerprint": fingerprint} if fingerprint else "mean-colour"
            spec = ColumnSpec("features_mean-colour", "float16", width, {"encoder": record})
            for rows in table.prepare([spec], Receipt("features", 1, {"seed": seed})):
                table.write(spec.name, rows, features[rows])
        return folder

    return make


def ring(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]


def write_regions(path: Path, boxes: dict[str, tuple[int, int, int, int]]) -> None:
    """A GeoJSON with one box per class."""
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring(*box)]},
            "properties": {"objectType": "annotation", "classification": {"name": code}},
        }
        for code, box in boxes.items()
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
