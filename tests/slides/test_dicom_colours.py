"""Colours of DICOM: what the file says, what the frames' own markers say, and what the samples show."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from wsikit.errors import ReadError, UnsupportedSlideError
from wsikit.slides import open_slide
from wsikit.slides.formats.dicom.colours import decide, shown_by
from wsikit.slides.formats.dicom.streams import examine, recoloured

RAW, BIG_ENDIAN, DEFLATED, IMPLICIT = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2",
)
RLE, FRAMES_DEFLATED, WRAPPED = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.1.98"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG, J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
ONE_SAMPLE = {"SamplesPerPixel": 1, "PlanarConfiguration": None}
AS_RGB = {"colorspace": "RGB", "outcolorspace": "RGB", "subsampling": "444"}


def stained(width: int, height: int) -> np.ndarray:
    """Pink with purple spots between glass, uint8 (h, w, 3): the colours of a slide, smooth enough for JPEG."""
    y, x = np.mgrid[:height, :width].astype(float)
    share = np.clip(np.sin(x / 17) + np.cos(y / 13), 0, 1)[..., None]
    image = np.array((214, 150, 190)) * (1 - share) + np.array((90, 60, 145)) * share
    image[(x < 40) | (y > height - 40)] = (243, 242, 244)
    return np.rint(image).astype(np.uint8)


def to_ycc(rgb: np.ndarray) -> np.ndarray:
    """BT.601 of full range, as PS3.3, C.7.6.3.1.2 defines YBR_FULL."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = [-0.1687 * r - 0.3313 * g + 0.5 * b + 128, 0.5 * r - 0.4187 * g - 0.0813 * b + 128]
    return np.rint(np.stack([luma, *chroma], -1)).clip(0, 255).astype(np.uint8)


def rle(tile: np.ndarray) -> bytes:
    """An RLE frame of PS3.5, annex G, in literal runs."""
    planes = [tile[..., i].tobytes() for i in range(tile.shape[2])]
    if tile.dtype == np.uint16:
        planes = [part for i in range(tile.shape[2]) for part in ((tile[..., i] >> 8), (tile[..., i] & 255))]
        planes = [plane.astype(np.uint8).tobytes() for plane in planes]
    coded = []
    for plane in planes:
        runs = [bytes([len(plane[i : i + 128]) - 1]) + plane[i : i + 128] for i in range(0, len(plane), 128)]
        data = b"".join(runs)
        coded.append(data + b"\0" * (len(data) % 2))
    offsets = 64 + np.cumsum([0] + [len(part) for part in coded[:-1]])
    head = np.zeros(16, "<u4")
    head[0], head[1 : len(coded) + 1] = len(coded), offsets
    return head.tobytes() + b"".join(coded)


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return stained(320, 240)


@pytest.fixture
def write(tmp_path, tiles_of, write_dicom, rgb) -> Callable[..., Path]:
    """write(encode, photometric, syntax, pixels=…, **options): a slide of 320 × 240 px; frames are encode(tile)."""

    def made(encode: Callable[[np.ndarray], bytes], photometric: str, syntax: str, pixels=None, **options) -> Path:
        frames = [encode(tile) for tile in tiles_of(rgb if pixels is None else pixels, 64)]
        path = tmp_path / "slide" / "slide.dcm"
        path.parent.mkdir(exist_ok=True)
        return write_dicom(path, frames, (320, 240), photometric=photometric, syntax=syntax, **options)

    return made


def jpeg(tile: np.ndarray, **options) -> bytes:
    return imagecodecs.jpeg8_encode(tile, level=95, **options)


def without_markers(stream: bytes) -> bytes:
    """A JPEG without JFIF and Adobe segments, its components named 1, 2, 3."""
    data = bytearray(recoloured(stream, "rgb"))
    del data[2:18]
    sof = data.index(b"\xff\xc0")
    scan = data.index(b"\xff\xda")
    for i in range(3):
        data[sof + 10 + 3 * i] = data[scan + 5 + 2 * i] = i + 1
    return bytes(data)


def j2k(tile: np.ndarray, **options) -> bytes:
    return imagecodecs.jpeg2k_encode(tile, codecformat="j2k", **{"level": 0, **options})


