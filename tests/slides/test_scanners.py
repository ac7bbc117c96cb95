"""Slides of further scanners: their tiles kept, their pixel size and other images found, in OpenSlide's frame.

OpenSlide is the second decoder, opentile (where it is installed) the second source of the coded tiles.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from wsikit.errors import BrokenSlideError
from wsikit.slides import jpeg, open_slide
from wsikit.slides.formats.tiff import agreement
from wsikit.slides.registry import choose_reader

_SPEC = importlib.util.spec_from_file_location("scanner_files", Path(__file__).with_name("scanner_files.py"))
files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(files)

GRIDS: dict[str, tuple[Callable, float, float | None, set[str]]] = {
    "perkinelmer": (files.write_qptiff, 0.5, 20, {"label", "macro", "thumbnail"}),
    "huron": (files.write_huron, 0.4, None, {"label", "macro", "thumbnail"}),
    "motic": (files.write_motic, 0.26, 40, {"label", "macro", "thumbnail"}),
    "mikroscan": (files.write_mikroscan, 0.453, 20, {"label", "macro", "thumbnail"}),
    "3dhistech": (files.write_3dhistech_tiff, 0.2325, None, set()),
    "argos": (files.write_argos, 0.25, 20, {"macro", "thumbnail"}),
}
"""By vendor: how the file is written, µm/px, magnification, associated images."""


@pytest.fixture
def reduced(levels):
    """A pyramid whose levels are reductions of the finest, as a scanner writes it."""
    pixels = [levels[0]]
    for _ in range(2):
        height, width = pixels[-1].shape[:2]
        pixels.append(pixels[-1].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3)).astype(np.uint8))
    return pixels


def assert_openslide_agrees(slide, path: Path) -> None:
    with openslide.OpenSlide(path) as truth:
        assert slide.level_dimensions == truth.level_dimensions
        for level, (width, height) in enumerate(slide.level_dimensions):
            expected = np.asarray(truth.read_region((0, 0), level, (width, height)))
            expected = np.where(expected[..., 3:] == 0, 255, expected[..., :3])
            found = slide.read_box(level, (0, 0, width, height)).astype(int)
            assert np.abs(found - expected).mean() < 0.5


@pytest.mark.parametrize("vendor", GRIDS)
def test_a_grid_of_tiles_is_kept_byte_for_byte_with_the_vendors_pixel_size(tmp_path, reduced, vendor):
    write, mpp, magnification, associated = GRIDS[vendor]
    path = write(tmp_path / "slide.tif", reduced)
    with open_slide(path) as slide:
        assert (slide.info.vendor, slide.info.reader) == (vendor, "tiff")
        assert slide.mpp == pytest.approx((mpp, mpp))
        assert slide.magnification == magnification
        assert set(slide.info.associated) == associated
        assert [level.kept for level in slide.storage()] == ["bytes"] * 3
        assert_openslide_agrees(slide, path)
        source = slide.tile_source(0)
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            tiff.filehandle.seek(page.dataoffsets[11])
            stored = tiff.filehandle.read(page.databytecounts[11])
        assert slide.encoded_tile(0, 1, 1) == stored
        decoded = imagecodecs.jpeg8_decode(jpeg.self_contained(stored, source.tables, rgb=source.rgb))
        np.testing.assert_array_equal(slide.read_box(0, (64, 64, 64, 64)), decoded)


@pytest.mark.parametrize("vendor", [vendor for vendor, (*_, associated) in GRIDS.items() if "macro" in associated])
def test_the_other_images_are_those_of_their_directories(tmp_path, reduced, vendor):
    path = GRIDS[vendor][0](tmp_path / "slide.tif", reduced)
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
        pictures = {page.index: page.asarray() for page in tiff.pages if not page.is_tiled}
        order = {"argos": ["thumbnail", "macro"], "perkinelmer": ["thumbnail", "macro", "label"]}
        for (_, pixels), name in zip(sorted(pictures.items()), order.get(vendor, ["thumbnail", "label", "macro"])):
            assert slide.associated(name).shape == pixels.shape


def test_a_pixel_size_with_a_comma_or_of_another_unit_is_not_guessed(tmp_path, reduced):
    path = files.write_motic(tmp_path / "comma.tif", reduced)
    path.write_bytes(path.read_bytes().replace(b"MPP = 0.260000", b"MPP = 0,260000"))
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.26, 0.26))
    path = files.write_huron(tmp_path / "unit.tif", reduced)
    path.write_bytes(path.read_bytes().replace(b"Resolution = 0.40 um", b"Resolution = 0.40 px"))
    with open_slide(path) as slide:
        assert slide.info.mpp is None


def test_several_focal_planes_are_read_by_openslide_with_the_reason(tmp_path, reduced):
    path = files.write_argos(tmp_path / "slide.avs", reduced, planes=3)
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert "3 focal planes, of which OpenSlide reads the middle one" in slide.storage()[0].reason
        assert_openslide_agrees(slide, path)


def test_tiles_that_differ_from_openslides_pixels_are_not_trusted(tmp_path, reduced, monkeypatch):
    path = files.write_huron(tmp_path / "slide.tif", reduced)
    assert choose_reader(str(path)) == "tiff"
    real = agreement.TiffSlide.read_box
    monkeypatch.setattr(agreement.TiffSlide, "read_box", lambda *arguments: real(*arguments)[..., ::-1])
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert "differs from OpenSlide's pixels by" in slide.storage()[0].reason


def test_a_tile_that_huron_leaves_out_is_reduced_from_the_finer_level(tmp_path, reduced):
    path = files.write_huron(tmp_path / "slide.tif", reduced)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages[2]
        counts = list(page.databytecounts)
        counts[6] = 0
        page.tags[325].overwrite(counts)
    with open_slide(path) as slide:
        assert slide.info.reader == "tiff"
        assert slide.encoded_tile(1, 1, 1) is None
        found = slide.read_box(1, (64, 64, 64, 64)).astype(int)
    stored = tifffile.imread(path, key=0).astype(int)[128:256, 128:256]
    assert np.abs(found - stored.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))).mean() < 1


def test_an_scn_is_read_in_openslides_frame_and_states_why_its_tiles_are_not_kept(tmp_path, reduced):
    path = files.write_scn(tmp_path / "slide.scn", [reduced])
    area = tifffile.imread(path, key=1).astype(int)
    with open_slide(path) as slide:
        assert slide.dimensions == (2000, 1600)
        assert "not multiples of a tile" in slide.storage()[0].reason
        found = slide.read_box(0, (100, 60, 640, 480)).astype(int)
        assert np.abs(found - area).mean() < 1
        assert (slide.read_box(0, (0, 0, 100, 60)) == 255).all()


@pytest.mark.parametrize(("directory", "tag", "size"), [(1, 256, 320), (1, 257, 496), (2, 257, 64)])
def test_an_scn_whose_level_is_smaller_or_larger_than_its_metadata_state_is_refused(
    tmp_path, reduced, directory, tag, size
):
    """OpenSlide would show the rest of a smaller one as white, like glass that was not scanned."""
    path = files.write_scn(tmp_path / "slide.scn", [reduced])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[directory].tags[tag].overwrite(size)
    with pytest.raises(BrokenSlideError, match=f"directory {directory} has .*{size}.* px, where the metadata"):
        open_slide(path)


def test_an_scn_whose_macro_has_another_size_is_read(tmp_path, reduced):
    path = files.write_scn(tmp_path / "slide.scn", [reduced])
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[257].overwrite(100)
    with open_slide(path) as slide:
        assert slide.dimensions == (2000, 1600)


@pytest.mark.parametrize(("write", "vendor"), [(files.write_bif, "ventana"), (files.write_trestle, "trestle")])
def test_overlapping_tiles_are_placed_by_openslide_and_the_overlap_is_the_reason(tmp_path, levels, write, vendor):
    with open_slide(write(tmp_path / "slide.tif", levels[0][:448], overlap=8)) as slide:
        assert slide.info.vendor == vendor
        # 10 × 7 tiles of 64 px, each 8 px over the next
        assert slide.dimensions == (640 - 9 * 8, 448 - 6 * 8)
        assert "overlap" in slide.storage()[0].reason


@pytest.mark.parametrize("vendor", ["perkinelmer", "motic", "3dhistech", "argos"])
def test_opentile_hands_out_the_same_coded_tiles(tmp_path, reduced, vendor):
    opentile = pytest.importorskip("opentile", reason="opentile needs Python 3.12 or later")
    path = GRIDS[vendor][0](tmp_path / "slide.tif", reduced)
    try:
        tiler = opentile.OpenTile.open(path)
    except FileNotFoundError as error:
        pytest.skip(f"opentile needs the library libturbojpeg: {error}")
    with tiler, open_slide(path) as slide:
        theirs, source = tiler.get_level(0), slide.tile_source(0)
        for column, row in ((0, 0), (3, 2), (9, 7)):
            own = jpeg.self_contained(slide.encoded_tile(0, column, row), source.tables, rgb=source.rgb)
            tile = theirs.get_tile((column, row))
            np.testing.assert_array_equal(imagecodecs.jpeg8_decode(own), imagecodecs.jpeg8_decode(tile))
            # the coded data after the header are the same bytes
            assert own[-200:] == tile[-200:]
