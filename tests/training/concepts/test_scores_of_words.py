"""Concepts that are scored by the words of captions, and by maps of texts (`wsikit localize`): training and slides."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import wsikit
from tests.training.concepts.conftest import settings_of
from tests.training.heads.conftest import write_regions
from wsikit.errors import RequestError, StoreError
from wsikit.models.registry import describe_model
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.tile import tile
from wsikit.training.concepts.config import ConceptTrainConfig
from wsikit.training.concepts.run import WAY, run_concept_training

OPTIONS = {"few": {"below": 0.5, "texts": ["thin"]}, "many": {"texts": ["thick"]}}


def right_of(table: PatchTable) -> np.ndarray:
    found: np.ndarray = table.coords[:, 0] + 32 > 700
    return found


def write(table: PatchTable, spec: ColumnSpec, receipt: Receipt, values: np.ndarray) -> None:
    for rows in table.prepare([spec], receipt):
        table.write(spec.name, rows, values[rows])


def write_map(table: PatchTable, *, encoder: str = "f00d", unit: str = "probability", seed: int = 0) -> None:
    """A map of neuropil that is high on the right."""
    values = np.where(right_of(table), 0.8, 0.2) + np.random.default_rng(seed).uniform(-0.15, 0.15, len(table))
    spec = ColumnSpec("localize_neuropil", "float32", attributes={"unit": unit})
    write(
        table,
        spec,
        Receipt("localize", 1, {"seed": seed, "unit": unit}, {"encoder": encoder}),
        values.astype(np.float32),
    )


def write_words(table: PatchTable) -> None:
    """Captions that tell the side, and measured facts that do not."""
    receipt, right = Receipt("caption", 1, {}), right_of(table)
    words = np.array(["Abundant neuropil." if one else "Scant neuropil." for one in right], dtype=object)
    write(table, ColumnSpec("caption", "str"), receipt, words)
    spec = ColumnSpec("caption_facts", "float32", 1, {"names": ["fibrillary_share"]})
    write(table, spec, receipt, np.full((len(table), 1), 0.2, np.float32))


@pytest.fixture(scope="session")
def described(tmp_path_factory: pytest.TempPathFactory, write_slide: Any, pixels: np.ndarray) -> Path:
    """Six stores of a disc, divided at x = 700, with a map of neuropil and captions; slides.csv names them."""
    folder = tmp_path_factory.mktemp("described")
    tile(write_slide(folder / "disc.tiff", pixels), folder / "s0.zarr", patch_px=64).close()
    write_regions(folder / "r.geojson", {"left": (250, 200, 700, 900), "right": (700, 200, 1150, 900)})
    rows = [["store", "regions", "patient"]]
    for i in range(6):
        path = folder / f"s{i}.zarr"
        if i:
            shutil.copytree(folder / "s0.zarr", path)
            record = json.loads((path / "zarr.json").read_text())
            record["attributes"]["wsikit"]["slide_id"] = path.stem
            (path / "zarr.json").write_text(json.dumps(record))
        rows.append([str(path), "r.geojson", f"p{i}"])
    for i in range(6):
        with SlideStore(folder / f"s{i}.zarr") as store:
            write_map(store.patches(), seed=i)
            write_words(store.patches())
    with open(folder / "slides.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def config_of(described: Path, place: Path, fact: str, **concepts: Any) -> ConceptTrainConfig:
    axis = {"title": "Neuropil", "fact": fact, "options": OPTIONS}
    if fact == "fibrillary_share":
        axis["options"] = {"few": {"below": 0.2, "texts": ["thin"]}, "many": {"texts": ["thick"]}}
    (place / "mine.yaml").write_text(yaml.safe_dump({"name": "mine", "axes": {"neuropil": axis}}))
    return settings_of(
        data={"stores": {"manifest": str(described / "slides.csv")}, "patch_px": 64},
        classes=[{"code": "left"}, {"code": "right"}],
        image=None,
        colour_floor=False,
        split={"validation": 0.2, "test": 0.2},
        concepts={"criteria": str(place / "mine.yaml"), "scores": "facts", "linear": {"l1": 0.001}} | concepts,
    )


def accuracy(metrics: dict[str, Any]) -> float:
    return float(metrics["test"][WAY]["patch"]["balanced_accuracy"]["value"])


def test_the_map_of_a_text_scores_a_concept(described: Path, tmp_path: Path):
    metrics = run_concept_training(config_of(described, tmp_path, "localize:neuropil"), tmp_path / "out")
    assert accuracy(metrics) == 1.0
    assert "maps of texts of neuropil (encoder `f00d`)" in (tmp_path / "out" / "model" / "README.md").read_text()
    info = describe_model(tmp_path / "out" / "model")
    assert (info.facts, info.maps) == (("localize:neuropil",), (("localize:neuropil", "f00d"),))
    shutil.copytree(described / "s1.zarr", tmp_path / "new.zarr")
    with SlideStore(tmp_path / "new.zarr") as store:
        table = wsikit.predict(store, model=tmp_path / "out" / "model")
        assert (table.read("probability").argmax(axis=1) == right_of(table)).all()
        receipt, of_map = table.receipt("probability"), table.receipt("localize_neuropil")
        assert receipt is not None
        assert of_map is not None
        assert receipt.inputs["localize_neuropil"] == of_map.digest
        # what the map says is what is read: another one, another prediction
        write_map(table, seed=99)
        again = wsikit.predict(store, model=tmp_path / "out" / "model").receipt("probability")
        assert again is not None
        assert again.digest != receipt.digest
        by_hand = wsikit.predict(store, model=tmp_path / "out" / "model", concepts={"neuropil": "few"})
        assert (by_hand.read("probability").argmax(axis=1) == 0).all()


def test_a_map_that_is_missing_or_of_another_encoder_or_unit_is_refused(described: Path, tmp_path: Path):
    run_concept_training(config_of(described, tmp_path, "localize:neuropil"), tmp_path / "out")
    shutil.copytree(described / "s1.zarr", tmp_path / "new.zarr")
    with SlideStore(tmp_path / "new.zarr") as store:
        table = store.patches()
        for change, said in (
            (
                {"encoder": "beef"},
                "with the fingerprint beef, model toy was trained on maps by f00d",
            ),
            ({"unit": "similarity"}, "is similarity; expected a probability"),
        ):
            write_map(table, **change)
            with pytest.raises(StoreError, match=said):
                wsikit.predict(store, model=tmp_path / "out" / "model")
        table.drop("localize_neuropil")
        with pytest.raises(StoreError, match=r"no column localize_neuropil.*wsikit localize .*new.zarr neuropil"):
            wsikit.predict(store, model=tmp_path / "out" / "model")


def test_the_words_of_captions_score_a_concept_also_where_facts_are_measured(described: Path, tmp_path: Path):
    measured = run_concept_training(config_of(described, tmp_path, "fibrillary_share"), tmp_path / "measured")
    assert accuracy(measured) == 0.5  # all patches measure the same
    config = config_of(described, tmp_path, "fibrillary_share", facts="captions", labels={"source": "captions"})
    assert accuracy(run_concept_training(config, tmp_path / "out")) == 1.0
    assert "facts that captions state, as intervals" in (tmp_path / "out" / "model" / "README.md").read_text()
    shutil.copytree(described / "s1.zarr", tmp_path / "new.zarr")
    with SlideStore(tmp_path / "new.zarr") as store:
        table = wsikit.predict(store, model=tmp_path / "out" / "model")
        assert (table.read("probability").argmax(axis=1) == right_of(table)).all()


def test_maps_are_of_stores_and_stated_facts_of_scores_by_facts(described: Path, tmp_path: Path, folder: Path):
    config = config_of(described, tmp_path, "localize:neuropil")
    images = settings_of(data={"table": {"images": str(folder)}, "mpp": 0.5, "patch_px": 8})
    config = config.model_copy(update={"data": images.data, "classes": images.classes})
    with pytest.raises(RequestError, match="the map of a concept by words is of stores"):
        run_concept_training(config, tmp_path / "out")
    with pytest.raises(ValueError, match="facts: captions is for scores facts"):
        settings_of(concepts={"scores": "learned", "labels": {"source": "table"}, "facts": "captions"})