def check(path: Path, rgb: np.ndarray, tolerance: float, note: str | None = None) -> None:
    with open_slide(path) as slide:
        pixels = slide.read_region(0, 0, 320, 240)
        assert np.abs(pixels.astype(int) - rgb).max() <= tolerance
        notes = " ".join(slide.info.notes)
        assert (note in notes) if note else not notes


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize(
    ("encode", "is_rgb"),
    [
        (lambda tile: jpeg(tile, subsampling="444"), False),  # JFIF
        (lambda tile: recoloured(jpeg(tile, subsampling="444"), "ycc"), False),  # Adobe, transform 1
        (lambda tile: jpeg(tile, **AS_RGB), True),  # Adobe, transform 0
    ],
)
def test_a_jpeg_has_the_colours_of_its_own_marker(write, rgb, photometric, encode, is_rgb):
    agree = (photometric == "RGB") == is_rgb
    note = None if agree else "read as RGB" if is_rgb else "read as YCbCr"
    check(write(encode, photometric, JPEG), rgb, 40, note)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL_422"])
def test_jpegs_without_a_marker_have_the_colours_that_the_file_says(write, rgb, photometric):
    colours = AS_RGB if photometric == "RGB" else {"subsampling": "444"}
    check(write(lambda tile: without_markers(jpeg(tile, **colours)), photometric, JPEG), rgb, 40)


def test_rgb_behind_a_jfif_marker_is_read_as_file_and_samples_say(write, rgb):
    def encode(tile):
        stream = jpeg(tile, **AS_RGB)
        return stream[:2] + b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0" + without_markers(stream)[2:]

    assert examine(encode(rgb[:64, :64])).marker == "a JFIF marker"
    path = write(encode, "RGB", JPEG)
    check(path, rgb, 40, "JFIF marker, and its px are those of RGB: read as RGB")
    with open_slide(path) as slide:
        assert slide.tile_source(0) is None  # any other decoder would follow the marker
    with pytest.raises(
        UnsupportedSlideError, match="colours cannot be decided.*JFIF marker, and its px are those of RGB"
    ):
        open_slide(write(encode, "YBR_FULL_422", JPEG))


@pytest.mark.parametrize(
    ("photometric", "in_stream", "mct", "note"),
    [
        ("RGB", "rgb", True, None),
        ("YBR_RCT", "rgb", True, None),
        ("RGB", "rgb", False, None),
        ("YBR_FULL", "rgb", True, "read as RGB"),
        ("YBR_RCT", "ycc", False, "px are those of YCbCr: read as YCbCr"),
        ("YBR_ICT", "ycc", False, "px are those of YCbCr: read as YCbCr"),
        ("YBR_ICT", "rgb", False, "px are those of RGB: read as RGB"),
        ("YBR_FULL", "ycc", False, None),
        ("YBR_FULL_422", "ycc", False, None),
        ("YBR_FULL", "rgb", False, "px are those of RGB: read as RGB"),
        ("YBR_FULL", "ycc", True, "px are those of YCbCr: read as YCbCr"),
        ("RGB", "ycc", False, "refused"),
        ("RGB", "ycc", True, "refused"),
        ("YBR_RCT", "ycc", True, "refused"),
    ],
)
def test_jpeg_2000_with_and_without_a_colour_transform(write, rgb, photometric, in_stream, mct, note):
    def encode(tile):
        return j2k(to_ycc(tile) if in_stream == "ycc" else tile, mct=mct)

    path = write(encode, photometric, J2K_LOSSLESS)
    if note == "refused":
        with pytest.raises(UnsupportedSlideError, match="its colours cannot be decided: .* px are those of YCbCr"):
            open_slide(path)
    else:
        check(path, rgb, 2 if in_stream == "ycc" else 0, note)


def test_what_neither_stream_nor_samples_show_is_refused(write, rgb):
    """Tissue without glass: its px could be RGB or YCbCr."""
    tissue = np.full((64, 64, 3), (200, 130, 170), np.uint8)
    assert shown_by(tissue.reshape(-1, 3)) is None
    with pytest.raises(UnsupportedSlideError, match="do not show which it is.*Export it again as RGB"):
        open_slide(write(lambda _: j2k(tissue, mct=False), "YBR_ICT", J2K))


