"""The source of a slide's pixel size, whether it is plausible, and the messages about it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsikit.errors import RequestError, ScaleError
from wsikit.slides import open_slide
from wsikit.slides.formats.openslide import _scale
from wsikit.slides.scale import DICOM_SPACING, Scale, from_resolution, resolve


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


@pytest.fixture
def aperio(tmp_path, levels, write_pyramid):
    """aperio(fields): the path of an SVS whose description ends with these fields."""

    def write(fields: str):
        description = f"Aperio Image Library v12\r\n640x480|{fields}".encode()
        return write_pyramid(tmp_path / "slide.svs", levels, mpp=None, description=description)

    return write


@pytest.mark.parametrize("value", ["0,4990", "0.4990 ", "0. 499", "0.499 µm", "499 nm", "0.499 microns/pixel"])
@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_an_aperio_pixel_size_is_read_with_comma_spaces_and_unit(aperio, value, reader):
    with open_slide(aperio(f"AppMag = 20|MPP = {value}"), reader) as slide:
        assert slide.mpp == pytest.approx((0.499, 0.499))
        assert slide.mpp_source == "vendor property aperio.MPP"


@pytest.mark.parametrize("value", ["0", "0,0", "n/a", "-0.25", "NaN", ""])
@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_value_that_is_no_pixel_size_is_quoted_as_the_file_writes_it(aperio, value, reader):
    with open_slide(aperio(f"AppMag = 20|MPP = {value}"), reader) as slide, pytest.raises(ScaleError) as caught:
        _ = slide.mpp
    assert f"“MPP = {value}”".replace(" ”", "”") in str(caught.value).replace(" ”", "”") or "only AppMag = 20" in str(
        caught.value
    )
    assert "0 × 0" not in str(caught.value)


def test_a_faulty_value_is_shown_as_read_and_as_written(aperio):
    with open_slide(aperio("AppMag = 40|MPP = 5,0")) as slide, pytest.raises(ScaleError) as caught:
        _ = slide.mpp
    assert "5 × 5 µm/px contradicts the stated 40x magnification" in str(caught.value)
    assert "(in the file: MPP = 5,0)" in str(caught.value)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_a_magnification_is_no_scale_and_the_message_says_what_to_give(aperio, reader):
    with open_slide(aperio("AppMag = 20"), reader) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (None, "unknown")
        with pytest.raises(ScaleError, match=r"states no pixel size, only .*20.*about 0\.5 µm/px.*--assume-mpp 0\.5"):
            _ = slide.mpp


def _written(path, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), **options)
    return path


@pytest.mark.parametrize(
    ("unit", "per_unit", "mpp"),
    [
        ("um", 2, 0.5),
        ("micron", 4, 0.25),
        ("microns", 4, 0.25),
        ("\\u00B5m", 2, 0.5),
        ("µm", 2, 0.5),
        ("nm", 0.002, 0.5),
        ("mm", 2_000, 0.5),
        ("cm", 20_000, 0.5),
        ("inch", 50_800, 0.5),
        ("pixel", 2, None),
        ("", 2, None),
    ],
)
@pytest.mark.parametrize("code", ["NONE", "INCH", "CENTIMETER"])
def test_imagej_states_its_unit_in_words(tmp_path, unit, per_unit, mpp, code):
    """The unit of the description is that of XResolution, whatever ResolutionUnit says."""
    words = f"ImageJ=1.54f\nunit={unit}\nloop=false\n".encode("latin-1")
    resolution = {"resolution": (per_unit, per_unit), "resolutionunit": code}
    path = _written(tmp_path / "x.tif", description=words, metadata=None, **resolution)
    with open_slide(path) as slide:
        assert slide.info.mpp == (None if mpp is None else pytest.approx((mpp, mpp), rel=1e-6))
        assert slide.info.mpp_source == ("unknown" if mpp is None else "ImageJ unit")


@pytest.mark.parametrize(
    ("size", "unit", "mpp"),
    [
        ("0.25", None, 0.25),
        ("0,25", "µm", 0.25),
        ("250", "nm", 0.25),
        ("0.00025", "mm", 0.25),
        ("0.000025", "cm", 0.25),
        ("2.5E-7", "m", 0.25),
        ("0.00001", "inch", 0.254),
        ("0.00001", "in", 0.254),
        ("2500", "Å", 0.25),
        ("0.25", "pixel", None),
        ("0.25", "reference frame", None),
    ],
)
def test_ome_units(tmp_path, size, unit, mpp):
    units = f' PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"' if unit else ""
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="256" SizeY="256" '
        f'SizeC="3" SizeZ="1" SizeT="1" Interleaved="true" PhysicalSizeX="{size}" PhysicalSizeY="{size}"{units}>'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
    path = _written(tmp_path / "x.ome.tif", description=xml.encode(), metadata=None)
    with open_slide(path) as slide:
        assert slide.info.mpp == (None if mpp is None else pytest.approx((mpp, mpp)))


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600])
def test_dots_per_inch_of_screens_and_printers_are_no_scale_and_are_quoted(tmp_path, dpi):
    path = _written(tmp_path / "x.tif", resolution=(dpi, dpi), resolutionunit="INCH", metadata=None)
    with open_slide(path) as slide, pytest.raises(ScaleError, match=f"XResolution = {dpi}/1, ResolutionUnit = inch"):
        _ = slide.mpp


@pytest.mark.parametrize("value", [(0, 1), (1, 0), (0, 0)])
def test_a_resolution_of_zero_is_quoted(tmp_path, patch_tag, value):
    path = _written(tmp_path / "x.tif", resolution=(40_000, 40_000), resolutionunit="CENTIMETER", metadata=None)
    patch_tag(path, 282, value)
    with open_slide(path) as slide, pytest.raises(ScaleError, match=f"“XResolution = {value[0]}/{value[1]}, YRes"):
        _ = slide.mpp


def test_unequal_resolutions_are_two_pixel_sizes(tmp_path):
    path = _written(tmp_path / "x.tif", resolution=(40_000, 20_000), resolutionunit="CENTIMETER", metadata=None)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize(("value", "mpp"), [("0,25", 0.25), ("0.25 µm", 0.25), ("250 nm", 0.25)])
def test_options_and_sidecars_take_what_people_write(tmp_path, levels, write_pyramid, value, mpp):
    path = write_pyramid(tmp_path / "slide.tiff", levels, mpp=None)
    with open_slide(path, mpp=value) as slide:
        assert slide.mpp == (mpp, mpp)
        assert slide.given_mpp == ((mpp, mpp), "option")
    (tmp_path / "slide.tiff.json").write_text(json.dumps({"mpp": value}))
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == ((mpp, mpp), "sidecar")
    (tmp_path / "slide.tiff.json").write_text(json.dumps({"mpp_x": value, "mpp_y": 0.26}))
    with open_slide(path) as slide:
        assert slide.mpp == (mpp, 0.26)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_sidecar_is_read_in_other_encodings_and_cases(tmp_path, levels, write_pyramid, encoding):
    path = write_pyramid(tmp_path / "slide.tiff", levels, mpp=0.25)
    (tmp_path / "slide.tiff.json").write_text('{"MPP": 0.3}', encoding=encoding)
    with open_slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == ((0.3, 0.3), "sidecar")


def test_a_coarse_pixel_size_is_believed_where_it_is_given_not_in_a_resolution_tag(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "coarse.tiff", levels, mpp=28.97)
    with open_slide(path) as slide:
        assert slide.info.mpp is None
    with open_slide(path, mpp=28.97) as slide:
        assert slide.mpp == (28.97, 28.97)


def test_dicom_is_believed_when_it_is_coarse_and_not_when_it_contradicts_its_lens():
    coarse = Scale((28.97, 28.97), DICOM_SPACING)
    assert resolve("slide", coarse, 40.0, given=None, given_source="").mpp == (28.97, 28.97)
    too_fine = resolve("slide", Scale((0.025, 0.025), DICOM_SPACING), 40.0, given=None, given_source="")
    assert "contradicts" in too_fine.fault
    assert resolve("slide", Scale((2e4, 2e4), DICOM_SPACING), None, given=None, given_source="").mpp is None


@pytest.mark.parametrize(("code", "per_unit"), [(2, 50_800), (3, 20_000), (4, 2_000), (5, 2)])
def test_units_of_tiff_and_those_that_some_writers_add(tmp_path, patch_tag, code, per_unit):
    path = _written(tmp_path / "x.tif", resolution=(per_unit, per_unit), resolutionunit="CENTIMETER", metadata=None)
    patch_tag(path, 296, code)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("vendor", "fields", "mpp"),
    [
        ("ventana", {"ventana.ScanRes": "0,2325"}, 0.2325),
        ("ventana", {"ventana.ScanRes": "0.2325 µm"}, 0.2325),
        ("mirax", {f"mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_{axis}": "0,23" for axis in "XY"}, 0.23),
        ("ventana", {"ventana.ScanRes": "none"}, None),
        ("mirax", {}, None),
    ],
)
def test_fields_that_openslide_does_not_read_as_numbers_are_read_here(vendor, fields, mpp):
    scale = _scale(fields, vendor)
    assert scale.mpp == (None if mpp is None else (mpp, mpp))
    assert ("“ScanRes = none”" in (scale.fault or "")) == ("none" in fields.values())


@pytest.mark.parametrize("times", [2, 4, 0.5])
def test_a_description_of_the_same_slide_at_another_size_gives_no_pixel_size(tmp_path, levels, times):
    """libvips keeps the text of an SVS in the slide that it makes smaller; its MPP is then too fine."""
    size = f"{round(640 * times)}x{round(480 * times)}"
    text = f"Aperio Image Library v12\r\n{size} [0,0 {size}] (64x64) JPEG/RGB Q=70|AppMag = 40|MPP = 0.2500"
    path = tmp_path / "smaller.svs"
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, levels[0], description=text, **options)
    with open_slide(path) as slide, pytest.raises(ScaleError) as caught:
        _ = slide.mpp
    assert f"“MPP = 0.2500” of an image of {size.replace('x', ' × ')} px, and this one has 640 × 480 px" in str(
        caught.value
    )


@pytest.mark.parametrize(
    "sizes",
    [
        "640x480 (64x64)",
        "1920x960 [120,40 640x480] (320x240)",
        "1280x960 [0,0 1280x960] (64x64) -> 640x480",
        "1300x500",  # cut out of a larger slide: the pixels have the same size
    ],
)
def test_a_description_that_names_the_size_of_the_image_or_of_a_larger_one_gives_its_pixel_size(
    tmp_path, levels, sizes
):
    path = tmp_path / "a.svs"
    text = f"Aperio Image Library v12\r\n{sizes} JPEG/RGB Q=70|AppMag = 40|MPP = 0.2500"
    tifffile.imwrite(path, levels[0], description=text, tile=(64, 64), photometric="rgb", metadata=None)
    with open_slide(path) as slide:
        assert slide.mpp == (0.25, 0.25)


def test_imagej_can_state_another_unit_for_y(tmp_path, levels):
    path = tmp_path / "a.tif"
    for unit_y, mpp_y in (("mm", 500.0 / 1000), ("nm", None), ("pixel", None)):
        text = f"ImageJ=1.54f\nunit=\\u00B5m\nyunit={unit_y}\n"
        resolution = {"resolution": (2, 2000), "resolutionunit": "NONE"}
        tifffile.imwrite(path, levels[0], photometric="rgb", metadata=None, description=text, **resolution)
        with open_slide(path) as slide:
            assert slide.info.mpp == (None if mpp_y is None else pytest.approx((0.5, mpp_y)))
