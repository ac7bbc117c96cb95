"""Tiles that are fetched many at a time give the bytes that they give one by one, whatever the file holds."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from wsikit.executor import Executor
from wsikit.slides.formats.tiff.reader import TiffSlide
from wsikit.tiling import ranges
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile

Contents = Callable[[Path], dict[str, str]]
SIDE = 64
TILED: dict[str, Any] = {
    "tile": (SIDE, SIDE),
    "shape": (8 * SIDE, 9 * SIDE, 3),
    "dtype": np.uint8,
    "photometric": "ycbcr",
    "subsampling": (1, 1),
    "compression": "jpeg",
    "resolution": (2e4, 2e4),
    "resolutionunit": "CENTIMETER",
    "metadata": None,
}
IMAGE = ImageParameters(tile_px=SIDE, chunks_per_shard=4)


def encoded(number: int, quality: int = 85) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return bytes(imagecodecs.jpeg8_encode(pixels, level=quality, subsampling="444"))


def by_pillow(number: int) -> bytes:
    """Another encoder: its header has another length and other tables."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=70, subsampling=0)
    return stream.getvalue()


def write(path: Path, tiles: Iterator[bytes]) -> Path:
    tifffile.imwrite(path, tiles, **TILED)
    return path


def one_encoder(path: Path) -> Path:
    return write(path, (encoded(number) for number in range(72)))


def several_encoders(path: Path) -> Path:
    """Three headers in turns, in another order from row to row."""
    kinds = (encoded, by_pillow, lambda number: encoded(number, 40))
    return write(path, (kinds[number * 7 % 3](number) for number in range(72)))


def damaged(path: Path) -> Path:
    """Tiles that are missing, lost, cut off, without an end, of another size, and not JPEG."""
    one_encoder(path)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0].aspage()
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        with open(path, "r+b") as file:
            file.seek(offsets[20] + counts[20] - 2)
            file.write(b"\0\0\0"[:2])
            file.seek(offsets[30])
            file.write(b"\0\0\0\0")
            file.seek(0, 2)
            offsets[40], counts[40] = file.tell(), file.write(encoded(40) + b"\0")  # padded to even length
            small = bytes(imagecodecs.jpeg8_encode(np.zeros((32, 32, 3), np.uint8)))
            offsets[41], counts[41] = file.tell(), file.write(small)
            offsets[50], offsets[51] = offsets[51], offsets[50]
            counts[50], counts[51] = counts[51], counts[50]
            offsets[52], counts[52] = offsets[53], counts[53]  # one place for two tiles
            end = file.tell()
        offsets[10] = counts[10] = 0
        counts[11] = 1
        offsets[60], counts[60] = end - 10, 4000
        offsets[61], counts[61] = end + 100, 10
        counts[62] = 2**31
        page.tags["TileOffsets"].overwrite(offsets)
        page.tags["TileByteCounts"].overwrite(counts)
    return path


def restarted(path: Path) -> Path:
    """The tiles of a row far from one another."""
    tiles = [encoded(number) for number in range(72)]
    write(path, iter(tiles))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0].aspage()
        offsets = []
        with open(path, "r+b") as file:
            file.seek(0, 2)
            for stored in reversed(tiles):
                file.write(bytes(ranges._GAP_BYTES + 1))
                offsets.append(file.tell())
                file.write(stored)
        page.tags["TileOffsets"].overwrite(offsets[::-1])
    return path


