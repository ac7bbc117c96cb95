"""NDPI read by its restart intervals: pixels, tiles that decode alone, damage, and files read by OpenSlide."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from wsikit.errors import ReadError, SlideError
from wsikit.slides import jpeg, open_slide
from wsikit.slides.formats.ndpi.reader import NdpiSlide
from wsikit.slides.registry import choose_reader

SIZES = ((640, 480), (320, 240))


def whole(slide, level: int = 0) -> np.ndarray:
    return slide.read_region(0, 0, *slide.level_dimensions[level], level=level)


def decoded(stream: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(stream)).convert("RGB"))


@pytest.fixture
def images(texture, ndpi_image) -> Callable[..., list[dict]]:
    """images(columns=…, subsampling=…): two levels, a macro and a map."""

    def make(columns: int = 1, subsampling: str = "4:4:4") -> list[dict]:
        mcu = 8 if subsampling == "4:4:4" else 16
        levels = [
            ndpi_image(
                texture(width, height, level),
                blocks=width // mcu // columns,
                subsampling=subsampling,
                lens=40 / 2**level,
            )
            for level, (width, height) in enumerate(SIZES)
        ]
        return [
            *levels,
            ndpi_image(texture(64, 48, 7), blocks=0, lens=-1),
            ndpi_image(texture(64, 48, 8), blocks=0, lens=-2),
        ]

    return make


@pytest.fixture
def path(tmp_path, images, write_ndpi) -> Path:
    """An NDPI whose intervals are a quarter of a row wide."""
    return write_ndpi(tmp_path / "slide.ndpi", images(columns=4))


def test_every_tile_of_a_real_ndpi_decodes_alone_to_the_readers_pixels(slides_dir):
    with open_slide(slides_dir / "test3-DAPI-2-387.ndpi") as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            source = slide.tile_source(level)
            assert source.rewrapped
            tile_width, tile_height = source.tile_px
            for row in range(-(-height // tile_height)):
                for column in range(-(-width // tile_width)):
                    tile = jpeg.self_contained(slide.encoded_tile(level, column, row), source.tables, rgb=source.rgb)
                    pixels = decoded(tile)
                    assert pixels.shape == (tile_height, tile_width, 3)
                    box = (column * tile_width, row * tile_height, tile_width, tile_height)
                    shown = slide.read_box(level, box)
                    inside = np.s_[: height - box[1], : width - box[0]]
                    np.testing.assert_array_equal(pixels[inside], shown[inside])


def test_a_tiles_coefficients_are_the_files_own_bytes(slides_dir):
    path = slides_dir / "test3-DAPI-2-387.ndpi"
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        for number in (0, 33, 607):
            tiff.filehandle.seek(page.dataoffsets[number])
            coded = tiff.filehandle.read(page.databytecounts[number])[:-2]
            assert coded in slide.encoded_tile(0, 0, number // 32)


@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2"])
def test_level_0_is_openslides_whatever_the_width_of_an_interval(tmp_path, images, columns, subsampling, write_ndpi):
    made = images(columns, subsampling)
    path = write_ndpi(tmp_path / "slide.ndpi", made)
    with open_slide(path) as slide, openslide.OpenSlide(path) as truth:
        assert slide.info.reader == "ndpi"
        assert slide.tile_px(0) == (640 // columns, 256)
        np.testing.assert_array_equal(whole(slide), np.asarray(truth.read_region((0, 0), 0, SIZES[0]))[..., :3])
        if columns == 1:
            for level in range(2):
                np.testing.assert_array_equal(whole(slide, level), decoded(made[level]["stream"]))


def test_with_subsampled_chroma_only_edges_of_tiles_differ_from_a_decode_of_the_level(tmp_path, images, write_ndpi):
    made = images(1, "4:2:0")
    with open_slide(write_ndpi(tmp_path / "slide.ndpi", made)) as slide:
        differ = np.flatnonzero((whole(slide) != decoded(made[0]["stream"])).any(axis=(1, 2)))
        assert set(differ.tolist()) <= {255, 256, 479}


def test_the_levels_are_the_images_of_the_slide_and_no_others(path, images):
    made = images(4)
    with open_slide(path) as slide:
        info = slide.info
        assert info.level_dimensions == SIZES
        assert info.mpp == pytest.approx((0.25, 0.25), rel=1e-6)
        assert (info.vendor, info.mpp_source, info.magnification) == ("hamamatsu", "TIFF XResolution", 40.0)
        assert info.associated == ("macro",)
        np.testing.assert_array_equal(slide.associated("macro"), decoded(made[2]["stream"]))
        assert "SN12345" not in str(info.to_json())


def test_of_several_focal_planes_the_one_in_the_middle_is_read(tmp_path, texture, images, ndpi_image, write_ndpi):
    others = [ndpi_image(texture(640, 480, 20 + z), blocks=20, depth=z) for z in (-5, 5)]
    made = images(4)
    path = write_ndpi(tmp_path / "slide.ndpi", [others[0], made[0], others[1], made[1]])
    with open_slide(path) as slide:
        assert slide.level_dimensions == SIZES
        np.testing.assert_array_equal(whole(slide), decoded(made[0]["stream"]))


def test_offsets_beyond_4_gb_and_any_file_name(tmp_path, images, write_ndpi):
    made = images(4)
    path = write_ndpi(tmp_path / "slide.tif", made, first_byte=(1 << 32) + 100)  # a hole in the file: takes no room
    with open_slide(path) as slide:
        assert slide.info.reader == "ndpi"
        np.testing.assert_array_equal(whole(slide), decoded(made[0]["stream"]))


def test_an_image_too_large_for_a_jpeg_header_states_no_size_there(tmp_path, images, write_ndpi):
    made = images(4)
    truth = decoded(made[0]["stream"])
    frame = made[0]["stream"].index(b"\xff\xc0")
    made[0]["stream"] = made[0]["stream"][: frame + 5] + bytes(4) + made[0]["stream"][frame + 9 :]
    with open_slide(write_ndpi(tmp_path / "slide.ndpi", made)) as slide:
        np.testing.assert_array_equal(whole(slide), truth)


def test_a_small_level_without_restart_markers_is_one_tile(tmp_path, images, texture, ndpi_image, write_ndpi):
    made = [images(4)[0], ndpi_image(texture(320, 240, 1), blocks=0, lens=20)]
    with open_slide(write_ndpi(tmp_path / "slide.ndpi", made)) as slide:
        source = slide.tile_source(1)
        assert (source.tile_px, source.rewrapped) == ((320, 240), False)
        assert slide.encoded_tile(1, 0, 0) == made[1]["stream"]
        np.testing.assert_array_equal(whole(slide, 1), decoded(made[1]["stream"]))


@pytest.mark.parametrize(("height", "blocks"), [(480, 23), (80, 27)])  # of 80 MCUs; 27: as many as if a row held three
def test_intervals_that_are_not_aligned_in_columns_are_read_by_openslide(
    tmp_path, texture, ndpi_image, write_ndpi, height, blocks
):
    path = write_ndpi(tmp_path / "slide.ndpi", [ndpi_image(texture(640, height, 0), blocks=blocks)])
    assert choose_reader(str(path)) == "openslide"
    with pytest.raises(SlideError, match="cannot be divided at its restart markers"):
        NdpiSlide(str(path))


def test_very_wide_intervals_make_lower_tiles(tmp_path, texture, ndpi_image, write_ndpi):
    """A tile is decoded whole for the smallest patch in it."""
    made = [ndpi_image(np.tile(texture(500, 160, 0), (1, 128, 1)), blocks=8000)]
    with open_slide(write_ndpi(tmp_path / "slide.ndpi", made)) as slide:
        assert slide.tile_px(0) == (64000, 128)
        np.testing.assert_array_equal(
            slide.read_region(63000, 100, 900, 60), decoded(made[0]["stream"])[100:160, 63000:63900]
        )


def damage(path: Path, start: int, change: Callable[[bytes], bytes], count: int) -> None:
    with open(path, "r+b") as file:
        file.seek(start)
        changed = change(file.read(count))
        file.seek(start)
        file.write(changed)


# what becomes of an interval, its end mark included
DAMAGE = {
    "zeros": lambda data: bytes(len(data)),
    "zeros but for its end": lambda data: bytes(len(data) - 2) + data[-2:],
    "another's end mark": lambda data: data[:-1] + bytes([0xD0 + (data[-1] - 0xD0 + 3) % 8]),
    "random bytes": lambda data: np.random.default_rng(0).bytes(len(data) - 2) + data[-2:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_interval_is_an_error_and_never_grey(path, images, kind, restart_starts):
    truth = decoded(images(4)[0]["stream"])
    starts = restart_starts(images(4)[0]["stream"])
    number = 4 * 40 + 2  # third column, in the second row of tiles
    damage(path, 12 + starts[number], DAMAGE[kind], starts[number + 1] - starts[number])
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(ReadError) as caught:
                slide.read_region(330, 300, 20, 20)
            assert caught.value.box == (320, 256, 160, 224)
        np.testing.assert_array_equal(slide.read_region(0, 256, 320, 200), truth[256:456, :320])
        np.testing.assert_array_equal(slide.read_region(0, 0, 640, 256), truth[:256])


def test_a_file_that_ends_within_a_tile_is_reported(path, images, restart_starts):
    end = 12 + restart_starts(images(4)[0]["stream"])[100] + 5
    with open_slide(path) as slide:
        with open(path, "r+b") as file:
            file.truncate(end)
        with pytest.raises(ReadError, match=f"the file ends at byte {end}, before the tile does"):
            slide.read_region(0, 0, 640, 200)


def test_threads_may_read_and_take_tiles_at_once(path, images):
    truth = decoded(images(4)[0]["stream"])
    places = [(x, y) for y in range(0, 400, 80) for x in range(0, 560, 70)] * 2
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        tiles = pool.map(lambda i: slide.encoded_tile(0, i % 4, i // 4 % 2), range(40))
        regions = list(pool.map(lambda place: slide.read_region(*place, 64, 64), places))
        assert len(set(tiles)) == 8
    for (x, y), region in zip(places, regions):
        np.testing.assert_array_equal(region, truth[y : y + 64, x : x + 64])
