"""GeoJSON: outlines equal to GEOS' own unions, QuPath's fields, measurements against a recount."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from wsikit.errors import RequestError
from wsikit.exporters.geojson import write_geojson
from wsikit.exporters.outline import components, outlines, trace


def written(path, class_map, **options):
    count = write_geojson(path, class_map, **options)
    collection = json.loads(path.read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    assert len(collection["features"]) == count
    return collection["features"]


def patch_boxes(class_map, label):
    x, y = class_map.coords[class_map.labels == label].T
    return shapely.box(x, y, x + class_map.grid.side[0], y + class_map.grid.side[1])


@pytest.mark.parametrize("seed", range(40))
def test_outlines_are_valid_and_equal_the_union_of_their_cells(seed):
    """Speckled rasters: holes, islands in holes, regions that meet themselves and others at corners."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, rng.integers(1, 4), rng.integers(1, 15, 2)).astype(np.int64)
    region, label_of_region = components(labels)
    found = outlines(region, label_of_region)
    assert len(found) == len(label_of_region)
    for index, outline in enumerate(found):
        polygon = shapely.Polygon(outline.shell, outline.holes)
        rows, cols = np.nonzero(region == index)
        assert polygon.is_valid
        assert polygon.equals(shapely.unary_union(shapely.box(cols, rows, cols + 1, rows + 1)))
        assert polygon.exterior.is_ccw
        assert not any(hole.is_ccw for hole in polygon.interiors)
        assert {labels[row, col] for row, col in zip(rows, cols)} == {outline.label}


def spiral(side):
    """One line of one cell's width that winds to the middle."""
    mask = np.zeros((side, side), dtype=bool)
    row = col = 0
    step = (0, 1)
    mask[0, 0] = True
    for _ in range(4 * side):
        while True:
            ahead, beyond = (row + step[0], col + step[1]), (row + 2 * step[0], col + 2 * step[1])
            inside = all(0 <= at < side for at in ahead)
            if not inside or (all(0 <= at < side for at in beyond) and mask[beyond]):
                break
            row, col = ahead
            mask[row, col] = True
        step = (step[1], -step[0])
    return mask


def checkers(side):
    return (np.indices((side, side)).sum(axis=0) % 2).astype(bool)


