"""Features of whole slides: closed forms, what is left out, what makes them again, and their tables."""

from __future__ import annotations

import csv
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from wsikit.errors import ModelError, RequestError, StoreError
from wsikit.geometry import PatchGrid
from wsikit.inference.slide_features import slide_features
from wsikit.results.export import export
from wsikit.results.slide_table import write_slide_table
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.slide_vectors import read_slide_vector, slide_vector_names
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile_slide


class Corner:
    """A slide encoder: the mean corner of the patches and their side."""

    def __init__(self, patch_encoder: str = "") -> None:
        self.info = type(
            "Info",
            (),
            {
                "name": "corner",
                "patch_encoder": patch_encoder,
                "record": lambda _: {"name": "corner", "fingerprint": "c"},
            },
        )()

    def encode(self, features, coords, patch_size_lv0):
        assert features.dtype == np.float32
        assert len(features) == len(coords)
        return np.asarray([*coords.mean(axis=0), patch_size_lv0], np.float32)


def put(table: PatchTable, name: str, values: np.ndarray, number: int = 1) -> None:
    spec = ColumnSpec(name, values.dtype.name, values.shape[1], {"encoder": name})
    for rows in table.prepare([spec], Receipt("made up", number)):
        table.write(name, rows, values[rows])


@pytest.fixture
def store(slide_path, tmp_path) -> SlideStore:
    return tile_slide(
        slide_path, tmp_path / "a.zarr", patches=PatchParameters(1.0, 64), image=ImageParameters(pixels="none")
    )


@pytest.fixture
def vectors(store) -> np.ndarray:
    """Features with a row that could not be read, also in the store."""
    values = np.random.default_rng(0).normal(size=(len(store.patches()), 4)).astype(np.float16)
    values[2] = np.nan
    put(store.patches(), "features_uni", values)
    return values


def test_the_mean_leaves_out_what_could_not_be_read(store, vectors):
    found = slide_features(store)
    assert found.name == "uni-mean"
    np.testing.assert_allclose(found.values, np.nanmean(vectors.astype(np.float64), axis=0), rtol=1e-6)
    assert found.attributes["patches"] == len(vectors) - 1
    assert np.array_equal(read_slide_vector(store.patches(), "uni-mean").values, found.values)


def test_the_mean_can_be_weighted_by_tissue(store, vectors):
    tissue = np.delete(store.patches().read("tissue"), 2)
    found = slide_features(store, weights="tissue")
    assert found.name == "uni-mean-tissue"
    expected = np.average(np.delete(vectors, 2, axis=0).astype(np.float64), axis=0, weights=tissue)
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)


def test_a_slide_encoder_gets_corners_and_sides_in_level_0_px(store, vectors):
    found = slide_features(store, pooling=Corner())
    coords = np.delete(store.patches().coords, 2, axis=0)
    np.testing.assert_allclose(found.values, [*coords.mean(axis=0), store.patches().grid.side[0]], rtol=1e-6)


