"""`verify` finds what is wrong with a store, and nothing where all is well."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsikit.executor import Executor
from wsikit.slides.store import SlideStore
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify

SMALL = ImageParameters(tile_px=64, chunks_per_shard=4, regions="all")


@pytest.fixture
def jpeg_path(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """The slide in 128-px JPEG tiles."""
    path = tmp_path / "disc_jpeg.tiff"
    tifffile.imwrite(
        path,
        pixels,
        tile=(128, 128),
        photometric="rgb",
        compression="jpeg",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path


@pytest.fixture
def store(jpeg_path: Path, tmp_path: Path) -> SlideStore:
    return tile(jpeg_path, tmp_path / "s.zarr", image=SMALL, executor=Executor(workers=2))


def test_a_store_with_pass_through_is_intact_and_equal_to_its_source(store: SlideStore, jpeg_path: Path) -> None:
    verdict = verify(store, source=jpeg_path)
    assert verdict.problems == ()
    assert store.record["lossless"] is True
    assert verdict.chunks == verdict.compared_bytes == 12 * 9
    assert verdict.compared_pixels > 0


def test_an_encoded_store_is_intact_and_close_to_its_source(slide_path: Path, tmp_path: Path) -> None:
    store = tile(slide_path, tmp_path / "e.zarr", image=SMALL, executor=Executor(workers=2))
    assert store.record["lossless"] is False
    verdict = verify(store, source=slide_path)
    assert verdict.problems == ()
    assert verdict.compared_bytes == 0


def test_a_flipped_byte_a_missing_shard_and_a_temporary_file_are_found(store: SlideStore) -> None:
    flipped, lost = store.folder / "0/c/0/0/0", store.folder / "0/c/0/1/1"
    data = bytearray(flipped.read_bytes())
    data[500] ^= 1
    flipped.write_bytes(data)
    lost.unlink()
    (store.folder / "0/c/0/0/1.abc.partial").write_bytes(b"half")
    problems = "\n".join(verify(SlideStore(store.folder)).problems)
    assert "c/0/0/0: chunk 0 is damaged" in problems
    assert "c/0/1/1: the shard is missing" in problems
    assert "left over" in problems


def test_bytes_that_differ_from_the_source_are_found(
    store: SlideStore, jpeg_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    tifffile.imwrite(jpeg_path, pixels[::-1], tile=(128, 128), photometric="rgb", compression="jpeg")
    problems = "\n".join(verify(store, source=jpeg_path).problems)
    assert "has changed since" in problems
    assert "tiles differ from the bytes" in problems


def test_an_incomplete_column_is_found(store: SlideStore) -> None:
    table = store.patches()
    (table.folder / "readable" / "c" / "0").unlink()
    assert any("column readable is incomplete" in problem for problem in verify(store).problems)


def test_recorded_unreadable_tiles_are_not_a_problem_of_the_store(
    jpeg_path: Path, tmp_path: Path, damage_tile: Callable[..., None]
) -> None:
    damage_tile(jpeg_path, 5, 4)
    store = tile(jpeg_path, tmp_path / "d.zarr", image=SMALL, executor=Executor(workers=2))
    level = json.loads((store.folder / "0" / "zarr.json").read_text())["attributes"]["wsikit"]
    assert level["unreadable_tiles"] == [[5, 4]]
    assert verify(store).problems == ()
