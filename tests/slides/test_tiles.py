"""Tiles decoded once, kept while they are needed, and pasted where they belong."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.slides.paste import DecodePool, paste_boxes, plan_paste
from wsikit.slides.tile_cache import TileCache

LEVEL_PX, TILE_PX = (1000, 700), (128, 96)


def tile_of(value: int, size: int = 10) -> npt.NDArray[np.uint8]:
    return np.full((size, size, 3), value, np.uint8)


def test_a_tile_that_several_threads_request_is_made_once() -> None:
    cache, calls, all_wait = TileCache(), [], threading.Barrier(8)

    def make() -> npt.NDArray[np.uint8]:
        calls.append(1)
        threading.Event().wait(0.05)
        return tile_of(7)

    def want(keep: bool) -> int:
        all_wait.wait()
        return int(cache.get_or_make("a", make, keep=keep)[0, 0, 0])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(want, [True, False] * 4)) == [7] * 8
    assert len(calls) == 1


def test_a_failure_is_raised_by_its_thread_and_waiting_threads_try_again() -> None:
    cache, outcomes = TileCache(), iter([ValueError("first"), None])
    waiting, lock = threading.Event(), threading.Lock()

    def make() -> npt.NDArray[np.uint8]:
        with lock:
            outcome = next(outcomes)
        waiting.wait(0.1)
        if outcome is not None:
            raise outcome
        return tile_of(3)

    def want(_: int) -> str:
        try:
            return str(cache.get_or_make("a", make)[0, 0, 0])
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(want, range(2))) == ["3", "first"]
    assert cache.get("a") is not None


def test_the_cache_is_bounded_in_bytes_and_drops_the_oldest() -> None:
    cache = TileCache(max_bytes=3 * 300)
    for key in range(3):
        cache.put(key, tile_of(key))
    assert cache.get(0) is not None  # now 1 is the oldest
    cache.put(3, tile_of(3))
    assert [key for key in range(4) if cache.get(key) is None] == [1]


def test_a_tile_that_is_not_kept_leaves_the_cache_and_frees_its_memory() -> None:
    cache = TileCache(max_bytes=2 * 300)
    for key in range(2):
        cache.get_or_make(key, lambda: tile_of(1))
    cache.get_or_make(0, lambda: tile_of(9), keep=False)
    assert cache.get(0) is None
    cache.get_or_make(2, lambda: tile_of(1))
    assert cache.get(1) is not None, "there was room for it"


class Picture:
    """A level of noise in tiles; counts how often each is requested."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (*LEVEL_PX[::-1], 3), dtype=np.uint8)
        self.level_dimensions = (LEVEL_PX,)
        self.asked: list[tuple[int, int]] = []

    def tile_px(self, level: int) -> tuple[int, int]:
        return TILE_PX

    def tile(self, level: int, column: int, row: int, *, keep: bool = True) -> npt.NDArray[np.uint8]:
        self.asked.append((column, row))
        x, y = column * TILE_PX[0], row * TILE_PX[1]
        whole = np.full((TILE_PX[1], TILE_PX[0], 3), 77, np.uint8)  # padding that must not appear
        part = self.pixels[y : y + TILE_PX[1], x : x + TILE_PX[0]]
        whole[: part.shape[0], : part.shape[1]] = part
        return whole

    def box(self, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        """The truth, white outside."""
        wide = np.full((LEVEL_PX[1] + 4000, LEVEL_PX[0] + 4000, 3), 255, np.uint8)
        wide[2000 : 2000 + LEVEL_PX[1], 2000 : 2000 + LEVEL_PX[0]] = self.pixels
        return wide[2000 + y : 2000 + y + height, 2000 + x : 2000 + x + width]


@pytest.mark.parametrize("threads", [1, 3])
def test_boxes_at_any_position_are_exact_and_each_tile_is_requested_once(threads: int) -> None:
    rng = np.random.default_rng(1)
    boxes = np.column_stack([rng.integers(-300, 1300, 60), rng.integers(-300, 1000, 60), rng.integers(1, 260, (60, 2))])
    boxes[0] = (1500, 900, 50, 50)  # outside
    boxes[1] = (-80, -60, 70, 50)
    picture, out = Picture(), np.zeros((60, 260, 260, 3), np.uint8)
    with DecodePool(threads) as pool:
        assert paste_boxes(picture, 0, boxes, out, pool).all()
    for (x, y, width, height), image in zip(boxes.tolist(), out, strict=True):
        assert np.array_equal(image[:height, :width], picture.box(x, y, width, height))
    needed = {
        (column, row)
        for x, y, width, height in boxes.tolist()
        for column in range(max(x, 0) // 128, -(-min(x + width, 1000) // 128))
        for row in range(max(y, 0) // 96, -(-min(y + height, 700) // 96))
        if x < 1000 and y < 700
    }
    assert sorted(picture.asked) == sorted(needed)


def test_no_box_needs_no_tile() -> None:
    picture = Picture()
    with DecodePool() as pool:
        assert len(paste_boxes(picture, 0, np.empty((0, 4), np.int64), np.empty((0, 5, 5, 3), np.uint8), pool)) == 0
    assert picture.asked == []


def test_in_a_pass_from_the_top_only_tiles_that_reach_below_the_last_row_are_kept() -> None:
    boxes = np.array([(x, y, 100, 100) for y in (0, 100, 200, 300) for x in (0, 100, 200)])
    plan = plan_paste(boxes, LEVEL_PX, TILE_PX, in_order=True)
    assert {row for (_, row), keep in zip(plan.tiles.tolist(), plan.keep, strict=True) if keep} == {3, 4}
    plan = plan_paste(boxes, LEVEL_PX, TILE_PX, in_order=False)
    assert {row for (_, row), keep in zip(plan.tiles.tolist(), plan.keep, strict=True) if keep} == {0, 1, 3, 4}
