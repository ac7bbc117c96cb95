"""Heat maps of quantities: the colour of a patch is that of the bar at its value; nothing missing looks measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from wsikit.errors import RequestError
from wsikit.exporters.quantity import Quantity
from wsikit.exporters.scalemap import OPACITY, Scale, draw_scale_map, paint_values, write_scale_png
from wsikit.results.export import export


def quantity(values, limits=None, unit="µm"):
    return Quantity("q", "A quantity", unit, np.asarray(values, dtype=float), limits)


def patch_pixel(class_map, picture, row):
    """The middle of a patch in the picture."""
    height, width = picture.shape[:2]
    x, y = (class_map.coords[row] + np.asarray(class_map.grid.side) / 2) / np.asarray(class_map.grid.slide_px)
    return picture[int(y * height), int(x * width)].astype(float)


def test_a_patch_has_the_colour_of_its_value_and_glass_none(class_map_of, thumbnail):
    class_map = class_map_of(np.array([[0, 0], [0, -2]]))
    white = np.full_like(thumbnail, 255)
    values = np.array([0.0, 0.25, 1.0])
    picture = paint_values(class_map, values, Scale(0, 1, False, False), white, (80, 80))
    for row, value in enumerate(values):
        expected = 255 * (1 - OPACITY) + 255 * np.asarray(colormaps["viridis"](value)[:3]) * OPACITY
        np.testing.assert_allclose(patch_pixel(class_map, picture, row), expected, atol=2)
    assert (picture[70, 70] == 255).all()


def test_a_patch_without_value_is_grey_and_hatched(class_map_of, thumbnail):
    class_map = class_map_of(np.zeros((1, 2), dtype=int))
    picture = paint_values(class_map, np.array([0.5, np.nan]), Scale(0, 1, False, False), thumbnail, (200, 100))
    missing = picture[20:80, 120:180].astype(int)
    assert np.ptp(missing, axis=2).max() <= 2  # no colour
    assert len(np.unique(missing[..., 0])) > 1  # stripes
    assert np.ptp(picture[50, 50].astype(int)) > 20


def test_the_scale_is_the_natural_one_or_all_but_the_outermost_patches():
    assert Scale.of(quantity([0.2, 0.4], (0, 1))) == Scale(0, 1, False, False)
    scale = Scale.of(quantity([*np.linspace(10, 20, 200), 1000, -50]))
    assert 9 < scale.low < 11
    assert 19 < scale.high < 21
    assert scale.below
    assert scale.above


@pytest.mark.parametrize("values", [[np.nan] * 4, [3.0] * 4, [0.0] * 4, [1e-7, 2e-7, 3e-7, np.nan], [1e9, 2e9, 1, 0]])
def test_any_values_give_a_picture(class_map_of, thumbnail, values):
    figure = draw_scale_map(class_map_of(np.zeros((2, 2), dtype=int)), quantity(values), thumbnail)
    texts = [text.get_text() for text in figure.texts]
    assert any("µm" in text for text in texts)
    assert not any("nan" in text for text in texts)


def test_scale_bar_unit_legend_and_notice_are_written(class_map_of, thumbnail):
    class_map = class_map_of(np.zeros((3, 3), dtype=int), notice="only a demonstration", slide_id="<b>$x$")
    values = [*range(8), np.nan]
    said = [t.get_text() for t in draw_scale_map(class_map, quantity(values, unit="per mm²"), thumbnail).texts]
    assert "per mm²" in said
    assert any("No value (1 patch)" in text for text in said)
    assert any(text in ("50 µm", "100 µm") for text in said)
    assert any("Not for diagnosis" in text for text in said)
    assert not any("demonstration" in text for text in said)  # measured, not said by a model
    assert "<b>$x$" in said


def test_the_file_is_a_picture_and_the_same_each_time(store, tmp_path):
    for name in ("a.png", "b.png"):
        export(store, "png", tmp_path / name, column="probability:PD")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 500


def test_an_option_of_another_format_is_refused(store, tmp_path):
    with pytest.raises(RequestError, match="--to png"):
        export(store, "csv", tmp_path / "a.csv", column="gate")


def test_a_failed_write_leaves_nothing(class_map_of, thumbnail, tmp_path, monkeypatch):
    def fail(path, data):
        path.touch()
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scale_png(
            tmp_path / "a.png", class_map_of(np.zeros((2, 2), dtype=int)), quantity([1, 2, 3, 4]), thumbnail
        )
    assert not list(tmp_path.iterdir())
