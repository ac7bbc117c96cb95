"""Drawn regions: exact fractions of patches, and tiling and runs limited to the regions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from wsikit.cli.main import main
from wsikit.errors import RequestError
from wsikit.slides.store import SlideStore
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.roi import Roi, read_regions, read_roi
from wsikit.tiling.tile import tile_slide

PATCHES = PatchParameters(1.0, 50)  # 100 level-0 px on slides of 0.5 µm/px
NO_PIXELS = ImageParameters(pixels="none")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def drawn(path: Path, *features: tuple[shapely.Geometry, str | None]) -> Path:
    """As QuPath exports annotations."""
    record = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": json.loads(shapely.to_geojson(shape)),
                "properties": {"objectType": "annotation"}
                | ({"classification": {"name": name, "color": [1, 2, 3]}} if name else {}),
            }
            for shape, name in features
        ],
    }
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


LEFT = shapely.box(0, 0, 650, 1100)
RING = shapely.Polygon(shapely.box(300, 300, 1100, 900).exterior, [shapely.box(500, 500, 700, 700).exterior])


def test_the_share_of_a_patch_is_exact():
    coords = np.array([[0, 0], [250, 250], [450, 450], [550, 550], [640, 640], [1050, 850], [2000, 2000]])
    share = Roi(RING, "ring").share(coords, (100.0, 100.0))
    # outside; a corner of a quarter; a hole's corner; within the hole; the hole's other corner; last corner; far away
    np.testing.assert_allclose(share, [0, 0.25, 0.75, 0, 1 - 0.36, 0.25, 0], atol=1e-7)
    assert share.dtype == np.float32


@pytest.mark.parametrize("n_corners", [200, 5000])
def test_shares_sum_to_the_area_of_the_region_for_any_shape(n_corners):
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, n_corners, endpoint=False)
    radius = 400 * (1 + 0.3 * rng.uniform(-1, 1, n_corners))
    shape = shapely.make_valid(
        shapely.Polygon(np.stack([500 + radius * np.cos(angle), 500 + radius * np.sin(angle)], 1))
    )
    side = 37.3
    x, y = np.meshgrid(np.arange(-2, 40) * side, np.arange(-2, 40) * side)
    # whole coordinates are what a table has; here fractions let the squares tile the plane
    share = Roi(shape, "blob").share(np.stack([x.ravel(), y.ravel()], axis=1), (side, side))
    assert share.sum() * side**2 == pytest.approx(shape.area, rel=1e-5)
    some = rng.choice(len(share), 100, replace=False)
    boxes = shapely.box(x.ravel(), y.ravel(), x.ravel() + side, y.ravel() + side)[some]
    np.testing.assert_allclose(share[some], shapely.area(shapely.intersection(boxes, shape)) / side**2, atol=1e-6)


def test_only_patches_inside_are_tiled_and_their_share_is_stored(slide_path, tmp_path):
    whole = tile_slide(slide_path, tmp_path / "a.zarr", patches=PATCHES, image=NO_PIXELS).patches()
    roi = read_roi(drawn(tmp_path / "r.geojson", (LEFT, None)))
    parameters = PatchParameters(1.0, 50, roi=roi)
    table = tile_slide(slide_path, tmp_path / "b.zarr", patches=parameters, image=NO_PIXELS).patches()
    expected = whole.coords[whole.coords[:, 0] <= 600]
    assert 0 < len(expected) < len(whole)
    assert np.array_equal(table.coords, expected)
    np.testing.assert_allclose(table.read("roi"), np.where(expected[:, 0] == 600, 0.5, 1.0))
    assert table.attributes("roi")["source"] == "r.geojson"


def test_the_minimum_fraction_inside_can_be_chosen(slide_path, tmp_path):
    path = drawn(tmp_path / "r.geojson", (LEFT, None))
    counts = {}
    for least in (0.0, 0.5, 0.51, 1.0):
        parameters = PatchParameters(1.0, 50, roi=read_roi(path, min_share=least))
        table = tile_slide(slide_path, tmp_path / f"{least}.zarr", patches=parameters, image=NO_PIXELS).patches()
        counts[least] = int((table.coords[:, 0] == 600).sum())
        assert table.coords[:, 0].max() <= 600
    assert counts[0.0] == counts[0.5] > 0
    assert counts[0.51] == counts[1.0] == 0


def test_another_region_replaces_the_table_and_the_same_one_keeps_it(slide_path, tmp_path):
    first = read_roi(drawn(tmp_path / "a.geojson", (LEFT, None)))
    redrawn = read_roi(drawn(tmp_path / "b.geojson", (shapely.reverse(LEFT), "Tumour")))
    other = read_roi(drawn(tmp_path / "c.geojson", (RING, None)))
    receipts = []
    for roi in (first, redrawn, other, None):
        parameters = PatchParameters(1.0, 50, roi=roi)
        table = tile_slide(slide_path, tmp_path / "s.zarr", patches=parameters, image=NO_PIXELS).patches()
        receipts.append(table.receipt("coords").digest)
    assert receipts[0] == receipts[1]
    assert len(set(receipts)) == 3
    assert "roi" not in table.columns()


def test_a_table_without_regions_has_an_unchanged_receipt(slide_path, tmp_path):
    table = tile_slide(slide_path, tmp_path / "s.zarr", patches=PATCHES, image=NO_PIXELS).patches()
    assert dict(table.receipt("coords").parameters) == {
        "mpp": 1.0, "patch_px": 50, "overlap_px": 0, "min_tissue": 0.25,
    }  # fmt: skip


def test_classes_choose_among_regions_and_holes_stay_holes(tmp_path):
    path = drawn(tmp_path / "r.geojson", (RING, "Tumour"), (shapely.box(0, 0, 50, 50), "Other"), (LEFT, None))
    assert read_roi(path, classes=["Tumour"]).shape.equals(RING)
    assert read_roi(path).shape.equals(shapely.union_all([RING, LEFT]))
    assert {region.label for region in read_regions(path)} == {"Tumour", "Other"}
    with pytest.raises(RequestError, match="Other, Tumour, no class"):
        read_roi(path, classes=["Stroma"])


def test_a_multipolygon_and_a_single_feature_are_read(tmp_path):
    both = shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10)])
    path = drawn(tmp_path / "r.geojson", (both, "Tumour"))
    assert read_roi(path).shape.area == 200
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record["features"][0]))
    assert read_roi(path).shape.area == 200
    path.write_text("\ufeff" + json.dumps(record["features"]), encoding="utf-8")
    assert read_roi(path).shape.area == 200


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not GeoJSON"),
        ('{"features": [{"geometry": null}]}', "not GeoJSON"),
        ('{"features": []}', "has no features"),
        ('{"features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]}', "is a Point"),
        ('{"features": [{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}]}', "not GeoJSON"),
    ],
)
def test_an_invalid_region_is_refused_with_the_file(tmp_path, text, said):
    path = tmp_path / "r.geojson"
    path.write_text(text)
    with pytest.raises(RequestError, match=said) as caught:
        read_roi(path)
    assert "r.geojson" in str(caught.value)


def test_tile_takes_regions_and_a_slide_without_them_fails_alone(slide_path, tmp_path, capsys):
    folder, slides = tmp_path / "rois", tmp_path / "slides"
    folder.mkdir()
    slides.mkdir()
    for name in ("one", "two"):
        (slides / f"{name}.tiff").write_bytes(slide_path.read_bytes())
    drawn(folder / "one.geojson", (LEFT, "Tumour"))
    options = ["--mpp", 1, "--patch-size", 50, "--pixels", "none", "--workers", 1]
    assert call("tile", slides, "-o", tmp_path / "out", "--roi", folder, "--roi-class", "Tumour", *options) == 1
    assert "two.geojson: no such file" in capsys.readouterr().err
    table = SlideStore(tmp_path / "out" / "one.zarr").patches()
    assert (table.read("roi") >= 0.5).all()
    assert table.coords[:, 0].max() <= 600
    assert not (tmp_path / "out" / "two.zarr").exists()
