"""Labelled images and stores with features, small enough for every test; the encoder is a few means of colour."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits

from wsikit.encoders.protocol import EncoderInfo
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.tile import tile
from wsikit.training.heads.config import HeadTrainConfig
from wsikit.training.heads.run import run_head_training


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
    """A folder of 90 patches of 30 patients, each of one class, which the colour reveals; and t.csv."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    rows = [["file_name", "class", "patient", "slide"]]
    for patient in range(30):
        code = list(COLOURS)[patient % 3]
        for i in range(3):
            name = f"{patient}_{i}.png"
            pixels = np.array(COLOURS[code]) + rng.normal(0, 12, (32, 32, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name)
            rows.append([name, code, f"p{patient}", f"p{patient}-s{i % 2}"])
    with open(folder / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def settings_of(**changes: Any) -> HeadTrainConfig:
    """A configuration of a head; keywords replace sections."""
    record: dict[str, Any] = {
        "name": "toy",
        "classes": [{"code": code} for code in COLOURS],
        "split": {"validation": 0.2, "test": 0.2},
        "image": {"features": "mean-colour"},
        "head": "linear",
    }
    return HeadTrainConfig.model_validate(record | changes)


@pytest.fixture
def settings(images: Path) -> Callable[..., HeadTrainConfig]:
    """Makes a configuration of a head on `images`; keywords replace sections."""
    data = {"table": {"images": str(images)}, "mpp": 0.5, "patch_px": 32}
    return lambda **changes: settings_of(**({"data": data} | changes))


Store = Callable[..., Path]


@pytest.fixture(scope="session")
def tiled(tmp_path_factory: pytest.TempPathFactory, write_slide: Any, pixels: npt.NDArray[np.uint8]) -> Path:
    """A store of the disc with patches of 64 px and no features."""
    folder = tmp_path_factory.mktemp("tiled")
    with tile(write_slide(folder / "disc.tiff", pixels), folder / "disc.zarr", patch_px=64):
        return folder / "disc.zarr"


@pytest.fixture(scope="session")
def make_store(tiled: Path) -> Store:
    """Copies that store to a path, with features of `mean-colour` that reveal whether a patch is right of x = 700."""

    def make(path: Path, *, fingerprint: str | None = "f00d", width: int = 12, seed: int = 0) -> Path:
        shutil.copytree(tiled, path)
        record = json.loads((path / "zarr.json").read_text())
        record["attributes"]["wsikit"]["slide_id"] = path.stem
        (path / "zarr.json").write_text(json.dumps(record))
        with SlideStore(path) as store:
            write_features(store.patches(), fingerprint=fingerprint, width=width, seed=seed)
        return path

    return make


def write_features(
    table: PatchTable, *, fingerprint: str | None = "f00d", width: int = 12, seed: int = 0, lost: tuple[int, ...] = ()
) -> None:
    """Write the column features_mean-colour; NaN in the rows `lost`."""
    rng = np.random.default_rng(seed)
    x = (table.coords[:, :1] + 32 > 700).astype(np.float32)
    features = (x + rng.normal(0, 0.1, (len(table), width))).astype(np.float16)
    features[list(lost)] = np.nan
    record: Any = {"name": "mean-colour", "fingerprint": fingerprint} if fingerprint else "mean-colour"
    spec = ColumnSpec("features_mean-colour", "float16", width, {"encoder": record})
    for rows in table.prepare([spec], Receipt("features", 1, {"seed": seed, "lost": list(lost)})):
        table.write(spec.name, rows, features[rows])


@dataclass(frozen=True)
class Trained:
    """A head trained on six stores."""

    out: Path
    config: HeadTrainConfig
    manifest: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, make_store: Store) -> Trained:
    """A head trained on six stores of two classes, divided at x = 700."""
    folder = tmp_path_factory.mktemp("trained")
    write_regions(folder / "r.geojson", {"left": (250, 200, 700, 900), "right": (700, 200, 1150, 900)})
    rows = [["store", "regions", "patient"]]
    rows += [[str(make_store(folder / f"s{i}.zarr", seed=i)), "r.geojson", f"p{i}"] for i in range(6)]
    with open(folder / "slides.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    data = {"stores": {"manifest": str(folder / "slides.csv")}, "patch_px": 64}
    config = settings_of(data=data, classes=[{"code": "left"}, {"code": "right"}])
    run_head_training(config, folder / "out")
    return Trained(folder / "out", config, folder / "slides.csv")


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
