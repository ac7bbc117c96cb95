"""Patches read in numbers: the same pixels as one by one, no tile decoded twice, none that is not needed."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.errors import ReadError
from wsikit.geometry import PatchGrid
from wsikit.slides.base import BaseSlide, SlideInfo
from wsikit.slides.formats.openslide import OpenSlideSlide
from wsikit.slides.registry import open_slide
from wsikit.slides.tile_cache import DecodedTiles, TileCache
from wsikit.slides.tile_reader import TileReader
from wsikit.tiling import stream
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.stream import iterate_patches, plan_super_tiles, read_patches

SIZE, TILE = (1500, 1100), 128
BAD = (3, 2)


class CountingSlide(BaseSlide, TileReader):
    """Noise in 128-px tiles, one of which can be damaged. Counts how often each is decoded."""

    reader = "counting"
    read_box = TileReader.read_box

    def __init__(self, *, damaged: bool = False, cache: TileCache | None = None) -> None:
        TileReader.__init__(self)
        BaseSlide.__init__(
            self, SlideInfo("noise", "counting", "none", "tiled", SIZE, (SIZE,), ((1.0, 1.0),), (0.5, 0.5), "made up")
        )
        self.pixels = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
        self.decoded: Counter[tuple[int, int]] = Counter()
        self._damaged = damaged
        self._cache = cache or TileCache()

    def tile_px(self, level: int) -> tuple[int, int]:
        return TILE, TILE

    def close(self) -> None:
        return None

    def _decode_tile(self, level: int, column: int, row: int) -> npt.NDArray[np.uint8]:
        self.decoded[column, row] += 1
        if self._damaged and (column, row) == BAD:
            raise ReadError(self.path, 0, (column * TILE, row * TILE, TILE, TILE), "damaged")
        x, y = column * TILE, row * TILE
        part = self.pixels[y : y + TILE, x : x + TILE]
        return np.pad(part, ((0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)))


def all_tiles() -> set[tuple[int, int]]:
    return {(column, row) for column in range(-(-SIZE[0] // TILE)) for row in range(-(-SIZE[1] // TILE))}


@pytest.mark.parametrize("overlap", [0, 30])
@pytest.mark.parametrize("mpp", [0.5, 0.67])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_pass_over_the_slide_decodes_every_tile_once(overlap: int, mpp: float, threads: int) -> None:
    slide = CountingSlide()
    grid = PatchGrid(SIZE, slide.mpp, 112, mpp, overlap)
    coords = grid.all_coords()
    ranges = [slice(first, first + 17) for first in range(0, len(coords), 17)]
    assert sum(len(batch.images) for _, batch in iterate_patches(slide, grid, coords, ranges, threads=threads)) == len(
        coords
    )
    assert set(slide.decoded) == all_tiles()
    assert set(slide.decoded.values()) == {1}


@pytest.mark.parametrize("mpp", [0.5, 0.67])
def test_readers_side_by_side_decode_every_tile_once(mpp: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SOURCE_BYTES", 7 * 151 * 151 * 3)  # resampled by sevens
    slide = CountingSlide()
    grid = PatchGrid(SIZE, slide.mpp, 112, mpp)
    coords = grid.all_coords()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda first: read_patches(slide, grid, coords[first : first + 40]), range(0, len(coords), 40)))
    assert set(slide.decoded.values()) == {1}


def test_a_cache_of_two_rows_of_tiles_is_enough_for_a_pass() -> None:
    row = -(-SIZE[0] // TILE) * TILE * TILE * 3
    slide = CountingSlide(cache=TileCache(max_bytes=2 * row))
    grid = PatchGrid(SIZE, slide.mpp, 112, 0.5)
    coords = grid.all_coords()
    list(iterate_patches(slide, grid, coords, [slice(first, first + 30) for first in range(0, len(coords), 30)]))
    assert set(slide.decoded.values()) == {1}


def test_no_tile_is_read_that_no_patch_needs() -> None:
    slide = CountingSlide()
    grid = PatchGrid(SIZE, slide.mpp, 128, 0.5)
    read_patches(slide, grid, grid.coords([0, 1, 9, 5], [0, 0, 0, 6]))
    assert set(slide.decoded) == {(0, 0), (1, 0), (9, 0), (5, 6)}


@pytest.mark.parametrize("mpp", [0.3, 0.5, 0.61, 0.9, 1.0])
def test_patches_are_equal_with_and_without_access_to_tiles(mpp: float) -> None:
    slide = CountingSlide(damaged=True)

    class Regions(CountingSlide):
        tile_px = None  # type: ignore[assignment]  # hands out no tiles

        def read_box(self, level: int, box: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
            return slide.read_box(level, box)

    grid = PatchGrid(SIZE, slide.mpp, 112, mpp)
    assert isinstance(slide, DecodedTiles)
    assert not isinstance(Regions(), DecodedTiles)
    mine, theirs = (read_patches(one, grid, grid.all_coords()) for one in (slide, Regions()))
    assert np.array_equal(mine.readable, theirs.readable)
    assert not mine.readable.all()
    assert np.array_equal(mine.images, theirs.images)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("mpp", [0.5, 0.8])
def test_a_damaged_tile_makes_only_the_patches_on_it_unreadable(mpp: float, threads: int) -> None:
    grid = PatchGrid(SIZE, (0.5, 0.5), 100, mpp)
    coords, side = grid.all_coords(), grid.side[0]
    batch = read_patches(CountingSlide(damaged=True), grid, coords, threads=threads)
    x, y = coords[:, 0], coords[:, 1]
    left, top = BAD[0] * TILE, BAD[1] * TILE
    on_it = (x < left + TILE) & (x + side > left) & (y < top + TILE) & (y + side > top)
    assert np.array_equal(batch.readable, ~on_it)
    assert (batch.images[on_it] == 0).all()
    assert np.array_equal(batch.images[~on_it], read_patches(CountingSlide(), grid, coords).images[~on_it])


@pytest.mark.parametrize("mpp", [0.3, 0.5, 0.61, 0.9, 1.0, 1.7])
def test_a_patch_is_the_same_alone_among_others_and_as_a_region(slide_path: Path, mpp: float) -> None:
    with open_slide(slide_path) as slide:
        grid = PatchParameters(mpp, 96).grid(slide)
        coords = grid.all_coords()
        together = read_patches(slide, grid, coords, threads=2).images
        for index in range(0, len(coords), 7):
            x, y = coords[index]
            assert np.array_equal(together[index], read_patches(slide, grid, coords[index : index + 1]).images[0])
            assert np.array_equal(together[index], slide.read_region(int(x), int(y), 96, 96, mpp=mpp))


def test_patches_are_the_slides_own_pixels_where_nothing_is_resampled() -> None:
    slide = CountingSlide()
    grid = PatchGrid(SIZE, slide.mpp, 128, 0.5)
    coords = grid.all_coords()
    for (x, y), image in zip(coords, read_patches(slide, grid, coords).images, strict=True):
        part = slide.pixels[y : y + 128, x : x + 128]
        assert np.array_equal(image[: part.shape[0], : part.shape[1]], part)
        assert (image[part.shape[0] :] == 255).all()
        assert (image[:, part.shape[1] :] == 255).all()


def test_neighbours_share_a_read_and_far_boxes_do_not() -> None:
    row = np.array([(x, 0, 128, 128) for x in range(0, 768, 128)])
    assert [found.box for found in plan_super_tiles(row)] == [(0, 0, 768, 128)]
    apart = np.array([(0, 0, 128, 128), (128, 0, 128, 128), (900, 0, 128, 128), (900, 128, 128, 128)])
    found = plan_super_tiles(apart)
    assert [(one.box, one.members) for one in found] == [
        ((0, 0, 256, 128), slice(0, 2)),
        ((900, 0, 128, 128), slice(2, 3)),
        ((900, 128, 128, 128), slice(3, 4)),
    ]
    assert len(plan_super_tiles(np.array([(x, 0, 2048, 2048) for x in (0, 2048)]))) == 2, "too much for one read"
    assert plan_super_tiles(np.empty((0, 4), np.int64)) == []


def test_batches_read_ahead_are_those_read_one_by_one(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        grid = PatchParameters(0.7, 96).grid(slide)
        coords = grid.all_coords()
        ranges = [slice(first, min(first + 25, len(coords))) for first in range(0, len(coords), 25)]
        for rows, batch in iterate_patches(slide, grid, coords, ranges):
            assert np.array_equal(batch.images, read_patches(slide, grid, coords[rows]).images)


def test_an_error_while_reading_ahead_reaches_the_consumer(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        grid = PatchParameters(0.5, 128).grid(slide)
        slide.close()
        with pytest.raises(Exception, match="closed"):
            list(iterate_patches(slide, grid, grid.all_coords(), [slice(0, 4), slice(4, 8)]))


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs"])
def test_patches_of_a_real_slide_are_openslides_pixels(name: str, slides_dir: Path) -> None:
    path = slides_dir / name
    with open_slide(path, reader="tiff") as slide, OpenSlideSlide(str(path)) as reference:
        grid = PatchGrid(slide.dimensions, slide.mpp, 224, slide.mpp[0])
        coords = grid.all_coords()[30:60]
        images = read_patches(slide, grid, coords, threads=2).images
        for (x, y), image in zip(coords.tolist(), images, strict=True):
            assert np.array_equal(image, reference.read_region(x, y, 224, 224))
