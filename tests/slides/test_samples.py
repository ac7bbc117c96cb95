"""What the samples of a TIFF mean: extra samples, alpha, bits, ranges, palettes. In tiles and in strips."""

from __future__ import annotations

import ctypes

import numpy as np
import openslide
import pytest
import tifffile

from wsikit.errors import ReadError, SlideError, UnsupportedSlideError
from wsikit.slides import open_slide

TILES = {"tile": (64, 64)}
PACKED = pytest.mark.skipif(
    tuple(map(int, tifffile.__version__.split(".")[:3])) < (2026, 3, 3), reason="this tifffile writes no packed samples"
)
LAYOUTS = pytest.mark.parametrize("layout", [TILES, {"rowsperstrip": 40}], ids=["tiles", "strips"])


def shown(path) -> tuple[np.ndarray, str]:
    """The pixels of level 0 and the notes."""
    with open_slide(path) as slide:
        assert slide.info.reader in ("tiff", "image")
        return slide.read_region(0, 0, *slide.dimensions), " ".join(slide.info.notes)


def rename_tag(path, code: int, name: int) -> None:
    """Give a tag of a little-endian file another code: some tags are not written by tifffile, or always."""
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[0].tags[code].offset
    with open(path, "r+b") as file:
        file.seek(entry)
        file.write(name.to_bytes(2, "little"))


