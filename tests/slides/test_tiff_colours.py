"""Colours of JPEG and JPEG 2000 in TIFF, where tags, markers and pixels agree or contradict each other."""

from __future__ import annotations

import contextlib
import struct

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from wsikit.errors import ReadError, UnsupportedSlideError
from wsikit.slides import jpeg, open_slide
from wsikit.slides.formats.tiff.reader import TiffSlide

APERIO = "Aperio Image Library v12.0.0\r\n256x128 (64x64) J2K/YUV16 Q=70|AppMag = 40|MPP = 0.2500"
SIDE = 64


def ycc_of(rgb: np.ndarray) -> np.ndarray:
    """The YCbCr of JPEG, uint8."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.rint(np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], -1)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def stained() -> np.ndarray:
    """uint8 (128, 256, 3): pink tissue with purple nuclei on glass."""
    y, x = np.mgrid[:128, :256]
    picture = np.empty((128, 256, 3))
    picture[:] = 244, 243, 245
    inside = ((x - 120) / 100.0) ** 2 + ((y - 64) / 50.0) ** 2 < 1
    picture[inside] = 214, 150, 188
    nuclei = inside & (np.sin(x / 4.0) * np.cos(y / 5.0) > 0.7)
    picture[nuclei] = 96, 60, 140
    return (picture + 4 * np.sin(x / 17.0)[..., None]).clip(0, 255).astype(np.uint8)


def dull() -> np.ndarray:
    """uint8 (128, 256, 3) that could be RGB as well as YCbCr: nothing light, dark or bright."""
    ramp = np.linspace(110, 146, 128 * 256).reshape(128, 256)
    return np.dstack([ramp, ramp[::-1], 256 - ramp]).astype(np.uint8)


def tiles_of(pixels: np.ndarray) -> list[np.ndarray]:
    height, width = pixels.shape[:2]
    return [
        np.ascontiguousarray(pixels[y : y + SIDE, x : x + SIDE])
        for y in range(0, height, SIDE)
        for x in range(0, width, SIDE)
    ]


def write(path, streams: list[bytes], code: int, photometric: int, patch_tag, *, strips: int = 0, **options):
    """A TIFF of 256 × 128 px of given streams: in tiles of 64 px, or in strips of so many rows."""
    shape = {"rowsperstrip": strips} if strips else {"tile": (SIDE, SIDE)}
    options = {"photometric": "rgb", "metadata": None, **options}
    tifffile.imwrite(path, iter(streams), shape=(128, 256, 3), dtype=np.uint8, compression=code, **shape, **options)
    patch_tag(path, 262, photometric)
    return path


def j2k(pixels: np.ndarray, **options) -> list[bytes]:
    return [imagecodecs.jpeg2k_encode(tile, level=0, **{"codecformat": "j2k", **options}) for tile in tiles_of(pixels)]


def check(path, right: np.ndarray, note: str, *, passes: bool, tolerance: float = 2) -> None:
    """Read by the tile reader with right colours; the decision is in the notes; tiles are passed through or not."""
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        found = slide.read_region(0, 0, *slide.dimensions).astype(int)
        assert np.abs(found - right).max() <= tolerance
        assert note in " ".join(slide.info.notes)
        assert (slide.tile_source(0) is not None) == passes


# --- JPEG 2000 --------------------------------------------------------------------------------------------------------
RGB, YCBCR = 2, 6


@pytest.mark.parametrize("code", [33003, 33004, 33005, 34712])
@pytest.mark.parametrize("codecformat", ["j2k", "jp2"])
def test_a_stream_with_its_own_transform_gives_rgb_whatever_the_code(tmp_path, stained, patch_tag, code, codecformat):
    path = write(tmp_path / "slide.tif", j2k(stained, codecformat=codecformat), code, RGB, patch_tag)
    note = "colour transform of their own" if code == 33003 else ""
    check(path, stained, note, passes=True, tolerance=0)


def test_33003_in_an_ome_tiff_is_what_its_streams_hold(tmp_path, stained):
    path = tmp_path / "slide.ome.tif"
    options = {"tile": (SIDE, SIDE), "photometric": "rgb", "compression": 33003, "metadata": {"axes": "YXS"}}
    tifffile.imwrite(path, stained, compressionargs={"codecformat": "j2k", "level": 0}, **options)
    check(path, stained, "their decoder gives RGB", passes=True, tolerance=0)


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("space", ["RGB", "YCbCr"])
def test_33003_without_transform_is_decided_by_its_pixels(tmp_path, stained, patch_tag, strips, space):
    pixels = stained if space == "RGB" else ycc_of(stained)
    options = {"level": 0, "codecformat": "j2k", "mct": False}
    streams = [imagecodecs.jpeg2k_encode(pixels[y : y + SIDE], **options) for y in (0, SIDE)]
    streams = streams if strips else j2k(pixels, mct=False)
    path = write(tmp_path / "slide.tif", streams, 33003, RGB, patch_tag, strips=SIDE if strips else 0)
    with open_slide(path) as slide:
        assert slide.info.reader == ("image" if strips else "tiff")
        assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).max() <= 2
        assert f"its pixels are {space}, and are read so" in " ".join(slide.info.notes)
        assert strips or slide.tile_source(0) is None


def test_33003_that_could_be_either_is_refused_with_the_reason(tmp_path, patch_tag):
    path = write(tmp_path / "slide.tif", j2k(dull(), mct=False), 33003, RGB, patch_tag)
    with pytest.raises(UnsupportedSlideError, match="YCbCr by its compression code 33003.*pixels do not show.*Convert"):
        open_slide(path)


@pytest.mark.parametrize("code", [33004, 33005, 34712])
def test_other_codes_without_transform_are_rgb_as_stated_unless_the_pixels_are_ycbcr(
    tmp_path, stained, patch_tag, code
):
    path = write(tmp_path / "slide.tif", j2k(stained, mct=False), code, RGB, patch_tag)
    check(path, stained, "", passes=True, tolerance=0)
    path = write(tmp_path / "other.tif", j2k(ycc_of(stained), mct=False), code, RGB, patch_tag)
    check(path, stained, "its pixels are YCbCr, and are read so", passes=False)
    path = write(tmp_path / "dull.tif", j2k(dull(), mct=False), code, RGB, patch_tag)
    check(path, dull(), "", passes=True, tolerance=0)


def test_ycbcr_by_the_tags_is_converted(tmp_path, stained, patch_tag):
    path = write(tmp_path / "slide.tif", j2k(ycc_of(stained), mct=False), 34712, YCBCR, patch_tag)
    check(path, stained, "YCbCr by its tags", passes=False)


def test_a_jp2_that_states_its_colours_is_not_converted_twice(tmp_path, stained, patch_tag):
    streams = j2k(ycc_of(stained), codecformat="jp2", colorspace="SYCC", mct=False)
    for code, photometric in ((33003, RGB), (34712, YCBCR), (34712, RGB)):
        path = write(tmp_path / f"{code}{photometric}.tif", streams, code, photometric, patch_tag)
        check(path, stained, "", passes=False)


def test_aperios_33003_is_ycbcr_though_its_tags_state_rgb(tmp_path, stained, patch_tag):
    streams = j2k(ycc_of(stained), mct=False)
    path = write(tmp_path / "slide.svs", streams, 33003, RGB, patch_tag, description=APERIO)
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).max() <= 2
    with TiffSlide(str(path)) as slide:
        assert slide.info.compression == "JPEG 2000 (YCbCr)"
        assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).max() <= 2
        assert slide.tile_source(0) is None


def test_a_copy_of_an_aperio_slide_that_was_encoded_again_is_rgb(tmp_path, stained, patch_tag):
    path = write(tmp_path / "slide.svs", j2k(stained), 33003, RGB, patch_tag, description=APERIO)
    check(path, stained, "colour transform of their own", passes=True, tolerance=0)


def test_aperios_colour_at_half_the_resolution_is_enlarged_as_openslide_does(tmp_path, stained, patch_tag):
    streams = [subsampled(tile) for tile in tiles_of(stained)]
    path = write(tmp_path / "slide.svs", streams, 33003, RGB, patch_tag, description=APERIO)
    with openslide.OpenSlide(path) as truth:
        expected = np.asarray(truth.read_region((0, 0), 0, (256, 128)))[..., :3].astype(int)
    for reader in ("auto", "tiff"):
        with open_slide(path, reader) as slide:
            found = slide.read_region(0, 0, 256, 128)
            assert np.abs(found - expected).max() <= 1
            assert np.abs(found.astype(int) - stained).mean() < 2


def test_tiffslide_is_refused_where_it_gives_false_colours(tmp_path, stained, patch_tag):
    streams = j2k(ycc_of(stained), mct=False)
    path = write(tmp_path / "slide.svs", streams, 33003, RGB, patch_tag, description=APERIO)
    with pytest.raises(UnsupportedSlideError, match="colours TiffSlide would give wrongly.*33003"):
        open_slide(path, "tiffslide")
    path = write(tmp_path / "rgb.svs", j2k(stained, mct=False), 33005, RGB, patch_tag, description=APERIO)
    with open_slide(path, "tiffslide") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 256, 128), stained)


def subsampled(rgb: np.ndarray) -> bytes:
    """JPEG 2000 of YCbCr with chroma at half the width: three one-component streams joined component by component."""
    ycc = ycc_of(rgb)
    planes = [ycc[..., 0], ycc[:, ::2, 1], ycc[:, ::2, 2]]
    body, head = b"", {}
    for plane in planes:
        stream = imagecodecs.jpeg2k_encode(np.ascontiguousarray(plane), level=0, codecformat="j2k", resolutions=2)
        position, segments, marker = 2, {}, 0
        while marker != 0xFF90:
            marker, length = struct.unpack_from(">HH", stream, position)
            segments[marker] = stream[position + 4 : position + 2 + length]
            position += 2 + length
        head = head or segments
        body += stream[position + 2 : -2]
    size = head[0xFF51][:34] + b"\0\3" + bytes((7, 1, 1, 7, 2, 1, 7, 2, 1))
    style = bytearray(head[0xFF52])
    style[1], style[4] = 4, 0  # component by component, no colour transform
    part = struct.pack(">HIBB", 0, 14 + len(body), 0, 1)
    parts = ((0xFF51, size), (0xFF52, bytes(style)), (0xFF5C, head[0xFF5C]), (0xFF90, part))
    joined = b"".join(struct.pack(">HH", marker, len(value) + 2) + value for marker, value in parts)
    return b"\xff\x4f" + joined + b"\xff\x93" + body + b"\xff\xd9"


def test_grey_streams_in_an_image_stated_to_be_rgb_are_unreadable(tmp_path, stained, patch_tag):
    streams = j2k(stained)
    streams[3] = imagecodecs.jpeg2k_encode(np.ascontiguousarray(stained[:SIDE, :SIDE, 0]), level=0, codecformat="j2k")
    path = write(tmp_path / "slide.tif", streams, 34712, RGB, patch_tag)
    with open_slide(path) as slide:
        with pytest.raises(ReadError, match="1 samples per px found where 3 are expected"):
            slide.read_region(200, 10, 8, 8)
        np.testing.assert_array_equal(slide.read_region(0, 0, SIDE, SIDE), stained[:SIDE, :SIDE])


# --- JPEG -------------------------------------------------------------------------------------------------------------
JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


def coded(pixels: np.ndarray, markers: bytes, *, ids: bytes = b"\1\2\3") -> list[bytes]:
    """JPEG tiles of components as they are, without a transform, with these markers and component identifiers."""
    made = []
    for tile in tiles_of(pixels):
        stream = imagecodecs.jpeg8_encode(tile, level=98, colorspace="RGB", outcolorspace="RGB")
        made.append(b"\xff\xd8" + markers + with_ids(stream, ids))
    return made


def with_ids(stream: bytes, ids: bytes) -> bytes:
    """Segments of a stream after its start marker, without Adobe's, with other identifiers of the components."""
    position, kept, marker = 2, [], 0
    while marker != 0xDA:
        marker = stream[position + 1]
        length = 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        segment = bytearray(stream[position : position + length])
        if marker in (0xC0, 0xC3):
            segment[10], segment[13], segment[16] = ids
        if marker == 0xDA:
            segment[5], segment[7], segment[9] = ids
        kept += [] if marker == 0xEE else [bytes(segment)]
        position += length
    return b"".join(kept) + stream[position:]