@pytest.mark.parametrize("syntax", [RAW, IMPLICIT, DEFLATED, BIG_ENDIAN, RLE, FRAMES_DEFLATED, WRAPPED])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
def test_uncompressed_frames_of_every_encoding(write, rgb, syntax, photometric, planar):
    def encode(tile):
        samples = tile if photometric == "RGB" else to_ycc(tile)
        if syntax == RLE:
            return rle(samples)
        data = np.moveaxis(samples, 2, 0).tobytes() if planar else samples.tobytes()
        if syntax == FRAMES_DEFLATED:
            coder = zlib.compressobj(wbits=-15)
            return coder.compress(data) + coder.flush()
        if syntax == BIG_ENDIAN:  # 8-bit samples in words of OW
            return np.frombuffer(data, "<u2").byteswap().tobytes()
        return data

    native = syntax in (RAW, IMPLICIT, DEFLATED, BIG_ENDIAN)
    path = write(encode, photometric, syntax, native=native, attributes={"PlanarConfiguration": planar})
    check(path, rgb, 0 if photometric == "RGB" else 2)


def test_big_endian_bytes_are_not_in_words(write, rgb):
    check(write(lambda tile: tile.tobytes(), "RGB", BIG_ENDIAN, native=True, pixel_type="OB"), rgb, 0)


def test_uncompressed_chroma_of_half_resolution(write, rgb):
    smooth = np.repeat(rgb[:, ::2], 2, axis=1)  # equal chroma in each pair of px

    def encode(tile):
        ycc = to_ycc(tile)
        return np.stack([ycc[:, 0::2, 0], ycc[:, 1::2, 0], ycc[:, ::2, 1], ycc[:, ::2, 2]], axis=2).tobytes()

    check(write(encode, "YBR_FULL_422", RAW, smooth, native=True), smooth, 2)


def test_a_name_left_behind_by_a_decompression_is_no_claim(write, rgb):
    """YBR_FULL_422 with three bytes per px: the frames are RGB or YCbCr, as their px show."""
    note = "YBR_FULL_422 with three samples per px"
    check(write(lambda tile: tile.tobytes(), "YBR_FULL_422", RAW, native=True), rgb, 0, f"{note}, its frames have no")
    check(write(lambda tile: to_ycc(tile).tobytes(), "YBR_FULL_422", RAW, native=True), rgb, 2, note)
    with pytest.raises(UnsupportedSlideError, match=note):
        open_slide(write(lambda tile: b"\x80" * tile.size, "YBR_FULL_422", RAW, native=True))


@pytest.mark.parametrize(
    ("photometric", "expected"), [("MONOCHROME2", lambda grey: grey), ("MONOCHROME1", lambda grey: 255 - grey)]
)
@pytest.mark.parametrize("coded", ["raw", "jpeg", "jpeg2k", "jpeg-ls", "rle"])
def test_monochrome(write, rgb, photometric, expected, coded):
    encoders = {
        "raw": (lambda tile: tile[..., 0].tobytes(), RAW),
        "jpeg": (lambda tile: jpeg(np.ascontiguousarray(tile[..., 0])), JPEG),
        "jpeg2k": (lambda tile: j2k(np.ascontiguousarray(tile[..., 0])), J2K_LOSSLESS),
        "jpeg-ls": (
            lambda tile: imagecodecs.jpegls_encode(np.ascontiguousarray(tile[..., 0])),
            "1.2.840.10008.1.2.4.80",
        ),
        "rle": (lambda tile: rle(tile[..., :1]), RLE),
    }
    encode, syntax = encoders[coded]
    path = write(encode, photometric, syntax, native=coded == "raw", attributes=ONE_SAMPLE)
    grey = np.repeat(expected(rgb[..., :1]), 3, axis=2)
    check(path, grey, 12 if coded == "jpeg" else 0)
    with open_slide(path) as slide:
        # the stream alone is the slide only where 0 is black
        assert (slide.tile_source(0) is not None) == (coded in ("jpeg", "jpeg2k") and photometric == "MONOCHROME2")


