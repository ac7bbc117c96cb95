"""PNG files as Pillow reads them, and pages whose pictures are pasted as they are."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from wsikit.errors import UnsupportedSlideError
from wsikit.exporters.overlay import deepest_cell
from wsikit.exporters.page import Pen, png_of
from wsikit.exporters.png import encode_png
from wsikit.slides import open_slide

RNG = np.random.default_rng(0)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("shape", [(1, 1, 3), (40, 31, 3), (31, 40, 4), (17, 23), (1, 300, 3), (300, 1, 4)])
def test_pillow_reads_the_same_pixels(shape):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    found = opened(encode_png(pixels, dpi=150))
    np.testing.assert_array_equal(np.asarray(found), pixels)
    assert found.info["dpi"] == pytest.approx((150, 150), abs=0.02)
    assert encode_png(pixels) == encode_png(pixels.copy())


def test_a_view_of_pixels_is_written_as_what_it_shows():
    pixels = RNG.integers(0, 256, (30, 20, 4)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(opened(encode_png(pixels[::-1, 3:, :3]))), pixels[::-1, 3:, :3])


def test_a_palette_and_its_opacities_are_kept():
    indices = RNG.integers(0, 3, (20, 30)).astype(np.uint8)
    colors = [(0, 0, 0), (213, 94, 0), (255, 255, 255)]
    found = np.asarray(opened(encode_png(indices, palette=colors, alphas=bytes([0, 128, 255]))).convert("RGBA"))
    np.testing.assert_array_equal(found[..., :3], np.asarray(colors)[indices])
    np.testing.assert_array_equal(found[..., 3], np.asarray([0, 128, 255])[indices])


def test_without_libdeflate_zlib_compresses_the_same_pixels(monkeypatch):
    import imagecodecs

    monkeypatch.setattr(imagecodecs.DEFLATE, "available", False)
    pixels = RNG.integers(0, 256, (9, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(opened(encode_png(pixels))), pixels)


@pytest.mark.parametrize("width", [75, 301, 460, 725])
def test_a_picture_of_the_pages_own_pixels_is_pasted_where_axes_draw_it(width):
    pixels = RNG.integers(0, 256, (120, width, 3)).astype(np.uint8)
    page = (6.0, 2.0)
    figure = Figure(figsize=page, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    Pen(figure, page).image(pixels, (0.35, 0.47, width / 150, 0.8))
    found = np.asarray(opened(png_of(figure)))
    assert found.shape == (300, 900, 3)
    left, top = 53, 70  # 52.5 px and 70.5 px: half pixels are rounded to the right and upwards, as in axes
    np.testing.assert_array_equal(found[top : top + 120, left : left + width], pixels)
    found = found.copy()
    found[top : top + 120, left : left + width] = 255
    assert (found == 255).all()


def test_a_page_that_was_drawn_here_is_not_read_as_a_slide(tmp_path):
    figure = Figure(figsize=(4.0, 2.0), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    (tmp_path / "map.png").write_bytes(png_of(figure))
    with pytest.raises(UnsupportedSlideError, match=r"map.png: a picture of results drawn by wsikit, .* not a slide\."):
        open_slide(tmp_path / "map.png", mpp=0.5)
    with open_slide(tmp_path / "map.png", "image", mpp=0.5) as slide:  # who names the reader may
        assert slide.dimensions == (600, 300)
    (tmp_path / "scan.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8), dpi=150, software="a scanner"))
    with open_slide(tmp_path / "scan.png", mpp=0.5) as slide:
        assert slide.dimensions == (8, 8)


@pytest.mark.parametrize("seed", range(6))
def test_the_deepest_cell_of_a_large_region_is_that_of_an_exact_distance(seed):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(460, 470)), rng.uniform(1, 30))
    own = np.pad(field > np.quantile(field, rng.uniform(0.1, 0.9)), 1)
    depth = ndimage.distance_transform_edt(own)
    row, col, found = deepest_cell(own)
    assert (row, col) == np.unravel_index(depth.argmax(), depth.shape)
    assert found == depth.max()