def grey_of(values: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3) from exact grey values 0 to 255."""
    return np.repeat(np.floor(values + 0.5).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def rgb(texture):
    return texture(192, 128, 3)


@pytest.fixture(scope="module")
def ramp():
    """float (128, 192): 0 to 1."""
    return np.linspace(0, 1, 128 * 192).reshape(128, 192)


# --- extra samples ----------------------------------------------------------------------------------------------------
@LAYOUTS
@pytest.mark.parametrize("extra", [0, 255, 77])
@pytest.mark.parametrize("count", [1, 2])
def test_samples_of_unspecified_meaning_are_not_alpha(tmp_path, rgb, layout, extra, count):
    path = tmp_path / "slide.tif"
    pixels = np.dstack([rgb, np.full((*rgb.shape[:2], count), extra, np.uint8)])
    options = {"photometric": "rgb", "extrasamples": ["unspecified"] * count, "metadata": None}
    tifffile.imwrite(path, pixels, compression="deflate", **options, **layout)
    found, notes = shown(path)
    np.testing.assert_array_equal(found, rgb)
    assert f"A px has {3 + count} samples" in notes
    assert "not used" in notes


@LAYOUTS
def test_a_fourth_sample_without_any_statement_is_not_alpha(tmp_path, rgb, layout):
    path = tmp_path / "slide.tif"
    pixels = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"], metadata=None, **layout)
    rename_tag(path, 338, 40000)
    np.testing.assert_array_equal(shown(path)[0], rgb)


@LAYOUTS
def test_extra_samples_stored_as_separate_planes_are_not_alpha_either(tmp_path, rgb, layout):
    path = tmp_path / "slide.tif"
    planes = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)]).transpose(2, 0, 1)
    options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unspecified"], "metadata": None}
    tifffile.imwrite(path, planes, compression="lzw", **options, **layout)
    np.testing.assert_array_equal(shown(path)[0], rgb)


@LAYOUTS
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_straight_alpha_is_shown_on_white(tmp_path, rgb, layout, dtype):
    path = tmp_path / "slide.tif"
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[20:60], alpha[60:90] = 0, 100
    scale = np.iinfo(dtype).max // 255
    pixels = np.dstack([rgb, alpha]).astype(dtype) * dtype(scale)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], metadata=None, **layout)
    found, notes = shown(path)
    share = alpha[..., None] / 255
    assert np.abs(found - (rgb * share + 255 * (1 - share))).max() <= 0.51
    assert "straight (unassociated) alpha" in notes


@LAYOUTS
def test_premultiplied_alpha_is_shown_on_white_by_its_own_formula(tmp_path, rgb, layout):
    path = tmp_path / "slide.tif"
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[20:60], alpha[60:90] = 0, 100
    premultiplied = np.rint(rgb * (alpha[..., None] / 255)).astype(np.uint8)
    pixels = np.dstack([premultiplied, alpha])
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["assocalpha"], metadata=None, **layout)
    found, notes = shown(path)
    np.testing.assert_array_equal(found, premultiplied + (255 - alpha[..., None]))
    assert "premultiplied (associated) alpha" in notes


@LAYOUTS
def test_alpha_is_the_sample_that_is_stated_to_be_alpha(tmp_path, rgb, layout):
    path = tmp_path / "slide.tif"
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[30:60] = 0
    pixels = np.dstack([rgb, np.zeros_like(alpha), alpha])
    tifffile.imwrite(
        path, pixels, photometric="rgb", extrasamples=["unspecified", "unassalpha"], metadata=None, **layout
    )
    found, _ = shown(path)
    np.testing.assert_array_equal(found, np.where(alpha[..., None] == 0, 255, rgb))


@LAYOUTS
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_an_alpha_of_0_everywhere_under_colours_is_not_used(tmp_path, rgb, layout, kind):
    path = tmp_path / "slide.tif"
    pixels = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=[kind], metadata=None, **layout)
    found, notes = shown(path)
    np.testing.assert_array_equal(found, rgb)
    assert "0 everywhere: it is not used" in notes


def test_one_opaque_place_in_a_coarse_level_gives_the_alpha_its_meaning(tmp_path, rgb):
    path = tmp_path / "slide.tif"
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    alpha[100:128, 150:192] = 255
    pixels = np.dstack([rgb, alpha])
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"], "metadata": None, **TILES}
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, **options)
        writer.write(np.ascontiguousarray(pixels[::2, ::2]), subfiletype=1, **options)
    np.testing.assert_array_equal(shown(path)[0], np.where(alpha[..., None] == 0, 255, rgb))


@LAYOUTS
def test_grey_with_alpha_is_read_and_grey_with_something_else_is_refused(tmp_path, rgb, layout):
    grey = rgb[..., 0]
    alpha = np.full(grey.shape, 255, np.uint8)
    alpha[:30] = 0
    good, bad = tmp_path / "good.tif", tmp_path / "bad.tif"
    options = {"photometric": "minisblack", "planarconfig": "contig", "metadata": None, **layout}
    tifffile.imwrite(good, np.dstack([grey, alpha]), extrasamples=["unassalpha"], **options)
    np.testing.assert_array_equal(shown(good)[0], grey_of(np.where(alpha == 0, 255, grey)))
    for count in (1, 2, 3):
        tifffile.imwrite(bad, np.dstack([grey] * (1 + count)), extrasamples=["unspecified"] * count, **options)
        with pytest.raises(UnsupportedSlideError, match=f"{1 + count} channels, none of them stated to be alpha"):
            open_slide(bad)


def test_other_readers_show_the_colours_or_refuse(tmp_path, rgb):
    path = tmp_path / "slide.tif"
    pixels = np.dstack([rgb, np.zeros(rgb.shape[:2], np.uint8)])
    for kind in ("unspecified", "unassalpha"):
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=[kind], metadata=None, **TILES)
        with open_slide(path, "tiffslide") as slide, open_slide(path) as truth:
            np.testing.assert_array_equal(slide.read_region(0, 0, *slide.dimensions), rgb)
            assert slide.info.notes == truth.info.notes
        if kind == "unspecified":
            with pytest.raises(
                UnsupportedSlideError, match="OpenSlide would take one for alpha.*Readers that can: tiff"
            ):
                open_slide(path, "openslide")


# --- bits and ranges --------------------------------------------------------------------------------------------------
@PACKED
@LAYOUTS
@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_white_is_the_largest_value_of_the_stated_bits(tmp_path, ramp, layout, bits, photometric):
    path = tmp_path / "slide.tif"
    white = 2**bits - 1
    values = np.rint(ramp * white)
    dtype = bool if bits == 1 else np.uint8 if bits <= 8 else np.uint16
    tifffile.imwrite(path, values.astype(dtype), bitspersample=bits, photometric=photometric, metadata=None, **layout)
    found, notes = shown(path)
    grey = np.floor(values * 255 / white + 0.5)
    np.testing.assert_array_equal(found, grey_of(255 - grey if photometric == "miniswhite" else grey))
    assert f"White is sample value {white}" in notes


@PACKED
def test_rgb_of_12_bits_in_both_byte_orders(tmp_path, rgb, overwrite_tile):
    """Packed samples are a stream of bits, the same in both byte orders (TIFF 6.0, FillOrder)."""
    little, big = tmp_path / "little.tif", tmp_path / "big.tif"
    values = (rgb.astype(np.uint32) * 4095 // 255).astype(np.uint16)
    options = {"photometric": "rgb", "bitspersample": 12, "metadata": None, **TILES}
    tifffile.imwrite(little, values, byteorder="<", **options)
    tifffile.imwrite(big, values, byteorder=">", **options)
    with tifffile.TiffFile(little) as tiff:
        for number, (offset, count) in enumerate(zip(tiff.pages[0].dataoffsets, tiff.pages[0].databytecounts)):
            tiff.filehandle.seek(offset)
            packed = tiff.filehandle.read(count)
            # tifffile swaps the bytes of a big-endian file before it packs them
            overwrite_tile(big, number, lambda _, packed=packed: packed)
    for path in (little, big):
        np.testing.assert_array_equal(shown(path)[0], np.floor(values * (255 / 4095) + 0.5))


@LAYOUTS
def test_a_stated_maximum_of_16_bit_samples_is_white(tmp_path, ramp, layout):
    path = tmp_path / "slide.tif"
    values = np.rint(ramp * 4095).astype(np.uint16)
    for tags, white in (([], 65535), ([(281, "H", 1, 4095, True)], 4095), ([(341, "H", 1, 4095, True)], 4095)):
        tifffile.imwrite(path, values, photometric="minisblack", extratags=tags, metadata=None, **layout)
        found, notes = shown(path)
        np.testing.assert_array_equal(found, grey_of(values * (255 / white)))
        assert f"White is sample value {white}" in notes


@LAYOUTS
def test_significant_bits_of_ome_are_white_in_tiles_and_strips(tmp_path, ramp, layout):
    path = tmp_path / "slide.ome.tif"
    values = np.rint(ramp * 4095).astype(np.uint16)
    metadata = {"axes": "YX", "SignificantBits": 12}
    tifffile.imwrite(path, values, photometric="minisblack", metadata=metadata, **layout)
    np.testing.assert_array_equal(shown(path)[0], grey_of(values * (255 / 4095)))


@LAYOUTS
@pytest.mark.parametrize(
    ("dtype", "low", "high", "code"),
    [
        (np.float32, 0.0, 1.0, "f"),
        (np.float32, -2.5, 7.5, "f"),
        (np.int16, -1000, 1000, "h"),
        (np.int8, -128, 127, "b"),
        (np.uint32, 0, 100_000, "I"),
    ],
)
def test_samples_without_a_natural_white_are_read_by_their_stated_range_or_refused(
    tmp_path, ramp, layout, dtype, low, high, code
):
    path = tmp_path / "slide.tif"
    values = (low + ramp * (high - low)).astype(dtype)
    options = {"photometric": "minisblack", "metadata": None, **layout}
    tifffile.imwrite(path, values, extratags=[(340, code, 1, low, True), (341, code, 1, high, True)], **options)
    found, notes = shown(path)
    exact = (values.astype(float) - low) / (high - low) * 255
    assert np.abs(found[..., 0] - exact).max() <= 0.501
    assert f"white {high:g}" in notes
    tifffile.imwrite(path, values, **options)
    with pytest.raises(UnsupportedSlideError, match=f"samples of type {np.dtype(dtype)} whose range.*Convert it first"):
        open_slide(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_with_their_predictor_are_read_by_their_stated_range(tmp_path, ramp, dtype):
    path = tmp_path / "slide.tif"
    values = ramp.astype(dtype)
    tags = [(340, "f", 1, 0.0, True), (341, "f", 1, 1.0, True)]
    options = {"photometric": "minisblack", "compression": "deflate", "predictor": 3, "metadata": None}
    tifffile.imwrite(path, values, extratags=tags, **options, **TILES)
    assert np.abs(shown(path)[0][..., 1] - values.astype(float) * 255).max() <= 0.501


def test_samples_that_are_no_numbers_are_unreadable_and_not_white(tmp_path, ramp):
    path = tmp_path / "slide.tif"
    values = ramp.astype(np.float32)
    values[70, 70] = np.nan
    tags = [(340, "f", 1, 0.0, True), (341, "f", 1, 1.0, True)]
    tifffile.imwrite(path, values, photometric="minisblack", extratags=tags, metadata=None, **TILES)
    with open_slide(path) as slide:
        assert slide.read_region(0, 0, 64, 64).shape == (64, 64, 3)
        with pytest.raises(ReadError, match="not numbers"):
            slide.read_region(64, 64, 10, 10)


@LAYOUTS
def test_reversed_bit_order_is_read(tmp_path, layout, rgb):
    path = tmp_path / "slide.tif"
    reverse = np.array([int(f"{value:08b}"[::-1], 2) for value in range(256)], np.uint8)
    tifffile.imwrite(path, reverse[rgb], photometric="rgb", extratags=[(264, "H", 1, 2, True)], metadata=None, **layout)
    rename_tag(path, 264, 266)
    np.testing.assert_array_equal(shown(path)[0], rgb)


@pytest.mark.parametrize("options", [{"predictor": True}, {"byteorder": ">", "predictor": True}, {"byteorder": ">"}])
def test_16_bit_rgb_with_predictor_and_byte_order(tmp_path, rgb, options):
    path = tmp_path / "slide.tif"
    values = rgb.astype(np.uint16) * 257
    tifffile.imwrite(path, values, photometric="rgb", compression="lzw", metadata=None, **options, **TILES)
    np.testing.assert_array_equal(shown(path)[0], rgb)


# --- colours ----------------------------------------------------------------------------------------------------------
@LAYOUTS
@pytest.mark.parametrize("full", [255, 65535])
def test_palette_colours_are_those_of_the_palette(tmp_path, rgb, layout, full):
    path = tmp_path / "slide.tif"
    palette = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint16)
    index = rgb[..., 0]
    stored = palette * np.uint16(full // 255)
    tifffile.imwrite(path, index, photometric="palette", colormap=stored, metadata=None, **layout)
    found, notes = shown(path)
    np.testing.assert_array_equal(found, palette.T.astype(np.uint8)[index])
    assert "palette" in notes


@LAYOUTS
@pytest.mark.parametrize(
    ("photometric", "count", "words"),
    [(5, 4, "CMYK"), (8, 3, "CIELab"), (9, 3, "ICCLab"), (32803, 1, "colour filter"), (34892, 3, "linear raw")],
)
def test_other_colours_are_refused_by_name(tmp_path, rgb, layout, patch_tag, photometric, count, words):
    path = tmp_path / "slide.tif"
    pixels = np.dstack([rgb, rgb[..., 0]])[..., :count]
    kind = "separated" if count == 4 else "rgb" if count == 3 else "minisblack"
    tifffile.imwrite(path, np.squeeze(pixels), photometric=kind, metadata=None, **layout)
    patch_tag(path, 262, photometric)
    with pytest.raises(UnsupportedSlideError, match=f"{words}.*Convert it first"):
        open_slide(path)


@LAYOUTS
def test_plain_ycbcr_is_converted_and_with_reduced_colours_refused(tmp_path, layout, rgb, patch_tag):
    path = tmp_path / "slide.tif"
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycc = np.rint(np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], -1)).clip(0, 255).astype(np.uint8)
    options = {"photometric": "ycbcr", "compression": "deflate", "metadata": None, **layout}
    tifffile.imwrite(path, ycc, subsampling=(1, 1), **options)
    assert np.abs(shown(path)[0].astype(int) - rgb).max() <= 3
    patch_tag(path, 530, (2, 2))
    with pytest.raises(UnsupportedSlideError, match="YCbCr colours at reduced size"):
        open_slide(path)
    video = [(532, "2I", 6, (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1), True)]
    tifffile.imwrite(path, ycc, subsampling=(1, 1), extratags=video, **options)
    with pytest.raises(UnsupportedSlideError, match="YCbCr colours with ReferenceBlackWhite"):
        open_slide(path)


@LAYOUTS
def test_bits_that_differ_between_samples_are_refused_by_name(tmp_path, layout, rgb):
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, rgb, photometric="rgb", metadata=None, **layout)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[258].overwrite((5, 6, 5))
    with pytest.raises(SlideError, match="5, 6, 5 bits"):
        open_slide(path)


def test_only_plain_samples_are_passed_through(tmp_path, rgb):
    path = tmp_path / "slide.tif"
    four = np.dstack([rgb, rgb[..., 0]])
    options = {"photometric": "rgb", "compression": "jpeg2000", "metadata": None, **TILES}
    for kind in ("unspecified", "unassalpha"):
        tifffile.imwrite(path, four, extrasamples=[kind], **options)
        with open_slide(path) as slide:
            assert slide.tile_source(0) is None
            assert slide.read_region(0, 0, 8, 8).shape == (8, 8, 3)
    tifffile.imwrite(path, rgb, **options)
    with open_slide(path) as slide:
        assert slide.tile_source(0) is not None


def test_openslides_python_binding_gives_straight_alpha():
    """The library's pixels are premultiplied; the reader relies on the binding's division by alpha."""
    pixels = (ctypes.c_uint32 * 2)(0x80404040, 0xFF102030)
    found = np.asarray(openslide.lowlevel._load_image(pixels, (2, 1)))
    assert np.abs(found[0].astype(int) - [(128, 128, 128, 128), (16, 32, 48, 255)]).max() <= 1