ADOBE_YCBCR = jpeg.ADOBE_RGB[:-1] + b"\1"


@pytest.mark.parametrize(
    ("stored", "markers", "photometric", "note", "passes"),
    [
        ("rgb", b"", RGB, "", True),
        ("rgb", jpeg.ADOBE_RGB, RGB, "", True),
        ("rgb", JFIF, RGB, "the pixels are RGB", False),
        ("ycc", JFIF, RGB, "as which they are read", True),
        ("ycc", ADOBE_YCBCR, RGB, "as which they are read", True),
        ("rgb", ADOBE_YCBCR, RGB, "the pixels are RGB", False),
        ("ycc", JFIF, YCBCR, "", True),
        ("ycc", b"", YCBCR, "", True),
        ("rgb", jpeg.ADOBE_RGB, YCBCR, "as which they are read", True),
        ("ycc", jpeg.ADOBE_RGB, YCBCR, "the pixels are YCbCr", False),
    ],
)
@pytest.mark.parametrize("strips", [False, True])
def test_jpeg_colours_are_those_of_the_pixels_where_tags_and_markers_disagree(
    tmp_path, stained, patch_tag, stored, markers, photometric, note, passes, strips
):
    pixels = stained if stored == "rgb" else ycc_of(stained)
    streams = coded(pixels, markers)
    if strips:
        whole = imagecodecs.jpeg8_encode(pixels, level=98, colorspace="RGB", outcolorspace="RGB")
        streams = [b"\xff\xd8" + markers + with_ids(whole, b"\1\2\3")]
    path = write(tmp_path / "slide.tif", streams, 7, photometric, patch_tag, strips=128 if strips else 0)
    with open_slide(path) as slide:
        found = slide.read_region(0, 0, 256, 128).astype(int)
        assert np.abs(found - stained).mean() < 1.5
        assert note in " ".join(slide.info.notes)
        assert strips or (slide.tile_source(0) is not None) == passes
    with contextlib.suppress(UnsupportedSlideError), open_slide(path, "tiffslide") as slide:
        assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).mean() < 1.5