def test_attention_of_a_file_is_the_weighted_mean_of_the_readable_patches(store, vectors, tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = {
        "attention_net.0.weight": torch.eye(4), "attention_net.0.bias": torch.zeros(4),
        "attention_net.2.attention_a.0.weight": torch.randn(3, 4), "attention_net.2.attention_a.0.bias": torch.zeros(3),
        "attention_net.2.attention_b.0.weight": torch.randn(3, 4), "attention_net.2.attention_b.0.bias": torch.zeros(3),
        "attention_net.2.attention_c.weight": torch.randn(1, 3), "attention_net.2.attention_c.bias": torch.zeros(1),
    }  # fmt: skip
    save_file(weights, tmp_path / "abmil.safetensors")
    found = slide_features(store, pooling=f"abmil:{tmp_path / 'abmil.safetensors'}")
    assert found.name == "uni-abmil"
    hidden = np.maximum(np.delete(vectors, 2, axis=0).astype(np.float64), 0)
    a, b, c = (weights[f"attention_net.2.attention_{part}weight"].double().numpy() for part in ("a.0.", "b.0.", "c."))
    score = (np.tanh(hidden @ a.T) / (1 + np.exp(-hidden @ b.T))) @ c[0]
    share = np.exp(score) / np.exp(score).sum()
    np.testing.assert_allclose(found.values, share @ hidden, rtol=1e-4)


def test_equal_inputs_keep_them_and_other_features_make_them_again(store, vectors):
    table = store.patches()
    slide_features(store)
    stamp = (table.folder / "slide_features" / "uni-mean" / "zarr.json").stat().st_mtime_ns
    slide_features(store)
    assert (table.folder / "slide_features" / "uni-mean" / "zarr.json").stat().st_mtime_ns == stamp
    put(table, "features_uni", np.ones((len(table), 4), np.float32), number=2)
    with pytest.raises(StoreError, match="made of other features"):
        write_slide_table([store], store.folder.parent / "t.csv")
    assert slide_features(store).values.tolist() == [1, 1, 1, 1]


def test_they_are_no_column_and_go_with_the_patches(store, vectors):
    table = store.patches()
    before = table.columns()
    slide_features(store)
    assert table.columns() == before
    assert slide_vector_names(table) == ["uni-mean"]
    receipt = Receipt("patches", 9)
    PatchTable.create(table.folder, table.grid, table.coords, receipt)
    assert slide_vector_names(store.patches()) == []


def test_a_lost_file_of_theirs_is_an_error_not_zeros(store, vectors):
    slide_features(store)
    (chunk,) = (store.patches().folder / "slide_features" / "uni-mean" / "c").iterdir()
    chunk.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        read_slide_vector(store.patches(), "uni-mean")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"features": "other"}, RequestError, "no features 'other'; there are uni"),
        ({"pooling": "max"}, ModelError, "expected mean"),
        ({"pooling": "abmil"}, ModelError, "abmil:FILE"),
        ({"pooling": 3}, RequestError, "expected a name"),
        ({"weights": "area"}, RequestError, "expected 'tissue'"),
        ({"pooling": Corner("conch-v1.5")}, ModelError, "made for features of conch-v1.5; these are of uni"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(store, vectors, options, error, words):
    with pytest.raises(error, match=words):
        slide_features(store, **options)


def test_without_any_features_nothing_is_made(store):
    put(store.patches(), "features_none", np.full((len(store.patches()), 2), np.nan, np.float32))
    with pytest.raises(RequestError, match="no patch has features"):
        slide_features(store)


def test_trident_gets_them_in_its_layout(store, vectors, tmp_path):
    found = slide_features(store)
    export(store, "trident", tmp_path / "job", on_note=lambda _: None)
    (path,) = (tmp_path / "job").glob("*/slide_features_uni-mean/*.h5")
    with h5py.File(path) as file:
        assert np.array_equal(file["features"][:], found.values)
        assert len(file["coords"]) == len(vectors) - 1
        assert "patch_size_level0" in file["coords"].attrs


def test_a_run_gives_one_table(slide_path, tmp_path):
    expected = {}
    for index, slide_id in enumerate(("a", "b")):
        folder = tmp_path / "run" / "slides" / f"{slide_id}.zarr"
        store = tile_slide(
            slide_path,
            folder,
            patches=PatchParameters(1.0, 128),
            image=ImageParameters(pixels="none"),
            slide_id=slide_id,
        )
        put(store.patches(), "features_uni", np.full((len(store.patches()), 3), 0.1 + index, np.float32))
        expected[slide_id] = slide_features(store).values
    assert write_slide_table([tmp_path / "run"], tmp_path / "t.parquet") == 2
    table = pq.read_table(tmp_path / "t.parquet")
    assert table["slide_id"].to_pylist() == ["a", "b"]
    assert np.array_equal(np.stack(table["features"].to_pylist()).astype(np.float32), list(expected.values()))
    write_slide_table([tmp_path / "run"], tmp_path / "t.csv")
    with open(tmp_path / "t.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [np.float32(row["f1"]) for row in rows] == [values[1] for values in expected.values()]
    put(store.patches(), "features_uni", np.zeros((len(store.patches()), 2), np.float32), number=5)
    slide_features(store)
    with pytest.raises(RequestError, match="made differently"):
        write_slide_table([tmp_path / "run"], tmp_path / "t.csv")
    assert Path(tmp_path / "t.csv").is_file()
    assert isinstance(store.patches().grid, PatchGrid)