@pytest.mark.parametrize("stored", [10, 12, 16])
@pytest.mark.parametrize(
    "syntax", [RAW, BIG_ENDIAN, RLE, J2K_LOSSLESS, "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.70"]
)
def test_samples_of_16_bits_are_scaled_by_the_bits_that_are_stored(write, rgb, stored, syntax):
    def encode(tile):
        values = tile[..., 0].astype(np.uint16) << (stored - 8)
        if syntax == J2K_LOSSLESS:
            return j2k(values, bitspersample=stored)
        if syntax == RLE:
            return rle(values[..., None])
        if syntax.endswith(".80"):
            return imagecodecs.jpegls_encode(values)
        if syntax.endswith(".70"):
            return imagecodecs.ljpeg_encode(values, bitspersample=stored)
        return values.astype(">u2" if syntax == BIG_ENDIAN else "<u2").tobytes()

    attributes = {**ONE_SAMPLE, "BitsAllocated": 16, "BitsStored": stored, "HighBit": stored - 1}
    path = write(encode, "MONOCHROME2", syntax, native=syntax in (RAW, BIG_ENDIAN), attributes=attributes)
    check(path, np.repeat(rgb[..., :1], 3, axis=2), 1)


def test_bits_that_lie_high_in_their_word(write, rgb):
    attributes = {
        "SamplesPerPixel": 1,
        "PlanarConfiguration": None,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 15,
    }

    def encode(tile):
        return ((tile[..., 0].astype("<u2") << 8) | 5).tobytes()  # the lowest four bits are no signal

    check(write(encode, "MONOCHROME2", RAW, native=True, attributes=attributes), np.repeat(rgb[..., :1], 3, axis=2), 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colours(write, rgb, bits):
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (256, 3), np.uint8)
    shift, kind = bits - 8, "<u2" if bits == 16 else np.uint8
    attributes = dict(ONE_SAMPLE)
    for i, name in enumerate(("Red", "Green", "Blue")):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        attributes[f"{name}PaletteColorLookupTableData"] = (table[:, i].astype(kind) << shift).astype(kind).tobytes()
    path = write(lambda tile: tile[..., 0].tobytes(), "PALETTE COLOR", RAW, native=True, attributes=attributes)
    check(path, table[rgb[..., 0]], 0)
    path = write(lambda tile: tile[..., 0].tobytes(), "PALETTE COLOR", RAW, native=True, attributes=ONE_SAMPLE)
    with pytest.raises(UnsupportedSlideError, match="palette colours without its palette"):
        open_slide(path)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        ("1.2.840.10008.1.2.4.110", lambda tile: imagecodecs.jpegxl_encode(tile, lossless=True)),
        ("1.2.840.10008.1.2.4.112", lambda tile: imagecodecs.jpegxl_encode(tile, lossless=True)),
        ("1.2.840.10008.1.2.4.80", lambda tile: imagecodecs.jpegls_encode(tile)),
        ("1.2.840.10008.1.2.4.201", lambda tile: imagecodecs.htj2k_encode(tile, level=0, reversible=True)),
    ],
)
def test_newer_codecs(write, rgb, syntax, encode):
    check(write(encode, "RGB", syntax), rgb, 0)


def test_frames_of_another_codec_than_the_file_says(write, rgb):
    check(write(j2k, "RGB", JPEG), rgb, 0, "The file says 1.2.840.10008.1.2.4.50 (JPEG Baseline")


@pytest.mark.parametrize(
    ("photometric", "syntax", "options", "words"),
    [
        ("YBR_PARTIAL_422", RAW, {"native": True}, "YBR_PARTIAL_422”, which is not read"),
        ("HSV", RAW, {"native": True}, "HSV”, which is not read"),
        ("RGB", RAW, {"native": True, "attributes": {"PixelRepresentation": 1}}, "of signed samples"),
        ("RGB", RAW, {"native": True, "attributes": {"SamplesPerPixel": 4}}, "of 4 samples per px"),
        ("RGB", "1.2.840.10008.1.2.4.100", {}, r"1\.2\.840\.10008\.1\.2\.4\.100 \(MPEG2"),
        ("RGB", "1.2.3.4.5", {}, r"transfer syntax 1\.2\.3\.4\.5, which is not read here"),
    ],
)
def test_what_is_not_read_is_refused_by_name(write, photometric, syntax, options, words):
    with pytest.raises(UnsupportedSlideError, match=words):
        open_slide(write(lambda tile: tile.tobytes(), photometric, syntax, **options))