def test_chroma_at_reduced_size_is_ycbcr_though_the_tags_state_rgb(tmp_path, stained, patch_tag):
    streams = [imagecodecs.jpeg8_encode(tile, level=98, subsampling="422") for tile in tiles_of(stained)]
    bare = [stream.replace(JFIF, b"") for stream in streams]
    assert len(bare[0]) == len(streams[0]) - len(JFIF)
    path = write(tmp_path / "slide.tif", bare, 7, RGB, patch_tag)
    with open_slide(path) as slide:
        assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).mean() < 3
        assert "the JPEG streams YCbCr, as which they are read" in " ".join(slide.info.notes)


def test_jpeg_of_three_components_is_in_colour_though_the_tags_state_grey(tmp_path, stained, patch_tag):
    path = write(tmp_path / "slide.tif", coded(ycc_of(stained), JFIF), 7, 1, patch_tag)
    with open_slide(path) as slide:
        assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).mean() < 1.5


def test_components_named_r_g_b_are_rgb_whatever_the_tags_state(tmp_path, stained, patch_tag):
    for photometric in (RGB, YCBCR):
        path = write(tmp_path / "slide.tif", coded(stained, b"", ids=b"RGB"), 7, photometric, patch_tag)
        with open_slide(path) as slide:
            assert np.abs(slide.read_region(0, 0, 256, 128).astype(int) - stained).mean() < 1.5


def test_lossless_jpeg_is_read_exactly_and_not_passed_through(tmp_path, stained, patch_tag):
    options = {"lossless": True, "colorspace": "RGB", "outcolorspace": "RGB"}
    streams = [imagecodecs.jpeg8_encode(tile, **options) for tile in tiles_of(stained)]
    path = write(tmp_path / "slide.tif", streams, 7, RGB, patch_tag)
    check(path, stained, "", passes=False, tolerance=0)


def test_uncommon_kinds_of_jpeg_are_refused_by_name(tmp_path, stained, patch_tag):
    streams = [stream.replace(b"\xff\xc0", b"\xff\xc9", 1) for stream in coded(stained, b"")]
    path = write(tmp_path / "slide.tif", streams, 7, RGB, patch_tag)
    with pytest.raises(UnsupportedSlideError, match="SOF9.*arithmetic"):
        open_slide(path)
    for code, words in ((6, "old-style JPEG"), (4, "CCITT"), (33007, "uncompressed YCbCr")):
        patch_tag(path, 259, code)
        with pytest.raises(UnsupportedSlideError, match=words):
            open_slide(path)
