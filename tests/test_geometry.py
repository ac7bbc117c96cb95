"""Grids, levels, scales and coverage against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.errors import RequestError, ScaleError
from wsikit.geometry import PatchGrid, check_enlargement, coverage, downsample_of, mpp_fault, plan_read


def grid(**changes: object) -> PatchGrid:
    given = {"slide_px": (10_000, 7_000), "slide_mpp": (0.25, 0.25), "patch_px": 224, "target_mpp": 0.5}
    return PatchGrid(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [224, 300, -1])
def test_an_overlap_that_is_not_smaller_than_the_patch_is_refused(overlap: int) -> None:
    with pytest.raises(RequestError, match="overlap"):
        grid(overlap_px=overlap)


@pytest.mark.parametrize("mpp", [float("nan"), 0.0, -0.5, float("inf")])
def test_a_target_pixel_size_that_is_not_positive_is_refused(mpp: float) -> None:
    with pytest.raises(RequestError, match="positive"):
        grid(target_mpp=mpp)


def test_the_side_of_a_patch_is_exact_for_odd_scales_and_differs_per_axis() -> None:
    side = grid(slide_mpp=(0.2525, 0.4999)).side
    assert side == pytest.approx((224 * 0.5 / 0.2525, 224 * 0.5 / 0.4999), rel=1e-12)


def test_coordinates_do_not_drift_along_a_row_of_fractional_strides() -> None:
    g = grid(slide_px=(200_000, 1_000), slide_mpp=(0.2503, 0.2503))
    x = g.coords(np.arange(g.n_cols), np.zeros(g.n_cols, dtype=int))[:, 0]
    assert np.abs(x - np.arange(g.n_cols) * 224 * 0.5 / 0.2503).max() <= 0.5


def test_the_grid_covers_the_slide_and_no_column_lies_wholly_outside() -> None:
    for width in (447, 448, 449, 896, 10_000):
        g = grid(slide_px=(width, 448))
        last = g.coords([g.n_cols - 1], [0])[0, 0]
        assert last < width <= last + g.side[0] + 0.5


def test_overlapping_patches_cover_the_slide_without_an_extra_column() -> None:
    g = grid(slide_px=(1000, 448), overlap_px=112)
    assert g.stride == (224.0, 224.0)
    assert g.n_cols == 4  # 0, 224, 448, 672: the last reaches 1120 ≥ 1000; three would reach 896


def test_index_is_the_inverse_of_coords() -> None:
    g = grid(slide_mpp=(0.2503, 0.3101), overlap_px=20)
    cols, rows = g.index_of(g.all_coords())
    assert np.array_equal(rows * g.n_cols + cols, np.arange(g.n_cols * g.n_rows))


def test_a_grid_survives_json() -> None:
    g = grid(slide_mpp=(0.2503, 0.3101), overlap_px=20)
    assert PatchGrid.from_json(g.to_json()) == g


def test_coverage_equals_a_brute_force_count_on_a_fine_raster() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.4
    fine = np.kron(mask, np.ones((16, 16), dtype=bool))  # 16 level-0 px per mask px
    coords = rng.integers(-30, 500, size=(40, 2))
    got = coverage(mask, (16.0, 16.0), coords, (40.0, 24.0))
    for (x, y), share in zip(coords, got):
        part = fine[max(y, 0) : max(y + 24, 0), max(x, 0) : max(x + 40, 0)]
        assert share == pytest.approx(part.sum() / (40 * 24), abs=1e-6)


def test_a_downsample_of_3_9985_is_neither_3_nor_4() -> None:
    assert downsample_of(15_994, 4_000) == pytest.approx(3.9985)


def test_a_level_rounded_down_or_up_by_the_scanner_has_a_whole_downsample() -> None:
    assert downsample_of(3567, 1783) == downsample_of(3567, 1784) == 2.0


@pytest.mark.parametrize(("target", "level"), [(0.2, 0), (0.25, 0), (0.499, 0), (0.4999, 1), (0.7, 1), (9.0, 2)])
def test_a_read_takes_the_coarsest_level_that_holds_the_detail(target: float, level: int) -> None:
    assert plan_read([0.25, 0.5, 2.0], target_mpp=target) == level


def test_more_than_twofold_enlargement_is_refused_with_the_finest_possible_pixel_size() -> None:
    check_enlargement("s.svs", 1.0, 0.5)
    with pytest.raises(ScaleError, match=r"s\.svs.*Ask for 0\.75 µm/px or more"):
        check_enlargement("s.svs", 1.5, 0.5)


@pytest.mark.parametrize("mpp", [0.0, 0.00499, 25.4, 352.8, float("nan"), -0.5])
def test_an_implausible_pixel_size_is_reported(mpp: float) -> None:
    assert "outside 0.05–20" in (mpp_fault((mpp, mpp)) or "")


def test_a_pixel_size_that_contradicts_the_magnification_is_reported() -> None:
    assert "contradicts" in (mpp_fault((5.0, 5.0), magnification=40) or "")
    assert mpp_fault((0.17, 0.17), magnification=40) is None
    assert mpp_fault((0.46, 0.46), magnification=20) is None
