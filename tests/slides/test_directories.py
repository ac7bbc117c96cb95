"""The chain of TIFF directories is followed with a bound, by its offsets alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tifffile

from wsikit.errors import SlideError
from wsikit.slides import open_slide
from wsikit.slides.formats.tiff import directories
from wsikit.slides.formats.tiff.directories import chain_fault, check_directories

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
