"""Pictures that are not TIFF: formats, transparency, orientation, CMYK; and what is refused by name."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from wsikit.errors import SlideError, UnsupportedSlideError
from wsikit.slides import open_slide


def shown(path) -> tuple[np.ndarray, str]:
    with open_slide(path, "image") as slide, open_slide(path) as automatic:
        assert automatic.info == slide.info
        return slide.read_region(0, 0, *slide.dimensions), " ".join(slide.info.notes)


@pytest.fixture(scope="module")
def rgb(texture):
    return texture(90, 60, 5)


# --- formats ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("codecformat", ["j2k", "jp2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000(tmp_path, rgb, codecformat, bits):
    path = tmp_path / "picture.jp2"
    white = 2**bits - 1
    values = (rgb.astype(np.uint32) * white // 255).astype(np.uint8 if bits == 8 else np.uint16)
    path.write_bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat=codecformat, bitspersample=bits))
    found, _ = shown(path)
    np.testing.assert_array_equal(found, np.floor(values * 255.0 / white + 0.5))


def test_a_truncated_jpeg_2000_is_refused(tmp_path, rgb):
    path = tmp_path / "picture.jp2"
    stream = imagecodecs.jpeg2k_encode(rgb, level=0, codecformat="jp2")
    path.write_bytes(stream[: len(stream) * 2 // 3])
    with pytest.raises(SlideError, match="ends too early"):
        open_slide(path)


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_a_damaged_picture_is_refused_even_where_pillow_was_made_tolerant(tmp_path, rgb, kind, monkeypatch):
    """Importing tiffslide.deepzoom makes it so for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / f"picture.{kind}"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SlideError, match="cannot be decoded"):
        open_slide(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_png_whose_checksums_do_not_fit_is_refused(tmp_path, rgb):
    """Pillow is silent about it where the Exif data were asked for first."""
    path = tmp_path / "picture.png"
    Image.fromarray(rgb).save(path, compress_level=0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SlideError, match="checksum"):
        open_slide(path)


@pytest.mark.parametrize("size", [(90, 60), (64, 64), (600, 300), (7, 11), (320, 240), (1000, 5)])
@pytest.mark.parametrize("usecontainer", [False, True])
def test_jpeg_xl_of_any_size(tmp_path, size, usecontainer):
    path = tmp_path / "picture.jxl"
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=usecontainer))
    np.testing.assert_array_equal(shown(path)[0], pixels)


def test_jpeg_xl_of_16_bits_and_grey_and_with_alpha(tmp_path, rgb):
    path = tmp_path / "picture.jxl"
    path.write_bytes(imagecodecs.jpegxl_encode(rgb.astype(np.uint16) * 257, lossless=True))
    np.testing.assert_array_equal(shown(path)[0], rgb)
    path.write_bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(rgb[..., 0]), lossless=True))
    np.testing.assert_array_equal(shown(path)[0], np.repeat(rgb[..., :1], 3, axis=2))
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:20] = 0
    path.write_bytes(imagecodecs.jpegxl_encode(np.dstack([rgb, alpha]), lossless=True))
    found, notes = shown(path)
    np.testing.assert_array_equal(found[20:], rgb[20:])
    assert (found[:20] == 255).all()
    assert "shown on white" in notes


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path, rgb):
    path = tmp_path / "picture.avif"
    Image.fromarray(rgb).save(path, quality=100, subsampling="4:4:4")
    with Image.open(path) as truth:
        np.testing.assert_array_equal(shown(path)[0], np.asarray(truth.convert("RGB")))


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_is_refused_by_name(tmp_path, brand):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(4) + brand + b"heic" + bytes(400))
    with pytest.raises(UnsupportedSlideError, match="HEIC picture, as phones write.*Export it as JPEG or PNG"):
        open_slide(path)


