"""The source of a slide's pixel size, whether it is plausible, and the messages about it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from wsikit.errors import RequestError, ScaleError
from wsikit.slides import open_slide
from wsikit.slides.scale import Scale, from_resolution, resolve


def test_the_files_own_pixel_size_is_used_with_its_provenance(pyramid):
    with open_slide(pyramid) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.25))
        assert slide.mpp_source == "TIFF XResolution"


def test_a_slide_without_pixel_size_opens_and_names_the_three_ways_to_give_one(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "no_mpp.tiff", levels, mpp=None)
    with open_slide(path) as slide:
        assert slide.info.mpp is None
        assert slide.mpp_source == "unknown"
        assert slide.read_region(0, 0, 8, 8).shape == (8, 8, 3)
        assert slide.thumbnail(50).shape[1] == 50
        for ask in (lambda: slide.mpp, lambda: slide.read_region(0, 0, 8, 8, mpp=0.5)):
            with pytest.raises(ScaleError) as caught:
                ask()
            words = str(caught.value)
            assert words.startswith(f"{path}: the file states no pixel size")
            assert "manifest" in words
            assert "--assume-mpp" in words
            assert "no_mpp.tiff.json" in words
            assert "\n" not in words


@pytest.mark.parametrize("mpp", [0.00499, 352.8, 264.6])
def test_an_absurd_pixel_size_is_refused_and_named(tmp_path, levels, write_pyramid, mpp):
    """0.00499 as a slide of ours states it; 352.8 and 264.6 are the 72 and 96 dpi that image editors write."""
    path = write_pyramid(tmp_path / "absurd.tiff", levels, mpp=mpp)
    with open_slide(path) as slide:
        assert slide.info.mpp is None
        with pytest.raises(ScaleError, match=rf"{mpp:.4g} × {mpp:.4g} µm/px is outside 0\.05–20"):
            _ = slide.mpp


def test_a_pixel_size_that_contradicts_the_magnification_is_refused(tmp_path, levels, write_pyramid):
    description = "Aperio Image Library v12\r\n640x480|AppMag = 40|MPP = 5.0"
    path = write_pyramid(tmp_path / "odd.svs", levels, mpp=None, description=description)
    with open_slide(path) as slide:
        assert slide.info.magnification == 40
        with pytest.raises(ScaleError, match="aperio.MPP.*5 × 5 µm/px contradicts the stated 40x"):
            _ = slide.mpp


def test_the_vendors_pixel_size_takes_precedence_over_the_resolution_tag(tmp_path, levels, write_pyramid):
    description = "Aperio Image Library v12\r\n640x480|AppMag = 20|MPP = 0.4990"
    path = write_pyramid(tmp_path / "slide.svs", levels, mpp=0.3, description=description)
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(path, reader) as slide:
            assert slide.mpp == pytest.approx((0.499, 0.499)), reader
            assert slide.mpp_source == "vendor property aperio.MPP", reader
            assert slide.info.magnification == 20, reader


def test_an_option_takes_precedence_over_a_sidecar_and_a_sidecar_over_the_file(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.tiff", levels, mpp=0.25)
    sidecar = tmp_path / "slide.tiff.json"
    sidecar.write_text(json.dumps({"mpp_x": 0.3, "mpp_y": 0.31}))
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == ((0.3, 0.31), "sidecar")
    with open_slide(path, mpp=0.4, mpp_source="manifest") as slide:
        assert (slide.mpp, slide.mpp_source) == ((0.4, 0.4), "manifest")
    sidecar.write_text(json.dumps({"mpp": 0.5}))
    with open_slide(path) as slide:
        assert slide.mpp == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{mpp: 0.25}", "cannot be read as JSON"),
        ('{"mpp": "fine"}', "gives no number"),
        ('{"mpp_x": 0.25}', "both mpp_x and mpp_y"),
        ('{"mpp": 250}', "outside"),
        ('{"mpp": NaN}', "outside"),
    ],
)
def test_a_wrong_sidecar_is_refused_not_ignored(tmp_path, levels, write_pyramid, text, words):
    path = write_pyramid(tmp_path / "slide.tiff", levels, mpp=0.25)
    (tmp_path / "slide.tiff.json").write_text(text)
    with open_slide(path) as slide, pytest.raises(ScaleError, match=words):
        _ = slide.mpp


def test_a_json_file_of_another_kind_next_to_the_slide_is_ignored(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.tiff", levels, mpp=0.25)
    (tmp_path / "slide.tiff.json").write_text('{"annotations": []}')
    with open_slide(path) as slide:
        assert slide.mpp_source == "TIFF XResolution"


@pytest.mark.parametrize("mpp", [0, -0.25, float("nan"), float("inf"), 300, "a lot", (0.25, 7.0)])
def test_an_impossible_option_is_an_error_of_the_caller(pyramid, mpp):
    with pytest.raises(RequestError):
        open_slide(pyramid, mpp=mpp)


def test_an_option_replaces_an_absurd_pixel_size_of_the_slide(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "absurd.tiff", levels, mpp=0.00499)
    with open_slide(path, mpp=0.5) as slide:
        assert (slide.mpp, slide.mpp_source, slide.info.mpp_fault) == ((0.5, 0.5), "option", None)


def test_an_option_that_contradicts_the_magnification_is_used_with_a_warning(caplog):
    resolved = resolve("slide", Scale(None, "unknown"), 40.0, given=5.0, given_source="option")
    assert resolved.mpp == (5.0, 5.0)
    assert "contradicts" in caplog.text


def test_a_resolution_without_unit_is_not_a_scale():
    assert from_resolution(40000.0, 40000.0, 1, "TIFF XResolution").mpp is None
    assert from_resolution(0.0, 0.0, 3, "TIFF XResolution").mpp is None
    assert from_resolution(40000.0, 20000.0, 3, "TIFF XResolution").mpp == (0.25, 0.5)


def test_72_dpi_of_a_picture_is_not_a_scale(tmp_path, levels):
    path = tmp_path / "photo.jpg"
    Image.fromarray(levels[0]).save(path, dpi=(72, 72))
    with open_slide(path) as slide, pytest.raises(ScaleError, match="outside"):
        _ = slide.mpp
