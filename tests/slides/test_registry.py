"""Which reader opens a file, and the error message if no reader does."""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsikit.errors import BrokenSlideError, RequestError, SlideError, UnsupportedSlideError
from wsikit.slides import open_slide
from wsikit.slides.registry import choose_reader


def test_a_slide_is_identified_by_its_content_not_by_its_name(tmp_path, pyramid, picture):
    shutil.copy(pyramid, tmp_path / "slide.jpg")
    shutil.copy(picture, tmp_path / "picture.svs")
    assert choose_reader(str(tmp_path / "slide.jpg")) == "tiff"
    assert choose_reader(str(tmp_path / "picture.svs")) == "image"


def test_the_choice_is_stated_in_info_and_log(pyramid, caplog):
    with caplog.at_level(logging.DEBUG), open_slide(pyramid) as slide:
        assert slide.info.reader == "tiff"
    assert f"{pyramid}: read with tiff" in caplog.text


def test_a_tiff_in_strips_is_read_as_one_picture(tmp_path, levels):
    path = tmp_path / "strips.tiff"
    for compression in (None, "lzw", "jpeg"):
        tifffile.imwrite(path, levels[0], photometric="rgb", compression=compression, rowsperstrip=32)
        with open_slide(path) as slide:
            assert slide.info.reader == "image"
            np.testing.assert_array_equal(slide.read_region(0, 0, 640, 480), tifffile.imread(path))


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "jpg"])
def test_pictures_of_common_formats_open(tmp_path, levels, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(levels[0]).save(path, **({"lossless": True} if suffix == "webp" else {}))
    with open_slide(path) as slide, Image.open(path) as truth:
        np.testing.assert_array_equal(slide.read_region(0, 0, 640, 480), np.asarray(truth.convert("RGB")))


def test_a_transparent_picture_is_blended_with_white(tmp_path, levels):
    path = tmp_path / "picture.png"
    alpha = np.zeros(levels[0].shape[:2], np.uint8)
    Image.fromarray(np.dstack([levels[0], alpha])).save(path)
    with open_slide(path) as slide:
        assert (slide.read_region(0, 0, 640, 480) == 255).all()


def test_a_16_bit_grey_picture_keeps_its_grey_levels(tmp_path):
    path = tmp_path / "picture.png"
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(path)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 16, 16)[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_picture_is_refused(tmp_path, levels, suffix):
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(levels[0]).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(BrokenSlideError, match="cannot be decoded.*Copy it again"):
        open_slide(path)


def test_an_unknown_reader_is_an_error_of_the_caller(pyramid):
    with pytest.raises(RequestError, match="choose auto or one of tiff, multichannel, ndpi, dicom, openslide"):
        open_slide(pyramid, "bioformats")


def test_a_reader_that_cannot_names_those_that_can(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "webp.tiff", levels, compression="webp")
    with pytest.raises(UnsupportedSlideError) as caught:
        open_slide(path, "openslide")
    assert str(caught.value).startswith(f"{path}: reader 'openslide' cannot open it: ")
    assert str(caught.value).endswith("Readers that can: tiff, tiffslide.")


def test_where_no_reader_can_the_reason_is_that_of_the_best_one(tmp_path):
    path = tmp_path / "notes.svs"
    path.write_text("to do: scan the slides")
    with pytest.raises(SlideError) as automatic:
        open_slide(path)
    with pytest.raises(SlideError) as explicit:
        open_slide(path, "openslide")
    assert str(explicit.value) == str(automatic.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("slide.svs", b"", "the file is empty. Copy it again"),
        ("slide.svs", bytes(5000), "zeros only; its copy was probably interrupted"),
        ("slide.svs", b"hello world, I am no slide" * 9, "named .svs but does not begin"),
        ("slide.pdf", b"%PDF-1.7 ....." * 20, "a PDF document"),
        ("slides.zip", b"PK\x03\x04....." * 20, "a ZIP archive, not a slide; unpack it first"),
        ("slide.svs.gz", b"\x1f\x8b\x08\0" * 60, "a compressed file or archive, not a slide; unpack it first"),
        ("slide.svs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n" * 3, "a pointer of Git LFS"),
        ("slide.svs", b"\n<!DOCTYPE html><html><title>Sign in</title>" * 4, "a web page, probably saved by a download"),
        ("scan.dcm", b"\x08\0\0\0" * 100, "not a DICOM slide"),
        (
            "subtype.geojson",
            b'{"type": "FeatureCollection", "features": []}' * 4,
            "regions as GeoJSON, not a slide. Give",
        ),
        ("drawn.json", b'\xef\xbb\xbf{"type": "FeatureCollection", "features": []}' * 4, "with --roi"),
        ("result.json", b'{"format": "wsikit slide result"}' * 9, "a JSON file, not a slide. Give the slide itself"),
        (
            "slides.csv",
            b"slide_id,path\na,a.svs\n" * 9,
            "a table, not a slide. Give a slide; a list of slides is given",
        ),
        (
            "report.html",
            b'<!DOCTYPE html><meta charset="utf-8">' + b" " * 300 + b'<meta name="generator" content="wsikit">',
            "a page of results by wsikit, not a slide: open it in a browser",
        ),
        ("notes.txt", b"hello" * 50, "not a slide or picture of any format known here"),
    ],
)
def test_a_file_that_is_not_a_slide_is_refused_in_one_line_that_explains_what_it_is(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_plain_folder_are_refused(tmp_path):
    with pytest.raises(SlideError, match="there is no such file"):
        open_slide(tmp_path / "nowhere.svs")
    with pytest.raises(UnsupportedSlideError, match="a folder, not a slide"):
        open_slide(tmp_path)
    (tmp_path / "slides" / "a.zarr").mkdir(parents=True)
    with pytest.raises(UnsupportedSlideError, match=r"a folder, not a slide. Give one of its stores: a\.zarr\."):
        open_slide(tmp_path / "slides")
    (tmp_path / "run.json").touch()
    with pytest.raises(
        UnsupportedSlideError, match=r"results of wsikit run, not a slide.* its stores: slides/a\.zarr\."
    ):
        open_slide(tmp_path)
    (tmp_path / "run.json").unlink()
    (tmp_path / "a.dcm").touch()
    with pytest.raises(UnsupportedSlideError, match=r"a folder of DICOM files. Give one of them, such as a\.dcm"):
        open_slide(tmp_path)
