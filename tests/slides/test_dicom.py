"""DICOM slides: frames as tiles, with or without offset tables; colour spaces; damage; files read by OpenSlide."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
from PIL import Image

from wsikit.batch.manifest import collect
from wsikit.errors import ReadError, SlideError, UnsupportedSlideError
from wsikit.slides import jpeg, open_slide
from wsikit.slides.formats.dicom import files as dicom_files

J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
ONE_COLOUR_SPACE = {"colorspace": "RGB", "outcolorspace": "RGB"}


def encode(tile: np.ndarray, **options) -> bytes:
    return imagecodecs.jpeg8_encode(tile, level=90, **options)


def decoded(stream: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stream)).convert("RGB"))


def whole(slide, level: int = 0) -> np.ndarray:
    return slide.read_region(0, 0, *slide.level_dimensions[level], level=level)


def joined(tiles: list[np.ndarray], size: tuple[int, int], side: int = 64) -> np.ndarray:
    """Tiles row by row as one picture of that width and height."""
    columns = -(-size[0] // side)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    return np.vstack(rows)[: size[1], : size[0]]


@pytest.fixture
def frames(levels, tiles_of) -> list[list[bytes]]:
    """The frames of each level of `levels`, as JPEG."""
    return [[encode(tile) for tile in tiles_of(pixels, 64)] for pixels in levels]


@pytest.fixture
def series(tmp_path, levels, frames, write_dicom) -> Path:
    """A folder with three levels and a label of one slide, a file each; file names in no order."""
    folder = tmp_path / "series"
    folder.mkdir()
    for number, name in enumerate(("m.dcm", "z.dcm", "a.dcm")):
        height, width = levels[number].shape[:2]
        write_dicom(folder / name, frames[number], (width, height), mpp=0.25 * 2**number)
    write_dicom(folder / "label.dcm", frames[2][:1], (64, 64), kind="LABEL")
    return folder


@pytest.fixture
def one(tmp_path, frames, write_dicom) -> Callable[..., Path]:
    """one(**options): a slide of one level of 320 × 240 px in a folder of its own."""
    made = []

    def write(stored: list[bytes] | None = None, **options) -> Path:
        folder = tmp_path / f"slide{len(made)}"
        folder.mkdir()
        made.append(folder)
        return write_dicom(folder / "slide.dcm", stored or frames[1], (320, 240), **options)

    return write


def test_every_level_is_the_frames_of_its_file(series, frames):
    with open_slide(series / "a.dcm") as slide:
        assert (slide.info.reader, slide.info.vendor) == ("dicom", "dicom")
        assert slide.level_dimensions == ((640, 480), (320, 240), (160, 120))
        for level, size in enumerate(slide.level_dimensions):
            truth = joined([decoded(frame) for frame in frames[level]], size)
            np.testing.assert_array_equal(whole(slide, level), truth)
            columns = -(-size[0] // 64)
            for number, frame in enumerate(frames[level]):
                stored = slide.encoded_tile(level, number % columns, number // columns)
                assert stored.rstrip(b"\0") == frame
        with openslide.OpenSlide(series / "a.dcm") as truth:
            np.testing.assert_array_equal(whole(slide), np.asarray(truth.read_region((0, 0), 0, (640, 480)))[..., :3])


@pytest.mark.parametrize("name", ["gcp_wsi2dcm_jpeg.dcm", "gcp_wsi2dcm_jpeg2000.dcm"])
def test_every_frame_of_a_real_file_decodes_to_the_readers_pixels(slides_dir, name):
    with open_slide(slides_dir / "dicom" / name) as slide, openslide.OpenSlide(slide.path) as truth:
        source = slide.tile_source(0)
        side = source.tile_px[0]
        for row in range(3):
            for column in range(4):
                stored = slide.encoded_tile(0, column, row)
                if source.codec == "jpeg":
                    pixels = decoded(jpeg.self_contained(stored, source.tables, rgb=source.rgb))
                else:
                    pixels = imagecodecs.jpeg2k_decode(stored)
                expected = np.asarray(truth.read_region((column * side, row * side), 0, (side, side)))
                inside = np.s_[: 715 - row * side, : 957 - column * side]
                np.testing.assert_array_equal(pixels[inside], expected[inside][..., :3])
                shown = slide.read_region(column * side, row * side, side, side)
                np.testing.assert_array_equal(pixels[inside], shown[inside])


@pytest.mark.parametrize(
    "options",
    [{}, {"basic_table": False}, {"extended_table": True}, {"fragments": 2}, {"fragments": 2, "basic_table": False}],
)
def test_frames_are_found_with_any_offset_table_or_none(one, frames, options):
    with open_slide(one(**options)) as slide:
        assert slide.tile_source(0) is not None
        stored = [slide.encoded_tile(0, number % 5, number // 5).rstrip(b"\0") for number in range(20)]
        assert stored == frames[1]


@pytest.mark.parametrize(
    ("encoding", "photometric"),
    [
        ({}, "YBR_FULL_422"),
        ({}, "RGB"),  # the file says RGB; its frames are JFIF, so YCbCr
        ({"subsampling": "444"}, "RGB"),
        (ONE_COLOUR_SPACE, "RGB"),
    ],
)
def test_the_colour_space_is_that_of_the_frame(one, levels, tiles_of, encoding, photometric):
    stored = [encode(tile, **encoding) for tile in tiles_of(levels[1], 64)]
    with open_slide(one(stored, photometric=photometric)) as slide:
        pixels, source = whole(slide), slide.tile_source(0)
        assert np.abs(pixels.astype(int) - levels[1]).mean() < 12  # 90 or more where colours are mistaken
        tile = jpeg.self_contained(slide.encoded_tile(0, 1, 1), source.tables, rgb=source.rgb)
        np.testing.assert_array_equal(decoded(tile), pixels[64:128, 64:128])


def test_frames_that_do_not_state_their_colour_space_use_that_of_the_file(one, levels, tiles_of):
    stored = [encode(tile, **ONE_COLOUR_SPACE) for tile in tiles_of(levels[1], 64)]
    adobe = stored[0].index(b"\xff\xee")
    assert stored[0][adobe + 4 : adobe + 9] == b"Adobe"
    silent = [stream[:adobe] + stream[adobe + 16 :] for stream in stored]
    path = one(silent, photometric="RGB")
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        np.testing.assert_array_equal(whole(slide), np.asarray(truth.read_region((0, 0), 0, (320, 240)))[..., :3])
        assert slide.tile_source(0).rgb


@pytest.mark.parametrize(
    ("syntax", "photometric", "options", "passes"),
    [
        (J2K_LOSSLESS, "YBR_RCT", {"level": 0}, True),
        (J2K_LOSSLESS, "RGB", {"level": 0, "mct": False}, True),
        (J2K, "YBR_ICT", {"level": 40, "reversible": False}, True),
        (J2K, "YBR_ICT", {"level": 40, "reversible": False, "mct": False}, False),
    ],
)
def test_jpeg_2000_frames_are_passed_through_if_they_decode_to_rgb(
    one, levels, tiles_of, syntax, photometric, options, passes
):
    stored = [imagecodecs.jpeg2k_encode(tile, codecformat="j2k", **options) for tile in tiles_of(levels[1], 64)]
    path = one(stored, syntax=syntax, photometric=photometric)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        np.testing.assert_array_equal(whole(slide), np.asarray(truth.read_region((0, 0), 0, (320, 240)))[..., :3])
        source = slide.tile_source(0)
        assert (source is not None and source.codec == "jpeg2k") == passes
        if passes:
            pixels = imagecodecs.jpeg2k_decode(slide.encoded_tile(0, 3, 2))
            np.testing.assert_array_equal(pixels, whole(slide)[128:192, 192:256])


def test_frames_of_a_sparse_file_are_at_their_stated_positions_and_the_rest_is_white(one, frames):
    places = [(column, row) for row in range(4) for column in range(5) if (column + row) % 3]
    stored = [frames[1][row * 5 + column] for column, row in places][::-1]
    path = one(stored, positions=[(column * 64, row * 64) for column, row in places][::-1])
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        expected = np.asarray(truth.read_region((0, 0), 0, (320, 240)))
        expected = np.where(expected[..., 3:] == 0, 255, expected[..., :3])
        np.testing.assert_array_equal(whole(slide), expected)
        for row in range(4):
            for column in range(5):
                tile = slide.encoded_tile(0, column, row)
                if (column, row) in places:
                    assert tile.rstrip(b"\0") == frames[1][row * 5 + column]
                else:
                    assert tile is None


def test_frames_on_no_common_grid_are_put_where_they_say(one, frames):
    """Half of the frames are shifted by some px; where two overlap, the later one is shown."""
    places = [(column * 64 + 5 * (row % 2), row * 64 - 3) for row in range(4) for column in range(5)]
    path = one(positions=places)
    expected = np.full((240 + 128, 320 + 128, 3), 255, np.uint8)
    for (x, y), frame in zip(places, frames[1]):
        expected[y + 64 : y + 128, x + 64 : x + 128] = decoded(frame)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole(slide), expected[64 : 64 + 240, 64 : 64 + 320])
        assert slide.tile_source(0) is None
        assert "no common grid" in slide.info.notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"positions": [(0, 0)] * 20}, "up to 20 frames at one place"),
        ({"attributes": {"ConcatenationUID": "1.2.3.9"}}, "the others are missing"),
        ({"attributes": {"TotalPixelMatrixFocalPlanes": 2}}, "of 2 focal planes"),
        ({"attributes": {"NumberOfOpticalPaths": 2}}, "of 2 optical paths"),
    ],
)
def test_frames_that_are_not_one_per_position_are_refused(one, options, words):
    with pytest.raises(SlideError, match=words):
        open_slide(one(**options))


def test_frames_that_are_not_compressed_are_read_and_not_passed_through(slides_dir):
    path = slides_dir / "dicom" / "gcp_wsi2dcm_raw.dcm"
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        assert slide.tile_source(0) is None
        expected = np.asarray(truth.read_region((500, 500), 0, (100, 100)))[..., :3]
        np.testing.assert_array_equal(slide.read_region(500, 500, 100, 100), expected)
        tile_width, tile_height = slide.tile_px(0)
        expected = np.asarray(truth.read_region((tile_width, 0), 0, (tile_width, tile_height)))[..., :3]
        np.testing.assert_array_equal(slide.tile(0, 1, 0), expected)


def test_slides_that_openslide_cannot_open_are_refused_with_the_next_step(series, frames, one, write_dicom):
    for attributes, words in (
        ({"TotalPixelMatrixFocalPlanes": 3}, "of 3 focal planes.*Export one plane"),
        ({"ConcatenationUID": "1.2.3.9", "InConcatenationNumber": 1}, "the others are missing"),
    ):
        with pytest.raises(SlideError, match=words):
            open_slide(one(attributes=attributes))
    with pytest.raises(UnsupportedSlideError, match=r"transfer syntax 1.2.840.10008.1.2.4.51.*Convert it"):
        open_slide(one(syntax="1.2.840.10008.1.2.4.51"))
    write_dicom(series / "twin.dcm", frames[1], (320, 240), mpp=0.5)
    with pytest.raises(UnsupportedSlideError, match="several files hold the same level"):
        open_slide(series / "a.dcm")


def test_a_damaged_frame_is_an_error_and_its_neighbours_still_read(one, frames):
    path = one()
    whole_file = path.read_bytes()
    frame = frames[1][7]
    start = whole_file.index(frame)
    hole = frame[: len(frame) // 2] + bytes(len(frame) - len(frame) // 2)
    for damaged in (hole, bytes(len(frame))):
        path.write_bytes(whole_file[:start] + damaged + whole_file[start + len(frame) :])
        with open_slide(path) as slide:
            with pytest.raises(ReadError) as caught:
                slide.read_region(130, 70, 10, 10)
            assert caught.value.box == (128, 64, 64, 64)
            np.testing.assert_array_equal(slide.read_region(192, 64, 64, 64), decoded(frames[1][8]))


def test_a_damaged_item_header_is_an_error(one, frames):
    path = one()
    data = bytearray(path.read_bytes())
    start = data.index(frames[1][7])
    data[start - 8 : start] = bytes(8)
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(ReadError, match="item in the file is damaged"):
        slide.encoded_tile(0, 2, 1)


def test_only_whole_items_make_a_frame():
    item = b"\xfe\xff\x00\xe0\x04\x00\x00\x00abcd"
    assert dicom_files.unwrap(item + item) == b"abcdabcd"
    for damaged in (item[:-1], b"\xfe\xff\x01" + item[3:], item + b"\x00" * 8):
        with pytest.raises(ValueError, match="damaged"):
            dicom_files.unwrap(damaged)


@pytest.mark.parametrize("options", [{}, {"basic_table": False}, {"extended_table": True}])
def test_a_truncated_file_names_the_missing_frames(one, frames, options):
    path = one(**options)
    cut = path.read_bytes().index(frames[1][15]) + 40
    with open(path, "r+b") as file:
        file.truncate(cut)
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read_region(256, 128, 64, 64), decoded(frames[1][14]))
        for number in (15, 19):
            with pytest.raises(ReadError, match=f"the file ends at byte {cut}"):
                slide.encoded_tile(0, number % 5, number // 5)
            with pytest.raises(ReadError):
                slide.read_region(number % 5 * 64, number // 5 * 64, 8, 8)


def test_identity_stays_in_the_file(series):
    with open_slide(series / "a.dcm") as slide:
        assert "Doe" not in str(slide.info.to_json())


def test_headers_that_break_a_rule_are_read_without_a_warning(slides_dir):
    """A UID of 65 characters; pydicom warns of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        header = dicom_files.read_header(str(slides_dir / "dicom_malformed" / "pathml_small_dicom.dcm"))
    assert len(header.series) == 65
    assert header.kind == ""


def test_a_series_in_a_folder_is_one_slide_named_by_its_finest_level(series, tmp_path, one):
    (series / "no.dcm").write_bytes(b"")
    lonely = one(series="4.5.6")
    entries = {entry.slide_id: Path(entry.path) for entry in collect([tmp_path])}
    assert entries == {
        "series__m": series / "m.dcm",
        "series__no": series / "no.dcm",
        f"{lonely.parent.name}__slide": lonely,
    }


def test_files_of_a_series_given_one_by_one_are_one_slide_and_a_single_file_is_a_slide(series):
    assert [entry.slide_id for entry in collect(sorted(series.iterdir()))] == ["m"]
    assert [entry.slide_id for entry in collect([series / "z.dcm"])] == ["z"]


def test_files_that_are_not_a_slide_are_all_kept_and_each_is_reported(slides_dir):
    entries = collect([slides_dir / "dicom_malformed"])
    assert len(entries) == 5 - 2  # two come with the level of their series
