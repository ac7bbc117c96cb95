"""Patients with slides, from a table and stores to predictions, prototypes on the slides, and a page."""

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
from wsikit.errors import RequestError
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.training.cohort.bags import bag_rows, read_bag

PATIENTS = 48


def call(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output + str(result.exception)
    return result.output


def feature_store(path: Path, slide: Path, unreadable: int = 0) -> np.ndarray:
    """A store with a column of features of width 6; the first `unreadable` patches have none."""
    table = wsikit.tile(slide, path, mpp=0.5, patch_px=224).patches()
    features = np.random.default_rng(7).normal(size=(len(table), 6)).astype(np.float32)
    features[len(table) // 2 :, 0] += 5
    features[:unreadable] = np.nan
    for rows in table.prepare((ColumnSpec("features_x", "float32", 6),), Receipt("features", 1)):
        table.write("features_x", rows, features[rows])
    return features


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 patients with .npy bags and two new ones, one with a store and one with a file of TRIDENT's layout."""
    folder = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    (folder / "features").mkdir()
    rows: list[dict[str, Any]] = []
    for number in range(PATIENTS):
        share = rng.random()
        bag = rng.normal(size=(20, 6)).astype(np.float32)
        bag[: round(20 * share), 0] += 5
        np.save(folder / "features" / f"s{number}.npy", bag)
        months = float(rng.exponential(30 * np.exp(-3 * (share - 0.5)))) + 0.1
        gene = {f"G{i}_rna": round(float(rng.normal()), 3) for i in range(6)}
        rows.append(
            {"patient": f"P{number}", "slide": f"s{number}", "months": months, "died": int(rng.random() < 0.8), **gene}
        )
    write(folder / "cohort.csv", rows)
    write(
        folder / "new.csv",
        [{**rows[0], "patient": "new <1>", "slide": "stored"}, {**rows[1], "patient": "new2", "slide": "file"}],
    )
    wsikit.make_phantom(folder / "slide.tiff", size_px=(1200, 1200))
    feature_store(folder / "features" / "stored.zarr", folder / "slide.tiff", unreadable=2)
    wsikit.caption(folder / "features" / "stored.zarr")
    import h5py

    with h5py.File(folder / "features" / "file.h5", "w") as file:
        file["features"], file["coords"] = rng.normal(size=(9, 6)).astype(np.float32), np.zeros((9, 2), np.int64)
    config: dict[str, Any] = {
        "architecture": "umeml",
        "name": "With slides",
        "data": {"csv": "cohort.csv", "slide": "slide", "features": "features", "columns": {"rna": "*_rna"}},
        "survival": {"time": "months", "event": "died", "horizons": [12]},
        "split": {"folds": 3, "seeds": [0]},
        "baselines": False,
        "draws": 100,
        "umeml": {
            "width": 16,
            "epochs": 2,
            "decoder": {"heads": 2},
            "modularity": {"communities": 3},
            "patches": {"prototypes": 4, "heads": 2},
            "tables": {"rna": {"tokens": "clusters", "groups": 3, "heads": 2}},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    call("train", folder / "config.yaml", "-o", folder / "out", "--device", "cpu")
    call(
        "predict",
        folder / "new.csv",
        "--model",
        folder / "out" / "model",
        "--features",
        folder / "features",
        "-o",
        folder / "pred",
    )
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_new_patients_prototypes_are_a_map_on_the_slide(cohort: Path, tmp_path: Path) -> None:
    with SlideStore(cohort / "features" / "stored.zarr") as store:
        table = store.patches()
        assignment = table.read("prototypes_with-slides")
        assert assignment.shape == (len(table), 4)
        readable = ~np.isnan(table.read("features_x")).all(axis=1)
    assert np.isnan(assignment[~readable]).all()
    np.testing.assert_allclose(assignment[readable].sum(axis=1), 1, atol=1e-5)
    wsikit.export(
        cohort / "features" / "stored.zarr", "png", tmp_path / "map.png", column="prototypes_with-slides:prototype 1"
    )
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_the_page_shows_curve_map_patches_with_captions_and_genes(cohort: Path) -> None:
    page = (cohort / "pred" / "patients" / "new_1_.html").read_text(encoding="utf-8")
    assert "new &lt;1&gt;" in page
    assert "<polyline" in page
    assert "Map of the prototypes of slide stored" in page
    assert page.count('alt="Patch at stored') >= 6
    assert "nuclei" in page
    view = json.loads((cohort / "pred" / "patients" / "new_1_.json").read_text(encoding="utf-8"))
    tied = {name for one in view["prototype"] if one["share_of_patches"] >= 0.01 for name in one["tied"]}
    assert [name for name in tied if name not in page] == []
    assert ("In one community with" in page) == bool(tied)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_a_patient_with_a_file_of_features_has_a_page_without_a_map(cohort: Path) -> None:
    page = (cohort / "pred" / "patients" / "new2.html").read_text(encoding="utf-8")
    assert "No map of file.h5" in page
    assert "of the patches" in page


def test_the_encoder_of_a_store_with_several_is_named(cohort: Path, tmp_path: Path) -> None:
    shutil.copytree(cohort / "features" / "stored.zarr", path := tmp_path / "s.zarr")
    with SlideStore(path) as store:
        table = store.patches()
        first = table.read("features_x")
        for name in ("features_x-shared", "features_y"):
            for rows in table.prepare((ColumnSpec(name, "float32", 6),), Receipt("features", 1)):
                table.write(name, rows, first[rows] + 1)
            if name.endswith("-shared"):  # the column of another space of the same encoder is no second encoder
                assert np.array_equal(read_bag(path), first[2:])
    with pytest.raises(RequestError, match="several encoders, .*data.encoder"):
        read_bag(path)
    assert np.array_equal(read_bag(path, column="y"), first[2:] + 1)


def test_patches_that_could_not_be_read_are_left_out_of_a_bag(cohort: Path) -> None:
    path = cohort / "features" / "stored.zarr"
    rows = bag_rows(path)
    assert (~rows[:2]).all()
    assert rows[2:].all()
    assert len(read_bag(path)) == rows.sum()
