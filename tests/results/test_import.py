"""Import of other tools' patches and features: an export comes back the same, and each fault of a file is named."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from wsikit.cli.main import main
from wsikit.errors import RequestError, StoreError
from wsikit.results.export import export
from wsikit.results.import_ import check_import, import_patches, import_roi
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile_slide
from wsikit.voting import Places

NO_PIXELS = ImageParameters(pixels="none")
FEATURES_OF = {"trident": "**/features_uni/*.h5", "clam": "h5_files/*.h5", "stamp": "uni/*.h5", "atlaspatch": "**/*.h5"}


def with_features(slide, folder: Path, patches: PatchParameters) -> tuple[SlideStore, np.ndarray]:
    store = tile_slide(slide, folder, patches=patches, image=NO_PIXELS)
    table = store.patches()
    vectors = np.random.default_rng(0).normal(size=(len(table), 5)).astype(np.float16)
    for rows in table.prepare([ColumnSpec("features_uni", "float16", 5)], Receipt("made up", 1)):
        table.write("features_uni", rows, vectors[rows])
    return store, vectors


def write_h5(path: Path, coords: np.ndarray, *, layout: str = "trident", features=None, **attributes) -> Path:
    with h5py.File(path, "w") as file:
        where = file.create_dataset("coords", data=coords) if layout == "trident" else file
        if layout != "trident":
            file["coords"] = coords
        where.attrs.update(attributes)
        if features is not None:
            file["feats" if layout == "stamp" else "features"] = features
    return path


TRIDENT = {
    "patch_size": 50, "patch_size_level0": 100, "level0_magnification": 20, "target_magnification": 10, "overlap": 0,
    "level0_width": 1500, "level0_height": 1100,
}  # fmt: skip
PLACES = np.stack(np.meshgrid(np.arange(3, 9) * 100, np.arange(2, 6) * 100), axis=-1).reshape(-1, 2)


def faults_of(path: Path, slide, **options) -> list[str]:
    return [finding.text for finding in check_import(path, open_slide(slide), **options)[1] if finding.fatal]


@pytest.mark.parametrize("layout", FEATURES_OF)
@pytest.mark.parametrize("mpp", [0.5, 0.37])
def test_what_is_exported_comes_back_the_same(slide_path, write_slide, pixels, tmp_path, layout, mpp):
    slide = open_slide(slide_path, mpp=mpp)
    store, vectors = with_features(slide, tmp_path / "a.zarr", PatchParameters(1.0, 64))
    export(store, layout, tmp_path / "out")
    (path,) = (tmp_path / "out").glob(FEATURES_OF[layout])
    patch_px = 64 if layout == "clam" else None  # CLAM knows no scale: px at level 0
    done = import_patches(path, tmp_path / "b.zarr", slide=slide, image=NO_PIXELS, patch_px=patch_px, encoder="uni")
    assert done.layout == layout
    assert done.table.grid == store.patches().grid
    assert np.array_equal(done.table.coords, store.patches().coords)
    assert np.array_equal(done.table.read("features_uni").astype(np.float16), vectors)
    assert {"tissue", "readable"} <= set(done.table.columns())


@pytest.mark.parametrize(
    ("name", "mpp"), [("her2st_C2_pyramid.tif", None), ("serrated_adenoma_gallery-01_half.tif", 0.5)]
)
def test_exports_of_real_slides_come_back_the_same(slides_dir, tmp_path, name, mpp):
    slide = open_slide(slides_dir / name, mpp=mpp)
    store, vectors = with_features(slide, tmp_path / "a.zarr", PatchParameters(3.0, 112))
    for layout in ("trident", "stamp"):
        export(store, layout, tmp_path / layout)
        (path,) = (tmp_path / layout).glob(FEATURES_OF[layout])
        done = import_patches(path, tmp_path / f"{layout}.zarr", slide=slide, image=NO_PIXELS)
        assert np.array_equal(done.table.coords, store.patches().coords)
        assert np.array_equal(done.table.read("features_uni").astype(np.float16), vectors)
        tissue = done.table.read("tissue")
        np.testing.assert_allclose(tissue, store.patches().read("tissue"), atol=0.01)


def test_features_are_added_to_a_table_with_the_same_coordinates(slide_path, tmp_path):
    store, vectors = with_features(slide_path, tmp_path / "a.zarr", PatchParameters(1.0, 50))
    coords = store.patches().coords
    shuffled = np.random.default_rng(1).permutation(len(coords))
    path = write_h5(tmp_path / "f.h5", coords[shuffled], features=vectors[shuffled].astype(np.float32), **TRIDENT)
    done = import_patches(path, store.folder, encoder="second")
    assert done.columns == ("features_second",)
    assert {"features_uni", "features_second"} <= set(done.table.columns())
    assert np.array_equal(done.table.read("features_second").astype(np.float16), vectors)


def test_a_table_with_other_patches_is_not_replaced(slide_path, tmp_path):
    store, vectors = with_features(slide_path, tmp_path / "a.zarr", PatchParameters(1.0, 50))
    path = write_h5(tmp_path / "f.h5", PLACES[:3], **TRIDENT)
    with pytest.raises(StoreError, match="another store"):
        import_patches(path, store.folder)
    assert np.array_equal(store.patches().read("features_uni"), vectors)


def test_coordinates_off_the_grid_are_kept_exactly_and_can_be_read_mapped_and_voted(slide_path, tmp_path):
    """CLAM begins a grid of its own at every piece of tissue."""
    pieces = np.concatenate([PLACES[:6] + (7, 3), PLACES[6:] + (31, 58)])
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("coords", data=pieces).attrs.update(
            {"patch_size": 50, "patch_level": 1, "downsample": (2, 2)}
        )
    done = import_patches(tmp_path / "c.h5", tmp_path / "a.zarr", slide=slide_path)
    table = done.table
    order = np.lexsort((pieces[:, 0], pieces[:, 1]))
    assert not table.grid.anchored
    assert table.name == "1um_50px_free"
    assert np.array_equal(table.coords, pieces[order])
    assert table.grid.side == (100, 100)
    Places(table.grid, table.coords)
    export(done.store, "geojson", tmp_path / "a.geojson")
    export(done.store, "png", tmp_path / "a.png")
    assert SlideStore(tmp_path / "a.zarr").patches().grid == table.grid


def test_overlapping_free_patches_cover_their_union(slide_path, tmp_path):
    import shapely

    from wsikit.geometry import PatchGrid
    from wsikit.partition import partition_slide, shared_areas

    coords = np.random.default_rng(0).integers(0, 1000, (40, 2))
    grid = PatchGrid((1050, 1050), (0.5, 0.5), 50, 1.0, 0, False)
    partition = partition_slide(grid, coords, np.zeros(len(coords)))
    stop = np.minimum(coords + 100, 1050)
    boxes = shapely.box(coords[:, 0], coords[:, 1], stop[:, 0], stop[:, 1])
    truth = shapely.union_all(boxes).area
    assert partition.area_px[partition.patch >= 0].sum() == truth
    assert shared_areas(grid, coords).sum() == pytest.approx(truth)


def test_wsinfer_probabilities_become_a_column(slide_path, tmp_path):
    lines = ["minx,miny,width,height,prob_tumor,prob_other"]
    lines += [f"{x},{y},100,100,{x / 1000},{1 - x / 1000}" for x, y in PLACES]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    done = import_patches(tmp_path / "s.csv", tmp_path / "a.zarr", slide=slide_path, patch_px=50)
    assert done.columns == ("coords", "probability")
    np.testing.assert_allclose(done.table.read("probability")[:, 0], PLACES[:, 0] / 1000, rtol=1e-6)
    assert done.table.attributes("probability")["names"] == ["tumor", "other"]
    export(done.store, "geojson", tmp_path / "a.geojson")


def test_a_good_file_has_no_fault(slide_path, tmp_path):
    assert faults_of(write_h5(tmp_path / "f.h5", PLACES, **TRIDENT), slide_path) == []


@pytest.mark.parametrize(
    ("coords", "features", "changes", "expected"),
    [
        (PLACES * 0.5, None, {}, "look like µm"),
        (np.concatenate([PLACES, PLACES[:2]]), None, {}, "2 rows have the coordinates"),
        (PLACES + 1000, None, {}, "outside the slide"),
        (-PLACES, None, {}, "outside the slide"),
        (PLACES, np.full((len(PLACES), 3), np.nan), {}, "24 of 24 rows of features hold NaN"),
        (PLACES, np.zeros((3, 3)), {}, "3 rows of features for 24 coordinates"),
        (PLACES, None, {"level0_width": 3000}, "3000 × 1100 px; this slide has 1500 × 1100"),
        (PLACES.astype(float) + [[np.nan, 0]], None, {}, "not numbers"),
    ],
)
def test_each_fault_is_named_in_one_line(slide_path, tmp_path, coords, features, changes, expected):
    path = write_h5(tmp_path / "f.h5", coords, features=features, **{**TRIDENT, **changes})
    (text,) = faults_of(path, slide_path)
    assert expected in text
    assert "\n" not in text
    with pytest.raises(RequestError, match="does not fit"):
        import_patches(path, tmp_path / "a.zarr", slide=slide_path)
    assert not (tmp_path / "a.zarr").exists()


def test_pixels_of_the_patches_own_scale_are_distinguished_from_micrometres(write_slide, pixels, tmp_path):
    slide = open_slide(write_slide(tmp_path / "s.tiff", pixels), mpp=0.4)
    at_scale = {**TRIDENT, "patch_size": 25, "patch_size_level0": 100}
    for factor, expected in ((0.25, "patches' own scale"), (0.4, "µm")):
        path = write_h5(tmp_path / "f.h5", PLACES * factor, **at_scale)
        faults = [finding.text for finding in check_import(path, slide)[1] if finding.fatal]
        assert len(faults) == 1
        assert expected in faults[0]


def test_stamp_coordinates_in_pixels_are_found(slide_path, tmp_path):
    about = {"unit": "um", "tile_size_um": 50.0, "tile_size_px": 50, "feat_type": "tile"}
    vectors = np.zeros((len(PLACES), 2), np.float16)
    assert (
        faults_of(write_h5(tmp_path / "a.h5", PLACES * 0.5, layout="stamp", features=vectors, **about), slide_path)
        == []
    )
    (text,) = faults_of(write_h5(tmp_path / "b.h5", PLACES, layout="stamp", features=vectors, **about), slide_path)
    assert "level-0 px, though the file says um" in text
    path = write_h5(tmp_path / "c.h5", PLACES, layout="stamp", features=vectors, **{**about, "unit": "px"})
    assert any("STAMP 2 writes um" in text for text in faults_of(path, slide_path))


def test_a_missing_level_0_size_is_computed_or_requested(slide_path, tmp_path):
    without = {name: value for name, value in TRIDENT.items() if name != "patch_size_level0"}
    path = write_h5(tmp_path / "f.h5", PLACES, **without)
    found, findings = check_import(path, open_slide(slide_path))
    assert found.side_px == 100
    assert any("no patch_size_level0" in finding.text and not finding.fatal for finding in findings)
    bare = write_h5(tmp_path / "g.h5", PLACES, features=np.zeros((len(PLACES), 2)))
    (text,) = faults_of(bare, slide_path)
    assert "--side" in text
    done = import_patches(bare, tmp_path / "a.zarr", slide=slide_path, side_px=100, patch_px=50, image=NO_PIXELS)
    assert done.table.name == "1um_50px"


def test_a_magnification_that_contradicts_the_slide_is_reported_and_the_true_field_kept(slide_path, tmp_path):
    path = write_h5(tmp_path / "f.h5", PLACES, **{**TRIDENT, "level0_magnification": 40, "target_magnification": 20})
    done = import_patches(path, tmp_path / "a.zarr", slide=slide_path, image=NO_PIXELS)
    texts = [finding.text for finding in done.findings]
    assert any("40x (about 0.25 µm/px), this slide has 0.5" in text for text in texts)
    assert any("the true field is kept" in text for text in texts)
    assert done.table.grid.side == (100, 100)


def test_an_unknown_layout_is_refused(slide_path, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = np.zeros(3)
    (tmp_path / "b.h5").write_bytes(b"not HDF5")
    (tmp_path / "c.pt").write_bytes(b"")
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    for name, expected in (
        ("a.h5", "images"),
        ("b.h5", "not a readable HDF5"),
        ("c.pt", "h5_files"),
        ("d.csv", "minx"),
    ):
        with pytest.raises(RequestError, match=expected):
            check_import(tmp_path / name, open_slide(slide_path))


def test_the_verb_imports_checks_and_reads_regions(slide_path, tmp_path, capsys):
    def call(*arguments: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return int(ended.value.code or 0)

    good = write_h5(tmp_path / "f.h5", PLACES, **TRIDENT)
    bad = write_h5(tmp_path / "g.h5", PLACES * 0.5, **TRIDENT)
    assert call("import", bad, "--slide", slide_path, "--check") == 1
    assert "fault: " in capsys.readouterr().out
    assert call("import", bad, "--slide", slide_path, "-o", tmp_path / "a.zarr") == 2
    assert call("import", good, "-o", tmp_path / "a.zarr") == 2  # of which slide?
    assert call("import", good, "--slide", slide_path, "-o", tmp_path / "a.zarr") == 0
    assert "24 patches of 1um_50px from trident: coords" in capsys.readouterr().out
    (tmp_path / "r.geojson").write_text(
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[300,200],[350,200],[350,300],[300,300],'
        "[300,200]]]}}"
    )
    assert call("import", tmp_path / "r.geojson", "-o", tmp_path / "a.zarr") == 0
    share = SlideStore(tmp_path / "a.zarr").patches().read("roi")
    assert share[0] == 0.5
    assert not share[1:].any()
    table, again = import_roi(tmp_path / "r.geojson", tmp_path / "a.zarr")
    assert np.array_equal(again, share)
    assert len(table) == 24
