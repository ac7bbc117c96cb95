"""Files for TRIDENT, CLAM, STAMP, AtlasPatch against what each tool's own loading code asks of them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from wsikit.errors import RequestError
from wsikit.exporters.hdf5 import PatchSource, write_layout
from wsikit.geometry import PatchGrid
from wsikit.results.export import export
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec


@pytest.fixture
def source(store):
    return PatchSource(store.slide_id, store.patches(), "features_uni", "disc.tiff")


def field_read(attributes) -> float:
    """Level-0 px that TRIDENT reads for a patch: it goes by the two magnifications."""
    mpp0, mpp = 10 / attributes["level0_magnification"], 10 / attributes["target_magnification"]
    return round(attributes["patch_size"] * mpp / mpp0)


def test_trident_finds_coordinates_and_features_where_it_looks(store, source, tmp_path):
    table = store.patches()
    write_layout("trident", tmp_path, source)
    job = tmp_path / "10x_50px_0px_overlap"
    with h5py.File(job / "patches" / "disc_patches.h5") as file:
        attributes = dict(file["coords"].attrs)
        assert file["coords"].dtype == np.int64
        assert np.array_equal(file["coords"][:], table.coords)
    assert set(attributes) == {
        "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap", "name",
        "savetodir", "level0_width", "level0_height",
    }  # fmt: skip
    assert (attributes["patch_size"], attributes["patch_size_level0"], attributes["overlap"]) == (50, 100, 0)
    assert (attributes["level0_magnification"], attributes["target_magnification"]) == (20, 10)
    assert (attributes["level0_width"], attributes["level0_height"]) == store.dimensions
    assert field_read(attributes) == 100
    with h5py.File(job / "features_uni" / "disc.h5") as file:
        assert np.array_equal(file["features"][:], table.read("features_uni").astype(np.float32))
        assert file["features"].attrs["encoder"] == "uni"
        assert np.array_equal(file["coords"][:], table.coords)
        assert file["coords"].attrs["patch_size_level0"] == 100


def test_the_rows_are_row_major(store, source, tmp_path):
    written = write_layout("trident", tmp_path, source)
    with h5py.File(written[0]) as file:
        x, y = file["coords"][:].T
    assert np.array_equal(np.lexsort((x, y)), np.arange(len(x)))


@pytest.mark.parametrize("mpp", [0.25, 0.2527, 0.3452, 0.499, 0.6881])
def test_trident_reads_the_field_that_was_read_here(store, tmp_path, mpp):
    table = store.patches()
    table.grid = PatchGrid(store.dimensions, (mpp, mpp), 224, 0.5)
    written = write_layout("trident", tmp_path, PatchSource("s", table, None, "s"))
    with h5py.File(written[0]) as file:
        attributes = dict(file["coords"].attrs)
    assert attributes["patch_size_level0"] == round(224 * 0.5 / mpp)
    assert field_read(attributes) == pytest.approx(224 * 0.5 / mpp, rel=0.0125)


def test_clam_reads_its_patches_at_the_level_that_is_named(store, source, tmp_path):
    table = store.patches()
    write_layout("clam", tmp_path, source)
    with h5py.File(tmp_path / "patches" / "disc.h5") as file:
        coords = file["coords"]
        assert np.array_equal(coords[:], table.coords)
        assert coords.attrs["patch_level"] == 0
        assert coords.attrs["patch_size"] * coords.attrs["downsample"][0] == 100
        assert tuple(coords.attrs["level_dim"]) == tuple(coords.attrs["downsampled_level_dim"]) == store.dimensions
        assert coords.attrs["name"] == "disc"
        assert "save_path" in coords.attrs
    with h5py.File(tmp_path / "h5_files" / "disc.h5") as file:
        assert set(file) == {"features", "coords"}
        assert file["features"].dtype == np.float32
        assert file["coords"].dtype == np.int32
        assert np.array_equal(file["coords"][:], table.coords)
        assert not file["coords"].attrs
        vectors = file["features"][:]
    tensor = torch.load(tmp_path / "pt_files" / "disc.pt", weights_only=True)
    assert tensor.dtype == torch.float32
    assert np.array_equal(tensor.numpy(), vectors)


def test_stamp_gets_micrometres(store, source, tmp_path):
    table = store.patches()
    (path,) = write_layout("stamp", tmp_path, source)
    assert path == tmp_path / "uni" / "disc.h5"
    with h5py.File(path) as file:
        assert file["coords"].dtype == np.float32
        assert file["feats"].dtype == np.float16
        np.testing.assert_allclose(file["coords"][:], table.coords * 0.5)
        assert np.array_equal(file["feats"][:], table.read("features_uni"))
        attributes = dict(file.attrs)
    assert attributes["unit"] == "um"
    assert attributes["feat_type"] == "tile"
    assert attributes["extractor"] == "uni"
    assert (attributes["tile_size_um"], attributes["tile_size_px"]) == (50, 50)
    assert attributes["stamp_version"].split(".")[0] == "2"
    assert attributes["code_hash"]
    # its own reader takes the smallest step for the stride
    assert np.diff(np.unique(table.coords[:, 0] * 0.5)).min() == attributes["tile_size_um"]


def test_atlaspatch_has_five_columns_and_its_features_by_name(store, source, tmp_path):
    table = store.patches()
    (path,) = write_layout("atlaspatch", tmp_path, source)
    assert path == tmp_path / "patches" / "disc.h5"
    with h5py.File(path) as file:
        assert file["coords"].dtype == np.int32
        assert np.array_equal(file["coords"][:, :2], table.coords)
        assert (file["coords"][:, 2:] == (100, 100, 0)).all()
        assert file["features/uni"].dtype == np.float32
        assert np.array_equal(file["features/uni"][:], table.read("features_uni").astype(np.float32))
        assert set(file.attrs) == {
            "patch_size", "patch_size_level0", "level0_magnification", "target_magnification", "overlap",
            "level0_width", "level0_height", "wsi_path", "num_patches",
        }  # fmt: skip
        assert file.attrs["num_patches"] == len(table)


def test_without_features_only_coordinates_are_written_with_a_note(store, tmp_path):
    store.patches().drop("features_uni")
    notes: list[str] = []
    for layout in ("trident", "clam", "atlaspatch"):
        export(store, layout, tmp_path / layout, on_note=notes.append)
        (path,) = (tmp_path / layout).rglob("*.h5")
        with h5py.File(path) as file:
            assert set(file) == {"coords"}
    assert all(
        f"{layout} got only coordinates" in note for layout, note in zip(("trident", "clam", "atlaspatch"), notes)
    )
    assert len(notes) == 3
    with pytest.raises(RequestError, match="hold features"):
        export(store, "stamp", tmp_path / "stamp")
    assert not (tmp_path / "stamp").exists()


def test_of_several_encoders_one_must_be_named(store, tmp_path):
    from wsikit.store.receipts import Receipt
    from wsikit.store.table import ColumnSpec

    table = store.patches()
    for rows in table.prepare([ColumnSpec("features_other", "float16", 3)], Receipt("t", 1)):
        table.write("features_other", rows, np.zeros((rows.stop - rows.start, 3)))
    with pytest.raises(RequestError, match="other, uni"):
        export(store, "stamp", tmp_path / "s")
    export(store, "stamp", tmp_path / "s", features="uni")
    with pytest.raises(RequestError, match="no features 'third'"):
        export(store, "stamp", tmp_path / "s", features="third")


def test_an_empty_slide_keeps_its_shapes(store, source, tmp_path, monkeypatch):
    table = store.patches()
    monkeypatch.setattr(type(table), "coords", np.empty((0, 2), np.int64))
    monkeypatch.setattr(type(table), "__len__", lambda self: 0)
    table.prepare([ColumnSpec("features_uni", "float32", width=6)], Receipt("features", 2, {}, {}))
    written = write_layout("trident", tmp_path, source)
    with h5py.File(written[1]) as file:
        assert file["features"].shape == (0, 6)
        assert file["coords"].shape == (0, 2)


def test_a_slides_name_reaches_no_other_folder(store, tmp_path):
    written = write_layout("clam", tmp_path / "out", PatchSource("../../evil/x", store.patches(), None, "x"))
    assert all((tmp_path / "out") in path.resolve().parents for path in written)


def test_pixels_that_are_not_square_are_refused(store, tmp_path):
    table = store.patches()
    table.grid = PatchGrid(store.dimensions, (0.5, 0.55), 50, 1.0)
    with pytest.raises(RequestError, match="not square"):
        write_layout("clam", tmp_path, PatchSource("s", table, None, "s"))


def test_a_failed_write_leaves_no_file(store, source, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("wsikit.exporters.hdf5._write_vectors", fail)
    with pytest.raises(OSError, match="disk full"):
        write_layout("stamp", tmp_path / "out", source)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