@pytest.mark.parametrize("make", [one_encoder, several_encoders, damaged, restarted])
def test_the_store_is_that_of_tiles_one_by_one(
    tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    slide = make(tmp_path / "s.tiff")
    fast = tile(slide, tmp_path / "a" / "s.zarr", image=IMAGE, patch_px=128)
    with monkeypatch.context() as patched:
        patched.delattr(TiffSlide, "tile_ranges")
        slow = tile(slide, tmp_path / "b" / "s.zarr", image=IMAGE, patch_px=128)
    assert fast.level_record(0)["source_level"] == 0
    assert contents(fast.folder) == contents(slow.folder)
    if make is damaged:
        record = fast.level_record(0)
        assert (record["missing_tiles"], len(record["unreadable_tiles"])) == (1, 7)


def test_whole_shards_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = several_encoders(tmp_path / "s.tiff")

    def refuse(*_: Any) -> Any:
        raise AssertionError("a tile was fetched alone")

    monkeypatch.setattr(TiffSlide, "encoded_tile", refuse)
    monkeypatch.setattr(TiffSlide, "encoded_row", refuse)
    assert tile(slide, tmp_path / "s.zarr", image=IMAGE, patch_px=128).record["lossless"]


@pytest.mark.parametrize("block_bytes", [1, 20_000])
def test_buffers_of_any_size_give_the_same_store(
    tmp_path: Path, contents: Contents, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    slide = one_encoder(tmp_path / "s.tiff")
    whole = tile(slide, tmp_path / "a" / "s.zarr", image=IMAGE, patch_px=128)
    monkeypatch.setattr(ranges, "_BLOCK_BYTES", max(block_bytes, len(encoded(0)) * 2))
    assert contents(tile(slide, tmp_path / "b" / "s.zarr", image=IMAGE, patch_px=128).folder) == contents(whole.folder)


def test_one_thread_and_four_write_the_same_store(tmp_path: Path, contents: Contents) -> None:
    slide = several_encoders(tmp_path / "s.tiff")
    image = replace(IMAGE, chunks_per_shard=2)
    one, four = (
        tile(slide, tmp_path / str(workers) / "s.zarr", image=image, patch_px=128, executor=Executor(workers=workers))
        for workers in (1, 4)
    )
    assert contents(one.folder) == contents(four.folder)


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    peaks = []
    for times in (1, 6):
        slide = tmp_path / f"{times}.tiff"
        tiles = [encoded(number, 98) for number in range(16)]
        options = TILED | {"shape": (4 * SIDE, 8 * times * SIDE, 3)}
        tifffile.imwrite(slide, (tiles[number % 16] for number in range(4 * 8 * times)), **options)
        shard_bytes = sum(map(len, tiles))
        peaks.append(peak_of_pixels(slide, tmp_path / f"{times}.zarr", IMAGE))
        assert peaks[-1] < 4 * shard_bytes
    assert peaks[1] < peaks[0] + shard_bytes / 4


def peak_of_pixels(slide: Path, folder: Path, image: ImageParameters) -> int:
    """Bytes that writing the pixels needs at a time, on one thread."""
    from wsikit.tiling.image import ImageSource, image_receipt, write_image

    with TiffSlide(str(slide)) as opened:
        source = ImageSource.of(opened)
        receipt = image_receipt(source, image, None)
        common: dict[str, Any] = {"slide_id": "s", "receipt": receipt, "parameters": image, "tissue": None}
        tracemalloc.start()
        try:
            write_image(source, folder, executor=Executor(workers=1), **common).close()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


# ---- the order in which files reach the disk


class Disk:
    """What was flushed, and what was renamed when. Names are relative to the store."""

    def __init__(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.flushed: set[int] = set()
        self.late: dict[str, list[str]] = {}
        """For each renamed file, the others of the store that were not yet flushed."""
        fsync, rename = os.fsync, os.replace

        def flush(descriptor: int) -> None:
            fsync(descriptor)
            self.flushed.add(os.fstat(descriptor).st_ino)

        def replaced(source: Any, target: Any) -> None:
            name = os.path.relpath(target, store)
            self.late[name] = [
                path.relative_to(store).as_posix()
                for path in store.rglob("*")
                if path.is_file() and path.stat().st_ino not in self.flushed and "wsikit-plan" not in path.parts
            ]
            rename(source, target)

        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "replace", replaced)


def test_the_root_gets_its_name_when_all_else_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = one_encoder(tmp_path / "s.tiff")
    disk = Disk(tmp_path / "s.zarr", monkeypatch)
    peak_of_pixels(slide, tmp_path / "s.zarr", replace(IMAGE, chunks_per_shard=2))
    assert disk.late["zarr.json"] == []
    assert disk.late["0/c/0/3/4"], "shards are written before they are flushed"


def test_a_repaired_level_is_complete_when_its_shards_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, folder = one_encoder(tmp_path / "s.tiff"), tmp_path / "s.zarr"
    peak_of_pixels(slide, folder, IMAGE)
    (folder / "0" / "c" / "0" / "1" / "1").unlink()
    disk = Disk(folder, monkeypatch)
    disk.flushed = {path.stat().st_ino for path in folder.rglob("*")}
    peak_of_pixels(slide, folder, IMAGE)
    assert [name for name in disk.late["0/zarr.json"] if "/c/" in name] == []
    assert (folder / "0" / "c" / "0" / "1" / "1").is_file()


def test_shards_of_a_killed_run_are_flushed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide, folder = one_encoder(tmp_path / "s.tiff"), tmp_path / "s.zarr"
    with monkeypatch.context() as patched:
        patched.setattr("wsikit.tiling.zarr_metadata.write_root", stop)
        with pytest.raises(KeyboardInterrupt):
            peak_of_pixels(slide, folder, IMAGE)
    disk = Disk(folder, monkeypatch)
    peak_of_pixels(slide, folder, IMAGE)
    assert disk.late["zarr.json"] == []


def test_what_a_power_cut_left_without_content_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents
) -> None:
    slide, folder = one_encoder(tmp_path / "s.tiff"), tmp_path / "s.zarr"
    peak_of_pixels(slide, tmp_path / "whole.zarr", IMAGE)
    with monkeypatch.context() as patched:
        patched.setattr("wsikit.tiling.zarr_metadata.write_root", stop)
        with pytest.raises(KeyboardInterrupt):
            peak_of_pixels(slide, folder, IMAGE)
    shards = sorted(path for path in (folder / "0" / "c").rglob("*") if path.is_file())
    os.truncate(shards[0], 0)
    os.truncate(shards[1], shards[1].stat().st_size - 1)
    shards[2].write_bytes(bytes(shards[2].stat().st_size))
    os.truncate(folder / "0" / "zarr.json", 0)
    peak_of_pixels(slide, folder, IMAGE)
    assert contents(folder) == contents(tmp_path / "whole.zarr")


def test_an_emptied_plan_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents) -> None:
    slide, folder = one_encoder(tmp_path / "s.tiff"), tmp_path / "s.zarr"
    peak_of_pixels(slide, tmp_path / "whole.zarr", IMAGE)
    with monkeypatch.context() as patched:
        patched.setattr("wsikit.tiling.zarr_metadata.write_root", stop)
        with pytest.raises(KeyboardInterrupt):
            peak_of_pixels(slide, folder, IMAGE)
    os.truncate(folder / "wsikit-plan" / "plan.json", 0)
    (folder / "0" / "c" / "0" / "7").mkdir()
    (folder / "0" / "c" / "0" / "7" / "7").write_bytes(b"of another plan")
    peak_of_pixels(slide, folder, IMAGE)
    assert contents(folder) == contents(tmp_path / "whole.zarr")


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt
