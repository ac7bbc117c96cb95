"""Which tiles of a TIFF slide can be passed through, and that any decoder gives the reader's pixels from them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from wsikit.errors import ReadError
from wsikit.slides import jpeg, jpeg2k, open_slide
from wsikit.slides.formats.tiff.reader import TiffSlide

LOSSLESS = {"codecformat": "j2k", "level": 0}
NO_TRANSFORM = {**LOSSLESS, "mct": False}
EQUAL_SIZES = [(530, 3, 2, (1, 1), True)]
"""YCbCrSubSampling: none."""


def decoded(tile: bytes, source) -> np.ndarray:
    if source.codec == "jpeg2k":
        return imagecodecs.jpeg2k_decode(tile)
    return imagecodecs.jpeg8_decode(jpeg.self_contained(tile, source.tables, rgb=source.rgb))


def check_tiles(slide) -> None:
    """Every stored tile of every level, decoded by imagecodecs, equals the reader's pixels there."""
    for level, (width, height) in enumerate(slide.level_dimensions):
        source = slide.tile_source(level)
        assert source.tile_px == (64, 64)
        for row in range(-(-height // 64)):
            for column in range(-(-width // 64)):
                pixels = decoded(slide.encoded_tile(level, column, row), source)
                assert pixels.shape == ((64, 64, 3) if source.channels == 3 else (64, 64))
                shown = slide.read_box(level, (column * 64, row * 64, 64, 64))
                inside = np.s_[: height - row * 64, : width - column * 64]
                shown = shown if source.channels == 3 else shown[..., 1]
                np.testing.assert_array_equal(pixels[inside], shown[inside])


@pytest.mark.parametrize(
    ("compression", "code", "options"),
    [
        ("jpeg", None, {}),
        ("jpeg2000", None, {}),
        ("jpeg2000", None, LOSSLESS),
        ("jpeg2000", None, {"codecformat": "jp2", "level": 0}),
        ("jpeg2000", 33005, NO_TRANSFORM),
        ("jpeg2000", 33005, {"codecformat": "j2k", "level": 30, "reversible": False}),
    ],
)
def test_every_passed_through_colour_tile_decodes_to_the_readers_pixels(
    tmp_path, levels, write_pyramid, patch_tag, compression, code, options
):
    path = write_pyramid(tmp_path / "slide.tiff", levels[1:], compression=compression, compressionargs=options)
    for page in range(2 if code else 0):
        patch_tag(path, 259, code, page)
    with TiffSlide(str(path)) as slide:
        assert slide.tile_source(0).codec == ("jpeg" if compression == "jpeg" else "jpeg2k")
        check_tiles(slide)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_every_passed_through_grey_tile_decodes_to_the_readers_pixels(tmp_path, levels, write_pyramid, compression):
    grey = [np.ascontiguousarray(level[..., 0]) for level in levels[1:]]
    path = write_pyramid(tmp_path / "slide.tiff", grey, compression=compression, photometric="minisblack")
    with open_slide(path) as slide:
        assert slide.tile_source(0).channels == 1
        check_tiles(slide)


@pytest.mark.parametrize(
    ("pixels", "options", "tags"),
    [
        (np.s_[...], {"compression": "deflate"}, {}),
        (np.s_[...], {"compression": "webp"}, {}),
        (np.s_[..., 0], {"compression": "jpeg", "photometric": "miniswhite"}, {}),
        # YCbCr that only the TIFF states, not the stream
        (np.s_[...], {"compression": "jpeg2000", "compressionargs": NO_TRANSFORM}, {259: 33003}),
        (np.s_[...], {"compression": "jpeg2000", "compressionargs": NO_TRANSFORM, "extratags": EQUAL_SIZES}, {262: 6}),
    ],
)
def test_tiles_that_a_plain_decoder_decodes_differently_are_not_passed_through(
    tmp_path, levels, write_pyramid, patch_tag, pixels, options, tags
):
    path = write_pyramid(tmp_path / "slide.tiff", [np.ascontiguousarray(levels[2][pixels])], **options)
    for code, value in tags.items():
        patch_tag(path, code, value)
    with TiffSlide(str(path)) as slide:
        assert slide.tile_source(0) is None


def test_separate_channels_and_more_than_8_bits_are_not_passed_through(tmp_path, levels):
    apart, deep = tmp_path / "apart.tiff", tmp_path / "deep.tiff"
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "jpeg2000"}
    tifffile.imwrite(apart, levels[2].transpose(2, 0, 1), planarconfig="separate", **options)
    tifffile.imwrite(deep, levels[2].astype(np.uint16) * 16, **options)
    for path in (apart, deep):
        with TiffSlide(str(path)) as slide:
            assert slide.tile_source(0) is None


def test_one_damaged_tile_does_not_prevent_pass_through_of_its_level(tmp_path, levels, write_pyramid, overwrite_tile):
    path = write_pyramid(tmp_path / "slide.tiff", levels[1:], compression="jpeg2000")
    overwrite_tile(path, 0, lambda tile: bytes(len(tile)))
    with TiffSlide(str(path)) as slide:
        assert slide.tile_source(0).codec == "jpeg2k"
        with pytest.raises(ReadError):
            slide.read_region(0, 0, 8, 8)


def test_real_tiles_of_jpeg_2000_decode_to_the_readers_pixels(slides_dir):
    with open_slide(slides_dir / "CMU-1-Small-Region.jp2.tiff") as slide:
        source = slide.tile_source(0)
        side = source.tile_px[0]
        for column, row in ((0, 0), (2, 3), (4, 1)):
            pixels = decoded(slide.encoded_tile(0, column, row), source)
            np.testing.assert_array_equal(pixels, slide.read_box(0, (column * side, row * side, side, side)))


@pytest.mark.parametrize("codecformat", ["j2k", "jp2"])
def test_the_header_of_a_jpeg_2000_stream_describes_what_was_encoded(levels, codecformat):
    options = {"codecformat": codecformat, "level": 0}
    tile = levels[0][:48, :80]
    head = jpeg2k.read_head(imagecodecs.jpeg2k_encode(tile, **options))
    assert (head.width, head.height, head.components, head.bits) == (80, 48, 3, 8)
    assert head.plain
    assert head.own_transform
    assert not jpeg2k.read_head(imagecodecs.jpeg2k_encode(tile, mct=False, **options)).own_transform
    deep = jpeg2k.read_head(imagecodecs.jpeg2k_encode(tile[..., 0].astype(np.uint16) * 9, **options))
    assert (deep.components, deep.bits, deep.plain) == (1, 16, False)


def test_bytes_that_are_not_a_complete_jpeg_2000_stream_have_no_header(levels):
    stream = imagecodecs.jpeg2k_encode(levels[0][:48, :80], codecformat="jp2", level=0)
    for broken in (b"", bytes(200), stream[:60], b"\xff\xd8\xff" + bytes(50), stream[:120]):
        assert jpeg2k.read_head(broken) is None
    assert jpeg2k.is_whole(stream)
    assert not jpeg2k.is_whole(stream[:-10])
