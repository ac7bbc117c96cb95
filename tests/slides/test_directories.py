"""The chain of TIFF directories is followed with a bound, by its offsets alone."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import tifffile

from wsikit.errors import SlideError
from wsikit.slides import open_slide
from wsikit.slides.formats.tiff import directories
from wsikit.slides.formats.tiff.directories import chain_fault, check_directories, check_tile_bytes

PIXELS = np.zeros((32, 32), np.uint8)


def visited(path, monkeypatch) -> list[int]:
    """The offsets of the directories that are followed in a file."""
    seen: list[int] = []

    def record(first, following):
        return chain_fault(first, lambda offset: seen.append(offset) or following(offset))

    monkeypatch.setattr(directories, "chain_fault", record)
    check_directories(str(path))
    return seen


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"bigtiff": True, "byteorder": ">"}])
def test_every_directory_is_visited_once(tmp_path, monkeypatch, options):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, **options) as writer:
        for _ in range(5):
            writer.write(PIXELS, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        assert visited(path, monkeypatch) == [page.offset for page in tiff.pages]


def test_the_wider_offsets_of_an_ndpi_are_followed(tmp_path, texture, ndpi_image, write_ndpi, monkeypatch):
    path = tmp_path / "a.ndpi"
    write_ndpi(path, [ndpi_image(texture(256, 128, seed), blocks=8) for seed in (1, 2)])
    with tifffile.TiffFile(path, is_ndpi=True) as tiff:
        assert visited(path, monkeypatch) == [page.offset for page in tiff.pages]


def test_a_chain_that_returns_is_named_with_its_numbers():
    following = {8: 100, 100: 300, 300: 100}.__getitem__
    assert chain_fault(8, following) == "directory 3 is followed by directory 2 again, without end"
    assert chain_fault(8, lambda offset: offset) == "directory 1 is followed by directory 1 again, without end"


def test_a_chain_without_repetition_is_bounded_too():
    count = itertools.count(1000)
    assert "more than 100000 directories" in (chain_fault(8, lambda _: next(count)) or "")


def test_files_that_are_no_tiff_or_end_early_pass(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"no TIFF")
    (tmp_path / "b.tif").write_bytes(b"II*\0\x08\0\0\0\xff\xff" + bytes(20))
    for path in tmp_path.iterdir():
        check_directories(str(path))


def test_an_offset_beyond_every_file_is_the_end(tmp_path, texture):
    """A converter that copies the tags of an NDPI into a plain TIFF makes the next four bytes a part of the offset."""
    path = tmp_path / "a.tif"
    tags = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True)]
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "compression": "jpeg"}
    tifffile.imwrite(path, texture(128, 128, 1), extratags=tags, **options)
    check_directories(str(path))
    with pytest.raises(SlideError, match="damaged"):
        open_slide(path)


def big_tiff(entries: list[tuple[int, int, int, int]], size: int) -> bytes:
    """A BigTIFF of one directory, (tag, type, count, value), and zeros."""
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", len(entries))
    coded = b"".join(struct.pack("<HHQQ", *entry) for entry in entries)
    return (head + coded + bytes(8)).ljust(size, b"\0")


def test_directories_that_state_more_than_a_gigabyte_are_refused_before_any_of_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(directories, "MAX_BYTES", 100_000)
    path = tmp_path / "a.tif"
    path.write_bytes(big_tiff([(256, 4, 1, 64), (270, 2, 2**63, 200)], 90_000))
    check_directories(str(path))  # a text cannot be longer than its file
    path.write_bytes(big_tiff([(256, 4, 1, 64), (270, 2, 2**63, 200)], 110_000))
    for read in (check_directories, open_slide):
        with pytest.raises(SlideError, match="state more than 0 MB besides the pixels"):
            read(str(path))


def test_the_number_of_entries_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(directories, "MAX_ENTRIES", 40)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(5):
            writer.write(PIXELS, metadata=None)
    with pytest.raises(SlideError, match="more than 40 entries"):
        check_directories(str(path))


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
@pytest.mark.parametrize("rows", [16, 32])
def test_a_tile_that_is_larger_than_memory_should_allow_is_refused(tmp_path, monkeypatch, options, rows):
    """For OpenSlide, which takes the memory first. `rows`: byte counts outside of the entry, or within."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), rowsperstrip=rows, metadata=None, **options)
    check_tile_bytes(str(path))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages[0].tags["StripByteCounts"]
        counts.overwrite([*counts.value[:-1], 60_000])
    check_tile_bytes(str(path))  # one unreadable tile is no danger
    monkeypatch.setattr(directories, "MAX_TILE_BYTES", 50_000)
    with pytest.raises(SlideError, match="a tile of 60000 bytes in a file of"):
        check_tile_bytes(str(path))
