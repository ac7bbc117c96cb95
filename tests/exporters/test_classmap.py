"""Class maps: areas counted once, on the patch table's coordinates, and refusals of what is no map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely

from wsikit.errors import RequestError
from wsikit.exporters.classmap import composition, strongest_patches


def boxes(class_map, rows):
    """Squares of the patches in `rows`, within the slide: the truth that no partition is needed for."""
    x, y = class_map.coords[rows].T.astype(float)
    side_x, side_y = class_map.grid.side
    squares = shapely.box(x, y, x + side_x, y + side_y)
    return shapely.intersection(squares, shapely.box(0, 0, *class_map.grid.slide_px))


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.25, 0.25), (0.31, 0.47)])
def test_the_area_of_a_class_is_its_patches_times_their_area(class_map_of, mpp):
    raster = np.random.default_rng(0).integers(-2, 4, (17, 23))
    class_map = class_map_of(raster, mpp=mpp)
    shares = composition(class_map)
    for share in shares:
        count = int((raster == share.index).sum())
        assert share.n_patches == count
        # coordinates are rounded to whole pixels: half a pixel at either end of each run
        assert share.area_mm2 == pytest.approx(count * class_map.grid.patch_area_mm2, rel=2e-3)
    assert sum(share.share for share in shares if share.index >= 0) == pytest.approx(1)


@pytest.mark.parametrize("overlap_px", [16, 112, 150, 200])
def test_overlapping_patches_cover_their_union_once(class_map_of, overlap_px):
    raster = np.random.default_rng(1).integers(-2, 4, (9, 11))
    class_map = class_map_of(raster, overlap_px=overlap_px)
    union = shapely.unary_union(boxes(class_map, np.arange(len(class_map.labels))))
    covered = class_map.partition.area_px[class_map.partition.patch >= 0].sum()
    assert covered == pytest.approx(union.area)
    total_mm2 = sum(share.area_mm2 for share in composition(class_map))
    assert total_mm2 == pytest.approx(union.area * 0.25e-6)


def test_where_patches_overlap_the_more_certain_one_has_the_place(class_map_of):
    class_map = class_map_of(np.array([[0, 1]]), overlap_px=100, certainty=np.array([[0.6, 0.9]]))
    areas = {share.index: share.area_mm2 * 4e6 for share in composition(class_map)}
    assert areas[1] == pytest.approx(224 * 224)
    assert areas[0] == pytest.approx(124 * 224)


def test_a_patch_without_prediction_gives_way_to_one_with(class_map_of):
    class_map = class_map_of(np.array([[-1, 1]]), overlap_px=100)
    assert {share.index: round(share.area_mm2 * 4e6) for share in composition(class_map)}[1] == 224 * 224


def test_the_partition_uses_the_tables_coordinates(class_map_of):
    class_map = class_map_of(np.zeros((30, 40), dtype=int), mpp=(0.2437, 0.2437))
    assert set(class_map.coords[:, 0]) <= set(class_map.partition.x_edges)
    assert set(class_map.coords[:, 1]) <= set(class_map.partition.y_edges)


@pytest.mark.parametrize(("n", "overlap_px"), [(2, 0), (3, 100)])
def test_patches_that_reach_over_the_slide_end_at_its_edge(class_map_of, n, overlap_px):
    class_map = class_map_of(np.zeros((n, n), dtype=int), overlap_px=overlap_px, slide_px=(350, 350))
    assert class_map.partition.x_edges[-1] == class_map.partition.y_edges[-1] == 350
    assert composition(class_map)[0].area_mm2 == pytest.approx(350 * 350 * 0.25e-6)


def test_a_map_without_patches_has_no_area_and_no_share(class_map_of):
    shares = composition(class_map_of(np.full((2, 2), -2), slide_px=(448, 448)))
    assert [share.area_mm2 for share in shares] == [0] * 5
    assert all(np.isnan(share.share) for share in shares)


def test_the_mean_probability_is_that_of_the_class_over_its_own_patches(class_map_of):
    class_map = class_map_of(np.array([[0, 0, 1]]), certainty=np.array([[0.5, 0.9, 0.8]]))
    assert [share.mean_prob for share in composition(class_map)[:2]] == pytest.approx([0.7, 0.8])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"coords": np.array([[1, 0], [224, 0]])}, "not on the grid"),
        ({"coords": np.array([[0, 0], [448, 0]])}, "not on the grid"),
        ({"coords": np.array([[0, 0], [0, 0]])}, "same coordinates"),
        ({"coords": np.array([[0.0, 0.0], [224.0, 0.0]])}, "integers"),
        ({"labels": np.array([0, 4])}, "between -1 and 3"),
        ({"labels": np.array([0])}, "labels of shape"),
        ({"probs": np.zeros((2, 3))}, "probabilities of shape"),
        ({"class_names": ("one",)}, "codes, names and colours"),
        ({"background": ("fat",)}, "background"),
    ],
)
def test_what_is_no_map_is_refused_with_its_reason(class_map_of, change, words):
    with pytest.raises(RequestError, match=words):
        replace(class_map_of(np.array([[0, 1]])), **change)


def test_the_strongest_patches_come_most_certain_first_and_from_different_places(class_map_of):
    certainty = np.full((12, 12), 0.6)
    certainty[5, 5], certainty[5, 6], certainty[0, 0] = 0.95, 0.94, 0.9
    class_map = class_map_of(np.zeros((12, 12), dtype=int), certainty=certainty)
    rows = strongest_patches(class_map, 0, 4)
    assert rows[:2] == [5 * 12 + 5, 0]  # the neighbour of the strongest shows the same place
    cells = np.array([divmod(row, 12) for row in rows])
    distance = np.abs(cells[:, None] - cells[None]).max(axis=-1)
    assert distance[~np.eye(4, dtype=bool)].min() >= 3


def test_a_class_without_patches_has_no_strongest_ones(class_map_of):
    assert strongest_patches(class_map_of(np.zeros((2, 2), dtype=int)), 2, 4) == []
