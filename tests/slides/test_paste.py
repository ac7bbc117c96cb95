"""Boxes pasted from tiles of real formats, reduced or not, against pixels decoded and averaged by other libraries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from wsikit.geometry import PatchGrid
from wsikit.slides import jpeg, memory
from wsikit.slides.base import BaseSlide, SlideInfo
from wsikit.slides.paste import DecodePool, Goals, Target, paste_boxes, paste_to
from wsikit.slides.region import resample
from wsikit.slides.registry import open_slide
from wsikit.slides.tile_reader import TileReader
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.stream import iterate_patches, read_patches
from wsikit.tiling.tile import tile

CODINGS: dict[str, dict[str, Any]] = {
    "jpeg with shared tables": {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)},
    "jpeg 4:2:2": {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 1)},
    "jpeg of rgb": {"compression": "jpeg", "photometric": "rgb", "compressionargs": {"outcolorspace": "rgb"}},
    "jpeg 2000": {"compression": "jpeg2000", "photometric": "rgb"},
    "lzw": {"compression": "lzw", "photometric": "rgb"},
    "deflate": {"compression": "deflate", "photometric": "rgb"},
    "uncompressed": {"compression": None, "photometric": "rgb"},
}


@pytest.fixture(params=CODINGS)
def coded(
    request: pytest.FixtureRequest, tmp_path: Path, texture: Callable[..., Any], write_pyramid: Callable[..., Path]
) -> tuple[Path, npt.NDArray[np.uint8]]:
    """A slide of 500 × 410 px in 64-px tiles at 0.25 µm/px, and its pixels as tifffile decodes them."""
    path = write_pyramid(tmp_path / "coded.tif", [texture(500, 410, 5)], **CODINGS[request.param])
    return path, tifffile.imread(path)


@pytest.mark.parametrize("in_order", [False, True])
def test_boxes_of_every_coding_are_the_pixels_that_tifffile_decodes(
    coded: tuple[Path, npt.NDArray[np.uint8]], in_order: bool
) -> None:
    path, truth = coded
    wide = np.full((1010, 1100, 3), 255, np.uint8)
    wide[300:710, 300:800] = truth
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 200, (40, 2))
    boxes = np.column_stack([rng.integers(-90, 480, 40), np.sort(rng.integers(-90, 390, 40)), sizes])
    found = []
    for threads in (1, 2, 4):
        out = np.zeros((40, 200, 200, 3), np.uint8)
        with open_slide(path, reader="tiff") as slide, DecodePool(threads) as pool:
            assert paste_boxes(slide, 0, boxes, out, pool, in_order=in_order).all()
        found.append(out)
        for (x, y, width, height), image in zip(boxes.tolist(), out, strict=True):
            assert np.array_equal(image[:height, :width], wide[300 + y : 300 + y + height, 300 + x : 300 + x + width])


def test_twice_coarser_is_pillows_average_and_others_are_the_area_average(
    coded: tuple[Path, npt.NDArray[np.uint8]], area_average: Callable[..., npt.NDArray[np.float64]]
) -> None:
    path, truth = coded
    halved = np.asarray(Image.fromarray(truth).reduce(2))
    with open_slide(path, reader="tiff") as slide:
        for mpp, most in ((0.5, 0.5), (1.0, 0.5), (0.61, 0.6)):
            grid = PatchGrid(slide.dimensions, slide.mpp, 60, mpp)
            coords = grid.all_coords()
            coords = coords[(coords + grid.side <= slide.dimensions).all(axis=1)]
            side = 60 * mpp / 0.25
            batches = [slice(0, 3), slice(3, len(coords))]
            images = np.concatenate([batch.images for _, batch in iterate_patches(slide, grid, coords, batches)])
            for (x, y), image in zip(coords.tolist(), images, strict=True):
                exact = area_average(truth, x, y, x + side, y + side, (60, 60))
                assert np.abs(image - exact).max() <= most
                if mpp == 0.5 and x % 2 == y % 2 == 0:
                    assert np.array_equal(image, halved[y // 2 :, x // 2 :][:60, :60])


def test_patches_at_odd_places_and_edges_are_those_read_one_by_one(coded: tuple[Path, npt.NDArray[np.uint8]]) -> None:
    path, _ = coded
    rng = np.random.default_rng(4)
    coords = np.column_stack([rng.integers(-40, 470, 30), np.sort(rng.integers(-40, 390, 30))])
    with open_slide(path, reader="tiff") as slide:
        grid = PatchGrid(slide.dimensions, slide.mpp, 50, 0.5)
        for threads in (1, 2, 4):
            together = read_patches(slide, grid, coords, threads=threads, in_order=True).images
            for (x, y), image in zip(coords.tolist(), together, strict=True):
                assert np.array_equal(image, read_patches(slide, grid, np.array([[x, y]])).images[0])
                assert np.array_equal(image, slide.read_region(x, y, 50, 50, mpp=0.5))


@pytest.mark.parametrize("place", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (3.5, 7.5)])
def test_moving_by_half_a_pixel_is_the_average_of_the_neighbours_to_the_last_bit(
    place: tuple[float, float], area_average: Callable[..., npt.NDArray[np.float64]]
) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    left, top = place
    found = resample(pixels, (left, top, left + 80, top + 60), (80, 60))
    assert np.array_equal(found, np.rint(area_average(pixels, left, top, left + 80, top + 60, (80, 60))))


def test_boxes_go_to_several_arrays_and_some_are_halved(pyramid: Path, levels: list[np.ndarray]) -> None:
    boxes = np.array([[2, 4, 100, 60], [10, 8, 90, 70], [101, 9, 33, 55]])
    whole, half = np.zeros((2, 70, 90, 3), np.uint8), np.zeros((2, 30, 50, 3), np.uint8)
    goals = Goals([Target(whole), Target(half, halved=True)], np.array([1, 0, 0]), np.array([1, 0, 1]))
    with open_slide(pyramid) as slide, DecodePool(2) as pool:
        assert paste_to(slide, 0, boxes, goals, pool).all()
    assert np.array_equal(half[1], np.asarray(Image.fromarray(levels[0][4:64, 2:102]).reduce(2)))
    assert np.array_equal(whole[0], levels[0][8:78, 10:100])
    assert np.array_equal(whole[1, :55, :33], levels[0][9:64, 101:134])
    assert not half[0].any()


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7])
def test_a_damaged_jpeg_tile_is_unreadable_in_a_pass_and_never_white(
    mpp: float,
    tmp_path: Path,
    texture: Callable[..., Any],
    write_pyramid: Callable[..., Path],
    overwrite_tile: Callable[..., None],
) -> None:
    path = write_pyramid(tmp_path / "slide.tif", [texture(512, 384, 6)], **CODINGS["jpeg with shared tables"])
    with open_slide(path) as slide:
        grid = PatchGrid(slide.dimensions, slide.mpp, 64, mpp)
        coords = grid.all_coords()
        before = read_patches(slide, grid, coords).images
    overwrite_tile(path, 8 * 2 + 3, lambda old: old[: len(old) // 2] + bytes(len(old) - len(old) // 2))
    x, y, side = coords[:, 0], coords[:, 1], grid.side[0]
    on_it = (x < 4 * 64) & (x + side > 3 * 64) & (y < 3 * 64) & (y + side > 2 * 64)
    for threads in (1, 2):
        with open_slide(path) as slide:
            batch = read_patches(slide, grid, coords, threads=threads, in_order=True)
        assert np.array_equal(batch.readable, ~on_it)
        assert not batch.images[on_it].any()
        assert np.array_equal(batch.images[~on_it], before[~on_it])


def test_a_stream_is_decoded_in_place_only_if_it_is_whole_and_of_the_expected_size() -> None:
    import simplejpeg

    pixels = np.random.default_rng(7).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    stream = simplejpeg.encode_jpeg(pixels)
    into = np.empty_like(pixels)
    assert jpeg.decode_to(stream, into)
    assert np.array_equal(into, jpeg.decode(stream))
    for other in (np.empty((64, 64, 3), np.uint8), np.empty((16, 64, 3), np.uint8), np.empty((64, 48, 3), np.uint8)):
        assert not jpeg.decode_to(stream, other)
    assert not jpeg.decode_to(stream[: len(stream) // 2], into)


def test_a_stream_smaller_than_its_tile_keeps_its_size_and_one_that_is_wider_is_refused() -> None:
    import simplejpeg

    pixels = np.random.default_rng(7).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    stream = simplejpeg.encode_jpeg(pixels)
    truth = jpeg.decode(stream)
    found = [jpeg.decode(stream, size) for size in ((300, 200), (320, 256), (512, 512))]
    others = [jpeg.decode(stream, (320, 256)) for _ in range(3)]  # must not use the memory of those before
    assert all(np.array_equal(one, truth) for one in (*found, *others))
    with pytest.raises(jpeg.JpegError, match="300×200 px where 299×512 px are expected"):
        jpeg.decode(stream, (299, 512))


def test_what_one_header_says_is_not_said_of_another() -> None:
    import simplejpeg

    pixels = np.full((16, 16, 3), 99, np.uint8)
    jfif = simplejpeg.encode_jpeg(pixels, colorsubsampling="444")
    bare = jfif[:2] + jfif[20:]  # without its JFIF segment
    assert jfif[2:4] == b"\xff\xe0"
    for _ in range(2):
        assert jpeg.ADOBE_RGB in jpeg.self_contained(bare, None, rgb=True)
        assert jpeg.ADOBE_RGB not in jpeg.self_contained(jfif, None, rgb=True)
    sampled = simplejpeg.encode_jpeg(pixels, colorsubsampling="420")
    assert jpeg.ADOBE_RGB not in jpeg.self_contained(sampled[:2] + sampled[20:], None, rgb=True)


def test_memory_is_lent_again_only_when_nothing_refers_to_it() -> None:
    shape = (300, 301, 3)
    one = memory.borrowed(shape)
    one[:] = 7
    kept = one[10:20].reshape(-1)
    place = one.ctypes.data
    del one
    others = [memory.borrowed(shape) for _ in range(3)]
    for other in others:
        other[:] = 9
    assert (kept == 7).all()
    del kept, other, others
    assert place in {array.ctypes.data for array in [memory.borrowed(shape) for _ in range(4)]}


def test_memory_that_is_kept_is_bounded() -> None:
    for side in range(300, 320):
        arrays = [memory.borrowed((side, 1024, 3)) for _ in range(60)]
        del arrays
    assert sum(raw.nbytes for free in memory._kept.values() for raw in free) <= memory.KEPT_SIZES * memory.KEPT_BYTES


def test_patches_that_are_kept_do_not_change_when_others_are_read(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        grid = PatchGrid(slide.dimensions, slide.mpp, 160, 0.25)
        coords = grid.all_coords()
        kept = [read_patches(slide, grid, coords[first : first + 3]).images[1:] for first in range(0, 9, 3)]
        copies = [images.copy() for images in kept]
        for _ in range(4):
            read_patches(slide, grid, coords[::-1][:3])
        assert all(np.array_equal(images, copy) for images, copy in zip(kept, copies, strict=True))


def test_batches_read_together_are_given_back_as_they_were_asked_for(
    pyramid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsikit.tiling import stream

    with open_slide(pyramid) as slide:
        grid = PatchGrid(slide.dimensions, slide.mpp, 64, 0.5)
        coords = grid.all_coords()
        asked = [slice(0, 3), slice(3, 3), slice(3, 5), slice(8, 12), slice(12, 40), slice(2, 4)]
        for rows_at_once in (1, 4, 1000):
            monkeypatch.setattr(stream, "GROUP_BYTES", rows_at_once * 64 * 64 * 3)
            found = list(iterate_patches(slide, grid, coords, asked))
            assert [rows for rows, _ in found] == asked
            for rows, batch in found:
                assert np.array_equal(batch.images, read_patches(slide, grid, coords[rows]).images)
                assert batch.readable.all()
                assert len(batch.readable) == len(coords[rows])


def test_tiles_of_odd_size_are_averaged_across_their_borders(levels: list[np.ndarray]) -> None:
    class OddTiles(BaseSlide, TileReader):
        reader = "odd"
        read_box = TileReader.read_box

        def __init__(self) -> None:
            TileReader.__init__(self)
            size = (640, 480)
            BaseSlide.__init__(
                self, SlideInfo("odd", "odd", "none", "tiled", size, (size,), ((1.0, 1.0),), (0.25, 0.25), "made up")
            )

        def tile_px(self, level: int) -> tuple[int, int]:
            return 75, 51

        def close(self) -> None:
            return None

        def _decode_tile(self, level: int, column: int, row: int) -> npt.NDArray[np.uint8]:
            padded = np.pad(levels[0], ((0, 51), (0, 75), (0, 0)))
            return padded[row * 51 : row * 51 + 51, column * 75 : column * 75 + 75]  # not contiguous

    slide = OddTiles()
    grid = PatchGrid(slide.dimensions, slide.mpp, 80, 0.5)
    halved = np.asarray(Image.fromarray(levels[0]).reduce(2))
    coords = grid.coords([0, 1, 2], [0, 1, 1])
    for (x, y), image in zip(coords.tolist(), read_patches(slide, grid, coords).images, strict=True):
        assert np.array_equal(image, halved[y // 2 : y // 2 + 80, x // 2 : x // 2 + 80])


@pytest.mark.parametrize("pixels", ["keep", "none"])
@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.7])
def test_a_pass_over_a_store_gives_the_pixels_of_its_slide(
    pixels: Any, mpp: float, tmp_path: Path, texture: Callable[..., Any], write_pyramid: Callable[..., Path]
) -> None:
    path = write_pyramid(tmp_path / "slide.tif", [texture(512, 384, 6)], **CODINGS["jpeg with shared tables"])
    with tile(path, tmp_path / "slide.zarr", image=ImageParameters(pixels=pixels)) as store, open_slide(path) as slide:
        grid = PatchGrid(slide.dimensions, slide.mpp, 64, mpp)
        coords = grid.all_coords()
        batches = [slice(first, first + 7) for first in range(0, len(coords), 7)]
        for (_, mine), (_, truth) in zip(
            iterate_patches(store, grid, coords, batches, threads=2),
            iterate_patches(slide, grid, coords, batches, threads=1),
            strict=True,
        ):
            assert np.array_equal(mine.images, truth.images)
            assert mine.readable.all()