@pytest.mark.parametrize("coded", ["rle", "jpeg-ls", "jpeg xl", "deflated"])
def test_a_cut_frame_of_any_codec_is_an_error(tmp_path, rgb, tiles_of, write_dicom, coded):
    def deflate(tile):
        coder = zlib.compressobj(wbits=-15)
        return coder.compress(tile.tobytes()) + coder.flush()

    encode, syntax = {
        "rle": (rle, RLE),
        "jpeg-ls": (imagecodecs.jpegls_encode, "1.2.840.10008.1.2.4.80"),
        "jpeg xl": (lambda tile: imagecodecs.jpegxl_encode(tile, lossless=True), "1.2.840.10008.1.2.4.110"),
        "deflated": (deflate, FRAMES_DEFLATED),
    }[coded]
    frames = [encode(tile) for tile in tiles_of(rgb, 64)]
    frames[7] = frames[7][: len(frames[7]) // 2]
    path = write_dicom(tmp_path / "slide.dcm", frames, (320, 240), photometric="RGB", syntax=syntax)
    with open_slide(path) as slide:
        with pytest.raises(ReadError):
            slide.read_region(128, 64, 64, 64)
        np.testing.assert_array_equal(slide.read_region(192, 64, 64, 64), rgb[64:128, 192:256])


def test_a_file_that_ends_early_has_unreadable_frames_not_white_ones(write, rgb):
    path = write(lambda tile: tile.tobytes(), "RGB", RAW, native=True)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 64 * 64 * 3)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 64, 64), rgb[:64, :64])
        with pytest.raises(ReadError):
            slide.read_region(256, 192, 8, 8)


def test_each_level_has_its_own_colours(tmp_path, rgb, tiles_of, write_dicom):
    """Level 0 is RGB in JPEG 2000; level 1 is JPEG of JFIF, and says RGB."""
    half = np.ascontiguousarray(rgb[::2, ::2])
    write_dicom(
        tmp_path / "0.dcm", [j2k(t) for t in tiles_of(rgb, 64)], (320, 240), photometric="RGB", syntax=J2K_LOSSLESS
    )
    write_dicom(tmp_path / "1.dcm", [jpeg(t) for t in tiles_of(half, 64)], (160, 120), photometric="RGB", mpp=0.5)
    with open_slide(tmp_path / "1.dcm") as slide:
        np.testing.assert_array_equal(slide.read_region(0, 0, 320, 240, level=0), rgb)
        assert np.abs(slide.read_region(0, 0, 160, 120, level=1).astype(int) - half).mean() < 8
        assert slide.info.notes == ("Level 1: the file says RGB, its frames have a JFIF marker: read as YCbCr.",)


def test_two_of_file_stream_and_samples_must_agree():
    def of(photometric, stream, shown):
        return decide(photometric, stream, "a marker", lambda: shown).claim

    assert of("RGB", "rgb", None) == of("RGB", "rgb", "rgb") == of("YBR_FULL", "rgb", "rgb") == "rgb"
    assert of("YBR_FULL", "ycc", None) == of("RGB", "ycc", None) == of("RGB", "ycc", "ycc") == "ycc"
    assert of("YBR_FULL", "rgb", "ycc") == "ycc"
    assert of("RGB", "ycc", "rgb") == "rgb"
    assert of("RGB", "rgb", "ycc") is of("YBR_FULL", "ycc", "rgb") is of("", None, None) is None
    assert of("RGB", None, "ycc") is of("YBR_ICT", None, None) is None
    assert of("YBR_ICT", "rgb", None) == of("YBR_RCT", None, "rgb") == "rgb"


def test_samples_show_their_colour_space_by_gamut_and_glass(rgb):
    assert shown_by(rgb.reshape(-1, 3)) == "rgb"
    assert shown_by(to_ycc(rgb).reshape(-1, 3)) == "ycc"
    black = np.zeros_like(rgb)
    assert shown_by(black.reshape(-1, 3)) == "rgb"
    assert shown_by(to_ycc(black).reshape(-1, 3)) == "ycc"
    assert shown_by(np.full((100, 3), 128, np.uint8)) is None
    assert shown_by(np.zeros((0, 3), np.uint8)) is None


def test_frames_of_one_level_that_are_coded_in_different_ways_are_refused(write):
    ways = iter(range(100))

    def encode(tile):
        return j2k(tile, mct=True) if next(ways) < 10 else j2k(to_ycc(tile), mct=False)

    with pytest.raises(UnsupportedSlideError, match="coded in different ways .*colour transform.*no colour transform"):
        open_slide(write(encode, "YBR_RCT", J2K_LOSSLESS))