def nested(side):
    away = np.abs(np.indices((side, side)) - side // 2).max(axis=0)
    return away % 2 == 0


def bridged(side):
    """Two squares that a bridge of one cell joins, with holes that touch each other at corners."""
    mask = np.ones((side, 2 * side + 1), dtype=bool)
    mask[:, side] = False
    mask[side // 2, side] = True
    mask[1:3, 1:3] = ~np.eye(2, dtype=bool)
    return mask


def comb(side):
    mask = np.ones((side, side), dtype=bool)
    mask[1:, 1::2] = False
    return mask


MASKS = {"spiral": spiral(15), "checkers": checkers(8), "nested": nested(13), "bridged": bridged(7), "comb": comb(9)}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("turns", range(4))
def test_outlines_of_difficult_shapes_equal_the_union_of_their_cells(name, turns):
    labels = np.rot90(MASKS[name], turns).astype(np.int64)  # the shape and what is around it are two classes
    region, label_of_region = components(labels)
    for index, outline in enumerate(outlines(region, label_of_region)):
        polygon = shapely.Polygon(outline.shell, outline.holes)
        rows, cols = np.nonzero(region == index)
        assert polygon.is_valid
        assert polygon.equals(shapely.unary_union(shapely.box(cols, rows, cols + 1, rows + 1)))
        assert polygon.exterior.is_ccw
        assert not any(hole.is_ccw for hole in polygon.interiors)
        assert len(outline.shell) == len(polygon.simplify(0).exterior.coords), "corners only"


@pytest.mark.parametrize("seed", range(12))
def test_many_borders_are_followed_as_few_are(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, rng.integers(1, 4), rng.integers(1, 60, 2)).astype(np.int64)
    region, label_of_region = components(labels)
    few = trace(region, len(label_of_region))
    monkeypatch.setattr("wsikit.exporters.outline._FEW", 0)
    many = trace(region, len(label_of_region))
    for name in ("points", "starts", "first"):
        np.testing.assert_array_equal(getattr(many, name), getattr(few, name))


def test_a_shell_begins_at_the_left_end_of_its_uppermost_border():
    labels = np.random.default_rng(3).integers(0, 2, (60, 50)).astype(np.int64)
    for outline in outlines(*components(labels)):
        top = outline.shell[outline.shell[:, 1] == outline.shell[:, 1].min()]
        assert outline.shell[0].tolist() == [top[:, 0].min(), top[0, 1]]
        assert all((ring[0] == ring[-1]).all() for ring in (outline.shell, *outline.holes))


@pytest.mark.parametrize("per", ["class", "region"])
def test_coordinates_of_any_length_and_sign_are_written_as_json_writes_them(tmp_path, class_map_of, per):
    class_map = class_map_of(np.random.default_rng(1).integers(-1, 3, (12, 15)))
    there = written(tmp_path / "a.geojson", class_map, per=per)
    moved = written(tmp_path / "b.geojson", class_map, per=per, bounds=(1000, 10**7, 5, 5))
    assert len(there) == len(moved) > 2
    for plain, away in zip(there, moved):
        assert shape(away["geometry"]).equals(
            shapely.transform(shape(plain["geometry"]), lambda xy: xy - (1000, 10**7))
        )
    for line in (tmp_path / "b.geojson").read_text(encoding="utf-8").splitlines()[1:-1]:
        feature = json.loads(line.rstrip(","))
        assert json.dumps(feature["geometry"], separators=(",", ":")) in line


def test_regions_are_merged_per_class_and_cover_exactly_their_patches(tmp_path, class_map_of):
    class_map = class_map_of(np.random.default_rng(0).integers(-2, 4, (20, 30)))
    features = written(tmp_path / "map.geojson", class_map)
    assert len(features) == 4
    for label, feature in enumerate(features):
        geometry, truth = shape(feature["geometry"]), shapely.unary_union(patch_boxes(class_map, label))
        assert geometry.is_valid
        assert geometry.equals(truth)
        measured = feature["properties"]["measurements"]
        count = int((class_map.labels == label).sum())
        assert measured["n_patches"] == count
        assert measured["area_mm2"] == pytest.approx(count * class_map.grid.patch_area_mm2)
        assert measured["mean_probability"] == pytest.approx(0.7)


def test_holes_are_kept(tmp_path, small_map):
    ring = shape(written(tmp_path / "map.geojson", small_map)[0]["geometry"])
    assert len(ring.interiors) == 1
    assert ring.area == 8 * 224 * 224


def test_the_fields_are_those_that_qupath_reads(tmp_path, small_map):
    feature = written(tmp_path / "map.geojson", small_map)[0]
    properties = feature["properties"]
    assert feature["type"] == "Feature"
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": "undifferentiated", "color": [213, 94, 0]}
    assert all(isinstance(value, int | float) for value in properties["measurements"].values())
    assert all(isinstance(value, str) for value in properties["metadata"].values())


def test_slide_scale_and_notices_travel_with_every_feature(tmp_path, small_map):
    for feature in written(tmp_path / "map.geojson", small_map):
        metadata = feature["properties"]["metadata"]
        assert metadata["slide_id"] == "case 1/slide A"
        assert "aperio.MPP" in metadata["mpp"]
        assert metadata["notice"] == "demonstration model"
        assert "Not for diagnosis" in metadata["use"]


def test_overlapping_patches_give_regions_that_do_not_overlap(tmp_path, class_map_of):
    rng = np.random.default_rng(2)
    raster = rng.integers(-2, 3, (8, 9))
    class_map = class_map_of(raster, overlap_px=90, certainty=rng.uniform(0.4, 1, raster.shape))
    shapes = [shape(feature["geometry"]) for feature in written(tmp_path / "map.geojson", class_map)]
    union = shapely.unary_union([box for label in range(3) for box in patch_boxes(class_map, label)])
    assert sum(region.area for region in shapes) == pytest.approx(union.area)
    assert shapely.unary_union(shapes).equals(union)


def test_fractional_patch_sides_leave_no_slivers_between_neighbours(tmp_path, class_map_of):
    class_map = class_map_of(np.zeros((25, 25), dtype=int), mpp=(0.2437, 0.2481))
    (feature,) = written(tmp_path / "map.geojson", class_map)
    assert feature["geometry"]["type"] == "Polygon"
    assert len(feature["geometry"]["coordinates"]) == 1
    assert len(feature["geometry"]["coordinates"][0]) == 5


def test_per_region_gives_one_feature_with_its_own_measurements_each(tmp_path, class_map_of):
    raster = np.array([[0, -2, 0], [-2, 0, 0]])
    class_map = class_map_of(raster, certainty=np.array([[0.9, 0, 0.5], [0, 0.6, 0.7]]))
    features = written(tmp_path / "map.geojson", class_map, per="region")
    measured = [feature["properties"]["measurements"] for feature in features]
    assert [record["n_patches"] for record in measured] == [1, 3]
    assert [record["mean_probability"] for record in measured] == pytest.approx([0.9, 0.6])
    assert len({feature["id"] for feature in features}) == 2


def test_a_map_without_predictions_is_a_valid_empty_collection(tmp_path, class_map_of):
    assert written(tmp_path / "a.geojson", class_map_of(np.full((2, 2), -1))) == []
    assert written(tmp_path / "b.geojson", class_map_of(np.full((2, 2), -2), slide_px=(448, 448))) == []


def test_without_probabilities_there_is_no_mean_probability(tmp_path, small_map):
    feature = written(tmp_path / "map.geojson", replace(small_map, probs=None))[0]
    assert set(feature["properties"]["measurements"]) == {"area_mm2", "n_patches"}


def test_the_same_map_gives_the_same_bytes(tmp_path, small_map):
    for name in ("one", "two"):
        write_geojson(tmp_path / name, small_map)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_failure_in_mid_write_leaves_the_old_file_and_nothing_else(tmp_path, small_map):
    target = tmp_path / "map.geojson"
    target.write_text("old")
    broken = replace(small_map, class_names=("undifferentiated", "poorly", "diff", object()))  # the last feature's name
    with pytest.raises(TypeError):
        write_geojson(target, broken)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_unknown_grouping_is_refused(tmp_path, small_map):
    with pytest.raises(RequestError, match="region"):
        write_geojson(tmp_path / "map.geojson", small_map, per="patch")


def test_patches_are_detections_with_their_own_measurements_after_the_regions(tmp_path, class_map_of):
    raster = np.array([[0, 0, 3], [-1, 1, -2]])
    class_map = class_map_of(raster, slide_px=(3 * 224 - 24, 2 * 224))
    gate = np.array([0.25, np.nan, 0.5, 0.75, 1.0])
    features = written(tmp_path / "map.geojson", class_map, patches={"gate": gate})
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert kinds == ["annotation"] * 3 + ["detection"] * 5
    detections = features[3:]
    for row, feature in enumerate(detections):
        x, y = class_map.coords[row]
        assert shape(feature["geometry"]).equals(shapely.box(x, y, min(x + 224, 648), y + 224))  # cut at the edge
        found = feature["properties"]["measurements"]
        assert found.get("gate", np.nan) == pytest.approx(gate[row], nan_ok=True)
        assert ("probability" in found) == (class_map.labels[row] >= 0)
    assert "classification" not in detections[3]["properties"]
    assert detections[2]["properties"]["classification"] == {"name": "other tissue", "color": [140, 140, 140]}
    assert len({feature["id"] for feature in features}) == 8


def test_patches_are_written_one_by_one(tmp_path, class_map_of, monkeypatch):
    """A million of them must not be held at once."""
    from wsikit.exporters import geojson

    class_map = class_map_of(np.zeros((3, 3), dtype=int))
    held, most = 0, 0

    def counted(found):
        nonlocal held, most
        for feature in found:
            held += 1
            most = max(most, held)
            yield feature
            held -= 1

    original = geojson._detections
    monkeypatch.setattr(geojson, "_detections", lambda *arguments: counted(original(*arguments)))
    assert write_geojson(tmp_path / "map.geojson", class_map, patches={}) == 10
    assert most == 1


def test_a_measurement_of_another_length_is_refused(tmp_path, small_map):
    with pytest.raises(RequestError, match="'gate' is not one value per patch"):
        write_geojson(tmp_path / "map.geojson", small_map, patches={"gate": np.zeros(3)})
    assert not list(tmp_path.iterdir())
