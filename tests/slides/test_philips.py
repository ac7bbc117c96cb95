"""Philips TIFF: levels cut and scaled as OpenSlide does it. There is no sample: files are written as it reads them."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
from PIL import Image

from wsikit.errors import ReadError, SlideError
from wsikit.slides import jpeg, open_slide
from wsikit.slides.formats.tiff import philips

Pixels = npt.NDArray[np.uint8]
SIZES = ((650, 500), (325, 250), (162, 125))
SPACINGS = ((0.25, 0.25), (0.5, 0.5), (1.0, 1.0))


def xml(spacings: Sequence[tuple[float, float]], images: dict[str, str]) -> str:
    """The description of a Philips TIFF: µm per px (x, y) of each level, and label and macro in base64."""

    def text(name: str, value: str) -> str:
        return f'<Attribute Name="{name}" Group="0x301D" Element="0x1004" PMSVR="IString">{value}</Attribute>'

    def spacing(um: tuple[float, float]) -> str:
        return text("DICOM_PIXEL_SPACING", f"&quot;{um[1] / 1000}&quot; &quot;{um[0] / 1000}&quot;")

    def array(name: str, objects: str) -> str:
        return f'<Attribute Name="{name}" PMSVR="IDataObjectArray"><Array>{objects}</Array></Attribute>'

    levels = "".join(f'<DataObject ObjectType="PixelDataRepresentation">{spacing(um)}</DataObject>' for um in spacings)
    scans = [text("PIM_DP_IMAGE_TYPE", "WSI") + spacing(spacings[0])]
    scans[0] += array("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", levels)
    for kind, data in images.items():
        scans.append(text("PIM_DP_IMAGE_TYPE", kind) + text("PIM_DP_IMAGE_DATA", data))
    body = text("DICOM_MANUFACTURER", "Hamamatsu") + text("PIM_DP_UFS_BARCODE", "UzEyLTM0NTY=")
    body += array(
        "PIM_DP_SCANNED_IMAGES",
        "".join(f'<DataObject ObjectType="DPScannedImage">{scan}</DataObject>' for scan in scans),
    )
    return f'<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">{body}</DataObject>'


@pytest.fixture
def write(tmp_path, texture) -> Callable[..., Path]:
    """write(spacings=…, images=…): a Philips TIFF, its levels padded to whole tiles of 64 px."""

    def write_philips(spacings=SPACINGS, images: dict[str, str] | None = None) -> Path:
        path = tmp_path / "slide.tiff"
        with tifffile.TiffWriter(path, bigtiff=True) as writer:
            for number, size in enumerate(SIZES):
                # a coarser level may have more tiles than its true size asks for
                width, height = (-(-side // 64) * 64 + (64 if number else 0) for side in size)
                writer.write(
                    texture(width, height, number),
                    tile=(64, 64),
                    compression="jpeg",
                    subfiletype=int(number > 0),
                    description=xml(spacings, images or {}) if number == 0 else f"level={number}",
                    software="Philips DP v1.0",
                    metadata=None,
                )
        return path

    return write_philips


def picture(texture, seed: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(texture(90, 60, seed)).save(stream, "jpeg")
    return base64.b64encode(stream.getvalue()).decode()


def rgb_of(region: Image.Image) -> Pixels:
    rgba = np.asarray(region)
    return np.where(rgba[..., 3:] == 0, 255, rgba[..., :3]).astype(np.uint8)


@pytest.mark.parametrize("spacings", [SPACINGS, ((0.25, 0.26), (0.5002, 0.5199), (1.0, 1.041))])
def test_levels_scale_and_pixels_are_openslides(write, spacings):
    path = write(spacings)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        info, properties = slide.info, truth.properties
        assert (info.reader, info.vendor) == ("tiff", properties["openslide.vendor"]) == ("tiff", "philips")
        assert info.level_dimensions == truth.level_dimensions == ((704, 512), (352, 256), (176, 128))
        assert info.mpp == (float(properties["openslide.mpp-x"]), float(properties["openslide.mpp-y"]))
        assert info.mpp_source == "vendor property DICOM_PIXEL_SPACING"
        assert info.properties["philips.DICOM_PIXEL_SPACING"] == properties["philips.DICOM_PIXEL_SPACING"]
        for level, size in enumerate(info.level_dimensions):
            expected = rgb_of(truth.read_region((0, 0), level, size))
            np.testing.assert_array_equal(slide.read_region(0, 0, *size, level=level), expected)


def test_tiles_without_pixels_are_white_and_all_others_are_passed_through(write):
    path = write()
    with tifffile.TiffFile(path, mode="r+b", is_philips=False) as tiff:
        for code in (324, 325):  # offsets and sizes: Philips writes 0 in both
            tag = tiff.pages[0].tags[code]
            tag.overwrite([0 if number in (12, 40) else value for number, value in enumerate(tag.value)])
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        shown = slide.read_region(0, 0, *slide.dimensions)
        np.testing.assert_array_equal(shown, rgb_of(truth.read_region((0, 0), 0, slide.dimensions)))
        assert (shown[64:128, 64:128] == 255).all()  # number 12 of rows of eleven
        assert slide.encoded_tile(0, 1, 1) is None
        for level, (column, row) in ((0, (10, 7)), (1, (5, 3)), (2, (2, 1))):
            source = slide.tile_source(level)
            tile = jpeg.self_contained(slide.encoded_tile(level, column, row), source.tables, rgb=source.rgb)
            pixels = np.asarray(Image.open(io.BytesIO(tile)).convert("RGB"))
            box = slide.read_box(level, (column * 64, row * 64, 64, 64))
            width, height = slide.level_dimensions[level]
            inside = np.s_[: height - row * 64, : width - column * 64]
            np.testing.assert_array_equal(pixels[inside], box[inside])


def test_label_and_macro_are_read_on_request_and_identity_is_not(write, texture):
    path = write(images={"MACROIMAGE": picture(texture, 5), "LABELIMAGE": picture(texture, 6)})
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        assert slide.info.associated == ("label", "macro")
        for name in ("label", "macro"):
            np.testing.assert_array_equal(slide.associated(name), rgb_of(truth.associated_images[name]))
        assert "UzEyLTM0NTY" not in str(slide.info.to_json())


def test_a_damaged_label_is_an_error(write, texture):
    whole = picture(texture, 5)
    path = write(images={"LABELIMAGE": whole[: len(whole) // 2 // 4 * 4]})
    with open_slide(path) as slide, pytest.raises(ReadError, match="associated image label"):
        slide.associated("label")


def test_levels_of_unknown_extent_are_refused(write):
    with pytest.raises(SlideError, match="of 3 levels, whose XML gives the pixel size of 2"):
        open_slide(write(SPACINGS[:2]))


@pytest.mark.parametrize(
    ("text", "mpp"),
    [
        ('"0.0003" "0.00025"', (0.25, 0.3)),  # row spacing, along y, first
        ("0.0003 0.00025", (0.25, 0.3)),
        ("'0.0003'  '0.00025'", (0.25, 0.3)),
        ("0.0003\\0.00025", (0.25, 0.3)),
        ('"0,0003" "0,00025"', (0.25, 0.3)),
        ('"0.00025"', (0.25, 0.25)),
        ('"0" "0.00025"', None),
        ('"fine" "0.00025"', None),
        ('"1" "2" "3"', None),
    ],
)
def test_spacings_are_read_with_any_quotes_and_marks(text, mpp):
    root = ElementTree.Element("DataObject")
    ElementTree.SubElement(root, "Attribute", Name="DICOM_PIXEL_SPACING").text = text
    assert philips.Description(root).mpp == (None if mpp is None else pytest.approx(mpp))
