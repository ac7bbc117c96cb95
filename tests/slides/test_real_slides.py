"""Real slides of every format: what opens, what is refused, and the same pixels as OpenSlide and tifffile."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsikit.errors import ScaleError, SlideError
from wsikit.slides import open_slide
from wsikit.slides.registry import choose_reader, reader_class
from wsikit.testing import check_reader

DICOM_CMU = ("dicom", 0.499, "DICOM PixelSpacing", 1)
# reader, mpp at level 0 or None, source of the mpp, levels
GOOD = {
    "CMU-1-Small-Region.svs": ("tiff", 0.499, "vendor property aperio.MPP", 1),
    "CMU-1-Small-Region.jpeg.tiff": ("tiff", None, "TIFF XResolution", 1),
    "CMU-1-Small-Region.jp2.tiff": ("tiff", None, "TIFF XResolution", 1),
    "CMU-1-Small-Region.webp.tiff": ("tiff", None, "TIFF XResolution", 1),
    "her2st_C2_pyramid.tif": ("tiff", 0.6881, "TIFF XResolution", 5),
    "oral_scc_gallery-06.tif": ("tiff", None, "unknown", 5),
    "serrated_adenoma_gallery-01_half.tif": ("tiff", None, "unknown", 5),
    # OpenSlide shows three more levels, which it makes itself by decoding coarsely
    "test3-DAPI-2-387.ndpi": ("ndpi", 0.2282, "TIFF XResolution", 4),
    "XYC-half-mpp.tiff": ("image", 0.5, "TIFF XResolution", 1),
    "xyc_jpeg_pyramid.ome.tiff": ("tiff", None, "unknown", 1),
    "boxes.tiff": ("tiff", None, "TIFF XResolution", 4),
    "small.svs": ("tiff", 0.499, "vendor property aperio.MPP", 1),
    "dicom/gcp_wsi2dcm_jpeg.dcm": ("dicom", 16.783, "DICOM PixelSpacing", 1),
    "dicom/gcp_wsi2dcm_jpeg2000.dcm": ("dicom", 16.783, "DICOM PixelSpacing", 1),
    "dicom/gcp_wsi2dcm_raw.dcm": ("dicom", 16.783, "DICOM PixelSpacing", 1),
    # ORGINAL for ORIGINAL, and YBR_FULL for frames that are RGB: level, label and overview of one slide
    "dicom_malformed/1.2.826.0.1.3680043.8.498.35220404935377466417110411569853018212.dcm": DICOM_CMU,
    "dicom_malformed/1.2.826.0.1.3680043.8.498.74255198296915566858533158243156409717.dcm": DICOM_CMU,
    "dicom_malformed/1.2.826.0.1.3680043.8.498.86409284013638535769289481623834545874.dcm": DICOM_CMU,
}
BROKEN = {
    "broken/histolab_broken.svs": "does not begin as such a file does",
    "broken/unopenable.tiff": "compressed by method 52479",
    "broken/unreadable.svs": "none of its pixels that were tried can be decoded",
    "dicom_malformed/OT-MONO2-8-colon.dcm": "not a DICOM slide",
    "dicom_malformed/pathml_small_dicom.dcm": "ImageType",
    "nuc_small.czi": "Zeiss CZI",
}


@pytest.mark.parametrize("name", GOOD)
def test_every_good_slide_opens_with_the_best_reader(slides_dir, name):
    reader, mpp, source, n_levels = GOOD[name]
    with open_slide(slides_dir / name) as slide:
        info = slide.info
        assert (info.reader, info.mpp_source, len(info.level_dimensions)) == (reader, source, n_levels)
        if mpp is None:
            with pytest.raises(ScaleError):
                _ = slide.mpp
        else:
            assert slide.mpp == pytest.approx((mpp, mpp), rel=1e-3)
        thumbnail = slide.thumbnail(64)
        assert max(thumbnail.shape) == min(64, max(info.dimensions))
        assert thumbnail.std() > 1
        json.dumps(info.to_json())


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_file_is_refused_in_one_line(slides_dir, name, capfd):
    path = slides_dir / name
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    words = str(caught.value)
    assert words.startswith(f"{path}: ")
    assert BROKEN[name] in words
    assert "\n" not in words
    assert words.endswith(".")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region.svs",
        "CMU-1-Small-Region.jpeg.tiff",
        "her2st_C2_pyramid.tif",
        "oral_scc_gallery-06.tif",
        "serrated_adenoma_gallery-01_half.tif",
        "boxes.tiff",
        "small.svs",
        "test3-DAPI-2-387.ndpi",
        "dicom/gcp_wsi2dcm_jpeg.dcm",
        "dicom/gcp_wsi2dcm_jpeg2000.dcm",
        "dicom/gcp_wsi2dcm_raw.dcm",
    ],
)
def test_level_0_is_openslides_to_the_last_bit(slides_dir, name):
    path = slides_dir / name
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        width, height = slide.dimensions
        rng = np.random.default_rng(0)
        boxes = [(0, 0, min(width, 1500), min(height, 1500)), (width - 300, height - 300, 300, 300)]
        boxes += [(int(rng.integers(width)), int(rng.integers(height)), 224, 224) for _ in range(10)]
        for x, y, w, h in boxes:
            expected = np.asarray(truth.read_region((x, y), 0, (w, h)))
            expected = np.where(expected[..., 3:] == 0, 255, expected[..., :3])
            np.testing.assert_array_equal(slide.read_region(x, y, w, h), expected)


@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region.jp2.tiff",
        "CMU-1-Small-Region.webp.tiff",
        "xyc_jpeg_pyramid.ome.tiff",
        "her2st_C2_pyramid.tif",
        "test3-DAPI-2-387.ndpi",
    ],
)
def test_coarser_levels_and_other_codecs_are_tifffiles_to_the_last_bit(slides_dir, name):
    path = slides_dir / name
    with open_slide(path) as slide, tifffile.TiffFile(path) as truth:
        for level, entry in list(enumerate(truth.series[0].levels))[-3:]:
            pixels = slide.read_region(0, 0, *slide.level_dimensions[level], level=level)
            np.testing.assert_array_equal(pixels, entry.asarray())


def test_pixel_values_that_encode_their_coordinates_are_in_place(slides_dir):
    """XYC-half-mpp.tiff: red is y, green is x, each halved; an error of one pixel is visible."""
    whole = tifffile.imread(slides_dir / "XYC-half-mpp.tiff")
    with open_slide(slides_dir / "XYC-half-mpp.tiff") as slide:
        for x, y in ((0, 0), (1, 2), (101, 307), (480, 480)):
            np.testing.assert_array_equal(slide.read_region(x, y, 32, 32), whole[y : y + 32, x : x + 32])
            np.testing.assert_array_equal(slide.read_region(x, y, 32, 32, mpp=0.5), whole[y : y + 32, x : x + 32])
        coarse = slide.read_region(100, 200, 16, 16, mpp=1.0)
        exact = whole[200:232, 100:132].reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
        assert np.abs(coarse - exact).max() < 0.6


def test_a_dicom_slide_that_contradicts_itself_has_the_colours_of_the_svs_that_it_was_made_of(slides_dir):
    name = "dicom_malformed/1.2.826.0.1.3680043.8.498.35220404935377466417110411569853018212.dcm"
    with open_slide(slides_dir / name) as slide, open_slide(slides_dir / "CMU-1-Small-Region.svs") as truth:
        assert slide.dimensions == truth.dimensions
        assert "The file says YBR_FULL, its frames have an Adobe marker, transform 0: read as RGB." in slide.info.notes
        difference = slide.read_region(0, 0, 2220, 2967).astype(int) - truth.read_region(0, 0, 2220, 2967)
        assert np.abs(difference).max() <= 1


def test_all_readers_of_an_svs_agree(slides_dir):
    path = slides_dir / "CMU-1-Small-Region.svs"
    regions, infos = {}, {}
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(path, reader) as slide:
            regions[reader] = slide.read_region(700.5, 900.25, 224, 224, mpp=0.75)
            infos[reader] = slide.info
            label = slide.associated("label")
            assert label.shape == (463, 387, 3)
    for reader in ("openslide", "tiffslide"):
        np.testing.assert_array_equal(regions[reader], regions["tiff"])
        for field in ("dimensions", "level_downsamples", "mpp", "mpp_source", "magnification", "vendor", "associated"):
            assert getattr(infos[reader], field) == getattr(infos["tiff"], field), field


def test_the_card_never_shows_label_or_macro(slides_dir):
    with open_slide(slides_dir / "CMU-1-Small-Region.svs") as slide:
        card = slide._repr_html_()
        assert card.count("<img") == 1
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.split("base64,")[1].split("'")[0]))))
        assert np.abs(shown.astype(int) - slide.thumbnail(256)).mean() < 6  # it is a JPEG
        assert "b414003d" not in str(slide.info.to_json())  # the operator's id


def test_no_output_of_libraries_reaches_the_terminal(slides_dir):
    """Libraries print and warn when they meet odd files; a user must see one line per file."""
    script = (
        "import sys\nfrom wsikit.slides import open_slide\nfrom wsikit.errors import SlideError\n"
        "for path in sys.argv[1:]:\n"
        "    for reader in ('auto', 'openslide', 'tiffslide', 'image'):\n"
        "        try: open_slide(path, reader).thumbnail(50)\n"
        "        except SlideError: pass\n"
    )
    paths = [str(slides_dir / name) for name in (*BROKEN, *GOOD)]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "name",
    ["CMU-1-Small-Region.svs", "test3-DAPI-2-387.ndpi", "her2st_C2_pyramid.tif", "dicom/gcp_wsi2dcm_jpeg.dcm"],
)
def test_the_reader_of_a_real_slide_passes_the_conformance_checks(slides_dir, name):
    path = str(slides_dir / name)
    check_reader(reader_class(choose_reader(path)), path)