def test_avif_is_named_where_pillow_does_not_decode_it(tmp_path):
    path = tmp_path / "picture.avif"
    path.write_bytes(b"\0\0\0\x18ftypavif" + bytes(4) + b"avifmif1" + bytes(400))
    with pytest.raises(UnsupportedSlideError, match="an AVIF picture that the installed Pillow does not decode"):
        open_slide(path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_a_moving_picture_is_refused(tmp_path, rgb, suffix):
    path = tmp_path / f"moving.{suffix}"
    frames = [Image.fromarray(np.roll(rgb, 9 * n, axis=1)) for n in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    with pytest.raises(UnsupportedSlideError, match="3 frames.*Export one frame"):
        open_slide(path)


# --- samples ----------------------------------------------------------------------------------------------------------
def test_a_palette_with_a_transparent_entry_is_shown_on_white(tmp_path):
    index = (np.arange(60 * 90) % 4).reshape(60, 90).astype(np.uint8)
    palette = np.array([(200, 10, 10), (10, 200, 10), (10, 10, 200), (9, 9, 9)], np.uint8)
    image = Image.fromarray(index, "P")
    image.putpalette(palette.ravel().tolist())
    expected = palette[index]
    expected[index == 2] = 255
    for suffix in ("png", "gif"):
        path = tmp_path / f"picture.{suffix}"
        image.save(path, transparency=2)
        found, notes = shown(path)
        np.testing.assert_array_equal(found, expected)
        assert "shown on white" in notes


def test_grey_with_alpha_and_1_bit_pictures(tmp_path, rgb):
    grey = rgb[..., 0]
    alpha = np.full(grey.shape, 255, np.uint8)
    alpha[:10] = 0
    path = tmp_path / "picture.png"
    Image.fromarray(np.dstack([grey, alpha]), "LA").save(path)
    np.testing.assert_array_equal(shown(path)[0][..., 1], np.where(alpha == 0, 255, grey))
    Image.fromarray(grey > 128).save(path)
    np.testing.assert_array_equal(shown(path)[0][..., 2], np.where(grey > 128, 255, 0))


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    path = tmp_path / "picture.png"
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(path, transparency=int(ramp[3, 3]))
    expected = np.arange(256).reshape(16, 16)
    expected[3, 3] = 255
    np.testing.assert_array_equal(shown(path)[0][..., 0], expected)


def test_an_alpha_of_0_everywhere_is_said(tmp_path, rgb):
    path = tmp_path / "picture.png"
    Image.fromarray(np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])).save(path)
    found, notes = shown(path)
    assert (found == 255).all()
    assert "transparent everywhere" in notes


@pytest.mark.parametrize("suffix", ["webp", "jxl"])
def test_an_alpha_that_its_writer_left_unused_is_not_used(tmp_path, rgb, suffix):
    path = tmp_path / f"picture.{suffix}"
    pixels = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    if suffix == "jxl":
        path.write_bytes(imagecodecs.jpegxl_encode(pixels, lossless=True))
    else:
        Image.fromarray(pixels).save(path, lossless=True, exact=True)
    found, notes = shown(path)
    np.testing.assert_array_equal(found, rgb)
    assert "0 everywhere: it is not used" in notes


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_with_and_without_adobes_inversion(tmp_path, adobe):
    path = tmp_path / "print.jpg"
    ink = np.zeros((64, 64, 4), np.uint8)
    ink[:, :32] = 0, 200, 40, 30  # magenta ink on the left, paper on the right
    stored = 255 - ink if adobe else ink
    stream = imagecodecs.jpeg8_encode(stored, level=100, colorspace="CMYK", outcolorspace="CMYK")
    with Image.open(io.BytesIO(stream)) as image:
        has_marker = "adobe" in image.info
    if has_marker and not adobe:
        place = stream.index(b"\xff\xee")
        stream = stream[:place] + stream[place + 16 :]
    assert has_marker or not adobe
    path.write_bytes(stream)
    found, notes = shown(path)
    assert np.abs(found[30, 48].astype(int) - 255).max() <= 2
    right = 255 * (1 - np.array((0, 200, 40)) / 255) * (1 - 30 / 255)
    assert np.abs(found[30, 10] - right).max() <= 3
    assert "CMYK is converted" in notes


# --- phones -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_is_applied(tmp_path, rgb, orientation, suffix):
    path = tmp_path / f"phone.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb).save(path, exif=exif, dpi=(25400, 12700), quality=95)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    found, notes = shown(path)
    np.testing.assert_array_equal(found, upright)
    assert ("turned upright" in notes) == (orientation > 1)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((1, 2) if orientation < 5 else (2, 1), rel=1e-3)


def test_the_first_picture_of_a_phones_several_is_read(tmp_path, rgb):
    path = tmp_path / "phone.jpg"
    first, second = Image.fromarray(rgb), Image.fromarray(rgb[:30, :40])
    first.save(path, format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(path) as truth:
        assert truth.format == "MPO"
        expected = np.asarray(truth.convert("RGB"))
    found, notes = shown(path)
    np.testing.assert_array_equal(found, expected)
    assert "2 pictures (MPO)" in notes
