"""Boxes read from tiles: the same way for a file and for a store, and few calls deep."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from wsikit.errors import ReadError
from wsikit.slides import open_slide
from wsikit.slides.formats.tiff.reader import TiffSlide
from wsikit.slides.store import SlideStore
from wsikit.store.shards import index_bytes
from wsikit.tiling.image import ImageParameters
from wsikit.tiling.tile import tile


def frames_to_bytes(read: Callable[[], object]) -> int:
    """Number of wsikit's frames on the stack when bytes are read from a file; the deepest if there are several."""
    deepest = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal deepest
        if event == "c_call" and argument is os.pread:
            depth, caller = 0, frame
            while caller is not None:
                depth += f"{os.sep}wsikit{os.sep}" in caller.f_code.co_filename
                caller = caller.f_back  # type: ignore[assignment]
            deepest = max(deepest, depth)

    sys.setprofile(profile)
    try:
        read()
    finally:
        sys.setprofile(None)
    return deepest


@pytest.fixture
def store(tmp_path: Path, pyramid: Path) -> SlideStore:
    return tile(pyramid, tmp_path / "slide.zarr")


def test_seven_calls_or_fewer_lead_from_a_region_of_a_file_to_its_bytes(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert 1 <= frames_to_bytes(lambda: slide.read_region(300, 200, 50, 50)) <= 7


def test_eight_calls_or_fewer_lead_from_a_region_of_a_store_to_its_bytes(store: SlideStore) -> None:
    store.read_region(0, 0, 1, 1)  # opens the shard
    assert 1 <= frames_to_bytes(lambda: store.read_region(300, 200, 50, 50)) <= 8


def test_a_store_without_pixels_reads_the_tiles_of_its_source(tmp_path: Path, pyramid: Path) -> None:
    with tile(pyramid, tmp_path / "slide.zarr", image=ImageParameters(pixels="none")) as store:
        with open_slide(pyramid) as slide:
            np.testing.assert_array_equal(store.read_region(300, 200, 50, 50), slide.read_region(300, 200, 50, 50))
        assert 1 <= frames_to_bytes(lambda: store.read_region(500, 400, 50, 50)) <= 7


def test_a_box_beyond_every_edge_is_the_level_on_white(pyramid: Path, levels: list[np.ndarray]) -> None:
    with open_slide(pyramid) as slide:
        pixels = slide.read_box(2, (-7, -9, 180, 150))
    expected = np.full((150, 180, 3), 255, np.uint8)
    expected[9 : 9 + 120, 7 : 7 + 160] = levels[2]
    np.testing.assert_array_equal(pixels, expected)


def test_a_tile_is_read_only_and_what_is_copied_from_it_is_not(pyramid: Path) -> None:
    with open_slide(pyramid) as slide:
        assert isinstance(slide, TiffSlide)
        with pytest.raises(ValueError, match="read-only"):
            slide.tile(0, 1, 1)[:] = 0
        slide.read_box(0, (64, 64, 64, 64))[:] = 0
        assert slide.read_box(0, (64, 64, 64, 64)).any()


def test_the_error_of_a_damaged_edge_tile_names_the_part_inside_the_level(store: SlideStore) -> None:
    form = store.level_format(0)
    assert 640 % form.tile_px[0] or 480 % form.tile_px[1], "the last tile reaches beyond the level"
    for path in (path for path in (store.folder / "0" / "c").rglob("*") if path.is_file()):
        chunks, index = path.read_bytes(), index_bytes(form.chunks_per_shard)
        path.write_bytes(bytes(len(chunks) - index) + chunks[-index:])
    with SlideStore(store.folder) as damaged, pytest.raises(ReadError) as caught:
        damaged.read_region(639, 479, 1, 1)
    x, y, width, height = caught.value.box
    assert (x + width, y + height) == (640, 480)
