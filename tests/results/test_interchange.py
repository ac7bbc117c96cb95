"""Features leave for another tool and come back with the same bits; what a file lacks or holds wrongly is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from wsikit.errors import RequestError, StoreError
from wsikit.results.export import export
from wsikit.results.import_ import check_import, import_patches
from wsikit.results.load import StoredResults
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile_slide

NO_PIXELS = ImageParameters(pixels="none")
FILE_OF = {
    "parquet": "out", "anndata": "out", "spatialdata": "out", "torchmil": "out/features/*.npy",
    "soma": "out/*[!s].npy",
    "trident": "out/*/features_uni/*.h5", "clam": "out/h5_files/*.h5", "stamp": "out/uni/*.h5",
    "atlaspatch": "out/patches/*.h5",
}  # fmt: skip
WHOLE = ("parquet", "anndata", "spatialdata")
"""Formats with all patches, in the precision of the store."""


def add(table: PatchTable, name: str, values: np.ndarray, **attributes: object) -> None:
    spec = ColumnSpec(name, values.dtype.name, values.shape[1] if values.ndim == 2 else None, attributes)
    for rows in table.prepare([spec], Receipt("made up", 1, {"name": name})):
        table.write(name, rows, values[rows])


@pytest.fixture(scope="module")
def slide(write_slide, pixels, tmp_path_factory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "disc.tiff", pixels)


@pytest.fixture(scope="module")
def tiled(slide, tmp_path_factory) -> Path:
    """A store without features; row 3 could not be read."""
    folder = tmp_path_factory.mktemp("tiled") / "a.zarr"
    store = tile_slide(slide, folder, patches=PatchParameters(1.0, 64), image=NO_PIXELS)
    table = store.patches()
    readable = np.ones(len(table), np.float32)
    readable[3] = 0
    for rows in table.chunks():
        table.write("readable", rows, readable[rows])
    return folder


@pytest.fixture
def stored(tiled, tmp_path) -> Path:
    """The store with features of an encoder, and its places in a space shared with texts."""
    shutil.copytree(tiled, tmp_path / "stored" / "a.zarr")
    store = SlideStore(tmp_path / "stored" / "a.zarr")
    table, rng = store.patches(), np.random.default_rng(0)
    vectors = rng.normal(size=(len(table), 5)).astype(np.float16)
    vectors[3] = np.nan
    add(table, "features_uni", vectors, encoder={"name": "uni", "fingerprint": "f00d"})
    add(table, "features_uni-shared", vectors[:, :2].astype(np.float32))
    return store.folder


@pytest.fixture
def untouched(tiled, tmp_path) -> Path:
    shutil.copytree(tiled, tmp_path / "untouched" / "a.zarr")
    return tmp_path / "untouched" / "a.zarr"


@pytest.fixture
def table(stored: Path) -> PatchTable:
    return SlideStore(stored).patches()


def written(stored: Path, layout: str, folder: Path, **options) -> Path:
    if layout == "spatialdata":
        pytest.importorskip("spatialdata")
    export(stored, layout, folder / "out", on_note=lambda _: None, **options)
    (path,) = folder.glob(FILE_OF[layout])
    return path


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("layout", WHOLE)
def test_the_whole_table_comes_back_with_the_same_bits(stored, table, slide, tmp_path, layout):
    path = written(stored, layout, tmp_path)
    done = import_patches(path, tmp_path / "b.zarr", slide=slide, image=NO_PIXELS)
    assert done.layout == layout
    assert done.findings == ()
    assert done.table.grid == table.grid
    assert np.array_equal(done.table.coords, table.coords)
    assert same_bits(done.table.read("features_uni"), table.read("features_uni"))
    assert done.table.attributes("features_uni")["encoder"] == {"name": "uni", "fingerprint": "f00d"}


@pytest.mark.parametrize("layout", ["torchmil", "soma", "trident", "clam", "stamp", "atlaspatch"])
def test_bags_leave_out_what_could_not_be_read_and_come_back_into_their_table(
    stored, untouched, table, tmp_path, layout
):
    path = written(stored, layout, tmp_path)
    readable = table.read("readable") > 0
    found, faults = check_import(path, SlideStore(stored), side_px=128 if layout == "clam" else None)
    assert not [fault for fault in faults if fault.fatal]
    assert np.array_equal(found.coords, table.coords[readable])
    assert same_bits(found.features.astype(np.float16), table.read("features_uni")[readable])
    patch_px = 64 if layout == "clam" else None
    done = import_patches(path, untouched, encoder="back", patch_px=patch_px)
    back = done.table.read("features_back")
    assert same_bits(back[readable].astype(np.float16), table.read("features_uni")[readable])
    assert np.isnan(back[~readable]).all()
    assert "1 of" in done.findings[-1].text


def test_a_file_that_lacks_patches_that_could_be_read_is_refused(stored, untouched, tmp_path):
    path = written(stored, "torchmil", tmp_path)
    table = SlideStore(untouched).patches()
    for rows in table.chunks():
        table.write("readable", rows, np.ones(rows.stop - rows.start))
    with pytest.raises(StoreError, match="another store"):
        import_patches(path, untouched)


def test_nan_of_a_patch_that_could_be_read_is_refused(stored, tmp_path):
    path = written(stored, "parquet", tmp_path)
    rows = pq.read_table(path)
    index = rows.schema.get_field_index("readable")
    pq.write_table(rows.set_column(index, "readable", pa.array(np.ones(len(rows), np.float32))), tmp_path / "p")
    (fault,) = [one.text for one in check_import(tmp_path / "p", SlideStore(stored))[1] if one.fatal]
    assert fault.startswith("1 of")
    assert "NaN" in fault


@pytest.mark.parametrize("layout", ["parquet", "anndata", "atlaspatch"])
def test_of_several_features_the_named_ones_are_written(stored, table, tmp_path, layout):
    path = written(stored, layout, tmp_path, features="uni-shared")
    found, _ = check_import(path, SlideStore(stored), features="uni-shared")
    kept = slice(None) if layout != "atlaspatch" else table.read("readable") > 0
    assert found.encoder == "uni-shared"
    assert same_bits(found.features, table.read("features_uni-shared")[kept])
    with pytest.raises(RequestError, match="no features 'other'"):
        check_import(path, SlideStore(stored), features="other")


def test_of_several_features_in_a_file_one_must_be_named(stored, tmp_path):
    with h5py.File(written(stored, "atlaspatch", tmp_path), "r+") as file:
        file["features/other"] = file["features/uni"][:] + 1
    path = tmp_path / "out" / "patches"
    (path,) = path.glob("*.h5")
    with pytest.raises(RequestError, match="other, uni.*--features"):
        check_import(path, SlideStore(stored))
    found, _ = check_import(path, SlideStore(stored), features="other")
    assert found.encoder == "other"


def test_float32_that_float16_cannot_hold_is_refused_and_rounding_is_said(stored, tmp_path):
    table = SlideStore(stored).patches()
    add(table, "features_large", np.full((len(table), 2), 1e5, np.float32))
    with pytest.raises(RequestError, match="1e\\+05 do not fit into float16"):
        export(stored, "stamp", tmp_path / "s", features="large")
    assert not (tmp_path / "s").exists()
    table.drop("features_large")
    add(table, "features_large", np.full((len(table), 2), 0.1, np.float32))
    notes: list[str] = []
    export(stored, "stamp", tmp_path / "s", features="large", on_note=notes.append)
    assert any("rounded to float16" in note for note in notes)


def test_a_vector_that_is_nan_in_part_is_no_missing_patch(stored, tmp_path):
    table = SlideStore(stored).patches()
    values = np.zeros((len(table), 2), np.float32)
    values[4, 1] = np.nan
    add(table, "features_damaged", values)
    with pytest.raises(RequestError, match="row 4: infinity, or NaN in some"):
        export(stored, "torchmil", tmp_path / "t", features="damaged")


def test_anndata_follows_its_specification(stored, table, tmp_path):
    with h5py.File(written(stored, "anndata", tmp_path)) as file:
        kinds = {name: file[name].attrs["encoding-type"] for name in file}
        assert kinds == {
            "X": "array", "obs": "dataframe", "var": "dataframe", "obsm": "dict", "varm": "dict", "obsp": "dict",
            "varp": "dict", "layers": "dict", "uns": "dict",
        }  # fmt: skip
        assert file.attrs["encoding-type"] == "anndata"
        obs = file["obs"]
        assert set(obs.attrs["column-order"]) == set(obs) - {"_index"}
        assert len(set(obs["_index"][:])) == len(table)
        half = np.asarray(table.grid.side) / 2
        assert np.array_equal(file["obsm/spatial"][:], table.coords + half)
        about = json.loads(file["uns/wsikit"][()])
        assert about["features"]["receipt"]["digest"] == table.receipt("features_uni").digest


def test_anndata_reads_it(stored, table, tmp_path):
    anndata = pytest.importorskip("anndata")
    found = anndata.read_h5ad(written(stored, "anndata", tmp_path))
    assert found.shape == (len(table), 5)
    assert same_bits(found.X, table.read("features_uni"))
    assert np.array_equal(found.obs[["x", "y"]], table.coords)
    assert found.obs["library_id"].unique().tolist() == [SlideStore(stored).slide_id]


def test_spatialdata_reads_it(stored, table, tmp_path):
    spatialdata = pytest.importorskip("spatialdata")
    found = spatialdata.read_zarr(written(stored, "spatialdata", tmp_path))
    assert same_bits(found.tables["uni_tiles"].X, table.read("features_uni"))
    assert np.array_equal(found.shapes["tiles"].bounds[["minx", "miny"]], table.coords)
    assert found.attrs["tile_spec"]["tiles"]["mpp"] == table.grid.target_mpp


def test_torchmil_reads_bags_and_links_the_neighbours(stored, table, tmp_path):
    datasets = pytest.importorskip("torchmil.datasets")
    written(stored, "torchmil", tmp_path)
    parts = {f"{part}_path": str(tmp_path / "out" / part) for part in ("features", "coords")}
    bags = datasets.ProcessedMILDataset(
        **parts, bag_keys=["X", "coords", "adj"], dist_thr=1.5 * max(table.grid.stride), norm_adj=False
    )
    bag, readable = bags[0], table.read("readable") > 0
    assert np.array_equal(bag["X"].numpy(), table.read("features_uni")[readable].astype(np.float32))
    assert np.array_equal(bag["coords"].numpy(), table.coords[readable])
    cols, rows = table.grid.index_of(table.coords[readable])
    near = (abs(cols[:, None] - cols) <= 1) & (abs(rows[:, None] - rows) <= 1) & ~np.eye(len(cols), dtype=bool)
    assert np.array_equal(bag["adj"].to_dense().numpy() > 0, near)


def test_tables_of_others_need_corners_and_the_side_of_a_patch(stored, table, tmp_path):
    store = SlideStore(stored)
    vectors = pa.array(np.ones((len(table), 3), np.float32).tolist(), pa.list_(pa.float32()))
    corners = {"x": table.coords[:, 0], "y": table.coords[:, 1]}
    pq.write_table(pa.table({**corners, "emb": vectors}), tmp_path / "t.parquet")
    (fault,) = [one.text for one in check_import(tmp_path / "t.parquet", store)[1] if one.fatal]
    assert "size of a patch is not stated" in fault
    found, findings = check_import(tmp_path / "t.parquet", store, side_px=table.grid.side[0])
    assert (found.encoder, found.features.shape, findings) == ("emb", (len(table), 3), [])
    pq.write_table(pa.table({"x": corners["x"], "emb": vectors}), tmp_path / "t.parquet")
    with pytest.raises(RequestError, match="no column y"):
        check_import(tmp_path / "t.parquet", store)


def test_columns_and_rows_are_not_taken_for_pixels(tmp_path, stored, table):
    cols, rows = table.grid.index_of(table.coords)
    for part, values in (("features", np.ones((len(table), 2), np.float32)), ("coords", np.stack([cols, rows], 1))):
        (tmp_path / "bags" / part).mkdir(parents=True)
        np.save(tmp_path / "bags" / part / "s.npy", values)
    with pytest.raises(RequestError, match="columns and rows of a grid"):
        check_import(tmp_path / "bags" / "features" / "s.npy", SlideStore(stored), side_px=128)


@pytest.mark.parametrize(
    ("name", "layout", "expected"),
    [("x.parquet", "parquet", "not a file of parquet"), ("x.h5ad", "anndata", "not a readable HDF5 file")],
)
def test_other_content_under_the_name_is_refused(stored, tmp_path, name, layout, expected):
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(RequestError, match=expected):
        check_import(tmp_path / name, SlideStore(stored), layout=layout)


def test_a_slide_of_other_size_is_refused(stored, pixels, tmp_path):
    path = written(stored, "anndata", tmp_path)
    tifffile.imwrite(tmp_path / "o.tiff", pixels[:512, :512], tile=(128, 128), photometric="rgb")
    other = open_slide(tmp_path / "o.tiff", mpp=0.5)
    faults = [one.text for one in check_import(path, other)[1] if one.fatal]
    assert any("written for a slide of" in fault for fault in faults)


def test_without_spatialdata_one_line_says_what_to_install(stored, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "spatialdata", None)
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(RequestError, match="pip install"):
        export(stored, "spatialdata", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()
    assert StoredResults(SlideStore(stored)).slide_id
