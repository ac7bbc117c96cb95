"""The overlay pyramid, read back by tifffile, OpenSlide and tiffslide."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide

from wsikit.errors import RequestError, ScaleError
from wsikit.exporters import ome_tiff
from wsikit.exporters.ome_tiff import write_ome_tiff
from wsikit.results.export import export
from wsikit.slides.registry import open_slide

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"


class White:
    """A slide of glass."""

    def read_region(self, x, y, width, height, *, mpp):
        return np.full((height, width, 3), 255, np.uint8)


def test_size_and_levels_follow_from_the_scale(store, tmp_path, monkeypatch):
    monkeypatch.setattr(ome_tiff, "SMALLEST_PX", 200)
    export(store, "ome-tiff", tmp_path / "o.ome.tiff", mpp=1.0)
    with tifffile.TiffFile(tmp_path / "o.ome.tiff") as tiff:
        assert tiff.is_ome
        assert [level.shape for level in tiff.series[0].levels] == [(550, 750, 3), (275, 375, 3), (138, 188, 3)]
        assert tiff.pages[0].is_tiled
        assert tiff.pages[0].tilewidth == 512
        pixels = ET.fromstring(tiff.ome_metadata).find(f".//{OME}Pixels")
    assert float(pixels.get("PhysicalSizeX")) == float(pixels.get("PhysicalSizeY")) == 1.0
    assert pixels.get("PhysicalSizeXUnit") == "µm"
    with openslide.OpenSlide(tmp_path / "o.ome.tiff") as slide:
        assert slide.dimensions == (750, 550)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(1.0)
        seen = np.asarray(slide.read_region((0, 0), 0, (750, 550)).convert("RGB"))
    with tiffslide.TiffSlide(tmp_path / "o.ome.tiff") as slide:
        assert slide.level_dimensions == ((750, 550), (375, 275), (188, 138))
        assert slide.properties["tiffslide.mpp-x"] == pytest.approx(1.0)
        again = np.asarray(slide.read_region((0, 0), 0, (750, 550)))[..., :3]
    assert np.abs(seen.astype(int) - again).max() <= 3  # two JPEG decoders
    with open_slide(tmp_path / "o.ome.tiff") as slide:
        assert slide.mpp == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.5, 0.4)])
@pytest.mark.parametrize("level", [0, 1])
def test_alone_each_patch_has_exactly_its_colour_at_its_place(class_map_of, tmp_path, monkeypatch, mpp, level):
    monkeypatch.setattr(ome_tiff, "SMALLEST_PX", 512)
    raster = np.random.default_rng(0).integers(-2, 4, (8, 11))
    raster[0, 0] = -2
    class_map = class_map_of(raster, mpp=mpp, slide_px=(11 * 224 + 50, 8 * 280 + 30))
    write_ome_tiff(tmp_path / "o.tif", class_map, White(), mpp=1.0, style="map")
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        picture = tiff.series[0].levels[level].asarray()
    side = 1.0 * 2**level
    for (x, y), label in zip(class_map.coords, class_map.labels, strict=True):
        col, row = (np.array([x, y]) + np.asarray(class_map.grid.side) / 2) * mpp / side
        pixel = picture[int(row), int(col)]
        if label >= 0:
            assert tuple(pixel) == class_map.colors[label]
        else:
            assert np.ptp(pixel.astype(int)) == 0
            assert pixel.max() < 255
    assert (picture[0, 0] == 255).all()


def test_over_the_slide_glass_stays_grey_and_tissue_shows_through(store, tmp_path):
    export(store, "ome-tiff", tmp_path / "o.tif", mpp=1.0)
    picture = tifffile.imread(tmp_path / "o.tif").astype(int)
    assert np.ptp(picture[5:40, 5:40], axis=2).max() <= 2
    x, y = (store.patches().coords[len(store.patches()) // 2] * 0.5).astype(int)
    patch = picture[y + 5 : y + 45, x + 5 : x + 45]
    assert np.ptp(patch.mean(axis=(0, 1))) > 10
    assert patch.std(axis=(0, 1)).max() > 2


def test_a_name_with_markup_leaves_the_xml_whole(class_map_of, tmp_path):
    name = '</Image><script>alert("x")</script>&'
    write_ome_tiff(tmp_path / "o.tif", class_map_of(np.zeros((2, 2), int), slide_id=name), White(), mpp=2.0)
    with tifffile.TiffFile(tmp_path / "o.tif") as tiff:
        root = ET.fromstring(tiff.ome_metadata)
    assert root.find(f"{OME}Image").get("Name") == f"{name} classes"
    assert "Not for diagnosis" in root.find(f".//{OME}Description").text
    assert not [element for element in root.iter() if element.tag.endswith("script")]


def test_the_same_map_gives_the_same_bytes(class_map_of, tmp_path):
    for name in ("a", "b"):
        write_ome_tiff(tmp_path / name, class_map_of(np.zeros((2, 2), int)), White(), mpp=2.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_read_is_striped_not_white(class_map_of, tmp_path):
    from wsikit.errors import ReadError

    class Broken(White):
        def read_region(self, x, y, width, height, *, mpp):
            raise ReadError("s", 0, (0, 0, 1, 1), "damaged")

    write_ome_tiff(tmp_path / "o.tif", class_map_of(np.full((2, 2), -2), slide_px=(900, 900)), Broken(), mpp=1.0)
    picture = tifffile.imread(tmp_path / "o.tif")
    assert picture.max() < 200
    assert picture.std() > 10


def test_what_cannot_be_asked_is_refused_and_nothing_is_left(store, class_map_of, tmp_path, monkeypatch):
    for options, error in (
        ({"mpp": -1.0}, RequestError),
        ({"mpp": float("nan")}, RequestError),
        ({"mpp": 0.1}, ScaleError),
    ):
        with pytest.raises(error):
            export(store, "ome-tiff", tmp_path / "o.tif", **options)
    with pytest.raises(RequestError, match="style"):
        write_ome_tiff(tmp_path / "o.tif", class_map_of(np.zeros((2, 2), int)), White(), style="none")
    assert not list(tmp_path.glob("o.*"))


def test_a_real_slide_comes_out_at_its_place(slides_dir, class_map_of, tmp_path):
    """Glass and tissue without patches are the slide's own, as OpenSlide reads them."""
    slide = open_slide(slides_dir / "her2st_C2_pyramid.tif")
    class_map = class_map_of(np.array([[0]]), slide_px=slide.dimensions, mpp=slide.mpp)
    write_ome_tiff(tmp_path / "o.tif", class_map, slide, mpp=8 * slide.mpp[0])
    picture = tifffile.imread(tmp_path / "o.tif")[..., 0].astype(float)
    with openslide.OpenSlide(slides_dir / "her2st_C2_pyramid.tif") as truth:
        grey = np.asarray(truth.get_thumbnail((picture.shape[1], picture.shape[0])).convert("L"), dtype=float)
    height, width = (min(a, b) for a, b in zip(picture.shape, grey.shape))
    expected = 255 - (255 - grey[:height, :width]) * 0.72
    difference = np.abs(picture[:height, :width] - expected)[60:]
    assert difference.mean() < 2
    assert np.corrcoef(picture[60:height, :width].ravel(), expected[60:].ravel())[0, 1] > 0.97
