"""A pyramid whose second level is 3.9985 times smaller: other tools round that to 3 or 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.slides import open_slide

WIDTH, HEIGHT = 15994, 128
LEVEL_WIDTH, LEVEL_HEIGHT = 4000, 32
MPP = 0.25
BARS = np.arange(400, 15800, 700)
"""Left edges of dark bars, 40 px wide, level-0 px."""
BAR_PX = 40


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory, write_pyramid) -> Path:
    fine = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    for bar in BARS:
        fine[:, bar : bar + BAR_PX] = 20
    # the level's columns by integrating the pattern over 3.9985 px each, independent of what is tested
    dark = np.concatenate([[0], np.cumsum((fine[0, :, 0] == 20).astype(float))])
    edges = np.linspace(0, WIDTH, LEVEL_WIDTH + 1)
    share = np.diff(np.interp(edges, np.arange(WIDTH + 1), dark)) / np.diff(edges)
    coarse = np.broadcast_to(
        (240 - 220 * share).round().astype(np.uint8)[None, :, None], (LEVEL_HEIGHT, LEVEL_WIDTH, 3)
    )
    path = tmp_path_factory.mktemp("slides") / "fractional.tiff"
    return write_pyramid(path, [fine, np.ascontiguousarray(coarse)], mpp=MPP)


def bar_centres(region: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Centres of the dark bars along x, in px of the region, by centre of mass."""
    dark = (240.0 - region[..., 0].mean(axis=0)).clip(0)
    is_dark = dark > 1
    starts = np.flatnonzero(is_dark[1:] & ~is_dark[:-1]) + 1
    stops = np.flatnonzero(~is_dark[1:] & is_dark[:-1]) + 1
    places = np.arange(len(dark)) + 0.5
    return np.array([np.average(places[a:b], weights=dark[a:b]) for a, b in zip(starts, stops)])


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
@pytest.mark.parametrize("mpp", [0.3, 0.9, 1.0, 1.3, 2.0])
def test_the_field_of_view_is_right_to_a_thousandth(slide_path, reader, mpp):
    with open_slide(slide_path, reader) as slide:
        assert slide.level_downsamples[1] == pytest.approx((3.9985, 4.0), rel=1e-9)
        out_px = int(WIDTH * MPP / mpp)
        found = bar_centres(slide.read_region(0, 0, out_px, 4, mpp=mpp))
    expected = (BARS + BAR_PX / 2) * MPP / mpp
    assert len(found) == len(BARS)
    stretch = np.polyfit(expected, found, 1)[0]
    assert abs(stretch - 1) < 1e-3
    assert np.abs(found - expected).max() < max(0.3, 1e-3 * out_px)


@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_patch_far_from_the_corner_is_in_place(slide_path, reader):
    """With int(3.9985) = 3 the position would be wrong by a quarter of the slide."""
    bar = int(BARS[-2])
    with open_slide(slide_path, reader) as slide:
        region = slide.read_region(bar - 400, 0, 224, 4, mpp=1.0)
    assert bar_centres(region)[0] == pytest.approx((400 + BAR_PX / 2) * MPP / 1.0, abs=0.3)
