"""The store's pixels as TIFF: the same bytes, the same pixels, in other people's readers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide
import pytest
import tifffile
from click.testing import CliRunner

from wsikit.cli.export import command
from wsikit.errors import RequestError
from wsikit.executor import Executor
from wsikit.exporters.tiff import write_tiff
from wsikit.slides.registry import open_slide
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "her2st_C2_pyramid.tif"])
def test_a_slide_goes_through_store_and_tiff_bit_by_bit(slides_dir: Path, tmp_path: Path, name: str) -> None:
    with open_slide(slides_dir / name) as slide:
        store = tile(slide, tmp_path / "s.zarr", executor=Executor(workers=2))
        write_tiff(store, tmp_path / "back.tif")
        with open_slide(tmp_path / "back.tif") as back:
            assert back.level_dimensions == slide.level_dimensions
            assert back.mpp == pytest.approx(slide.mpp, rel=1e-6)
            for level, (width, height) in enumerate(slide.level_dimensions):
                box = (0, 0, width, height)
                assert np.array_equal(back.read_box(level, box), slide.read_box(level, box))
                assert back.encoded_tile(level, 1, 1).endswith(slide.encoded_tile(level, 1, 1)[2:])
    with openslide.OpenSlide(tmp_path / "back.tif") as other:
        region = np.asarray(other.read_region((600, 900), 0, (700, 500)).convert("RGB"))
    assert np.array_equal(region, store.read_box(0, (600, 900, 700, 500)))


def test_tiles_that_the_store_does_not_have_are_empty_tiles(tmp_path: Path) -> None:
    path = tmp_path / "sparse.tif"
    pixels = np.full((512, 512, 3), 120, np.uint8)
    tiles = iter([pixels[:256, :256], None, None, pixels[:256, :256]])
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            tiles, shape=(512, 512, 3), dtype="uint8", tile=(256, 256), compression="jpeg", photometric="rgb",
            resolution=(2e4, 2e4), resolutionunit="CENTIMETER", metadata=None,
        )  # fmt: skip
    store = tile(path, tmp_path / "s.zarr", executor=Executor(workers=1))
    assert (store.read_box(0, (256, 0, 256, 256)) == 255).all()
    write_tiff(store, tmp_path / "back.tif")
    with tifffile.TiffFile(tmp_path / "back.tif") as tiff:
        assert [count == 0 for count in tiff.pages[0].databytecounts] == [False, True, True, False]


@pytest.mark.parametrize("kind", ["jp2", "grey", "zstd", "portable"])
def test_every_kind_of_chunk_comes_back_with_the_same_pixels(
    pixels: npt.NDArray[np.uint8], slide_path: Path, tmp_path: Path, kind: str
) -> None:
    image = ImageParameters(regions="all", codec="zstd", profile="portable" if kind == "portable" else "native")
    if kind in ("jp2", "grey"):
        slide_path = tmp_path / "other.tiff"
        tifffile.imwrite(
            slide_path,
            pixels[..., 1] if kind == "grey" else pixels,
            tile=(128, 128),
            compression="jpeg" if kind == "grey" else 34712,
            photometric="minisblack" if kind == "grey" else "rgb",
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
            metadata=None,
        )
    store = tile(slide_path, tmp_path / "s.zarr", image=image, executor=Executor(workers=2))
    write_tiff(store, tmp_path / "back.tif")
    back = tifffile.imread(tmp_path / "back.tif", key=0)
    ours = store.read_box(0, (0, 0, 1500, 1100))
    assert np.array_equal(back, ours[..., 0] if kind == "grey" else ours)
    with open_slide(tmp_path / "back.tif") as again:
        assert again.level_dimensions == store.level_dimensions
        assert again.mpp == pytest.approx(store.mpp, rel=1e-6)


def test_an_ndpi_becomes_a_tiff_that_openslide_shows_alike(slides_dir: Path, tmp_path: Path) -> None:
    path = slides_dir / "test3-DAPI-2-387.ndpi"
    write_tiff(tile(path, tmp_path / "s.zarr", executor=Executor(workers=2)), tmp_path / "back.tif")
    region = ((1200, 1700), 0, (900, 800))
    with openslide.OpenSlide(path) as slide, openslide.OpenSlide(tmp_path / "back.tif") as back:
        assert np.array_equal(np.asarray(back.read_region(*region)), np.asarray(slide.read_region(*region)))


def _stored(path: Path, pixels: npt.NDArray[np.uint8], store: Path, **options: object):  # noqa: ANN202
    tifffile.imwrite(
        path, pixels, tile=(128, 128), resolution=(2e4, 2e4), resolutionunit="CENTIMETER", metadata=None, **options
    )
    return tile(path, store, image=ImageParameters(regions="all"), executor=Executor(workers=2))


@pytest.mark.parametrize("grey", [False, True])
def test_jpeg_2000_is_written_with_a_note_and_with_codec_jpeg_openslide_opens_it(
    pixels: npt.NDArray[np.uint8], tmp_path: Path, grey: bool
) -> None:
    shown = pixels[:600, :700, 1] if grey else pixels[:600, :700]
    photometric = "minisblack" if grey else "rgb"
    store = _stored(tmp_path / "s.tif", shown, tmp_path / "s.zarr", compression="jpeg2000", photometric=photometric)
    notes: list[str] = []
    write_tiff(store, tmp_path / "kept.tif", on_note=notes.append)
    assert len(notes) == 1
    for words in ("kept.tif", "level 0 is JPEG 2000", "OpenSlide refuses", "--codec jpeg"):
        assert words in notes[0]
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(tmp_path / "kept.tif")
    notes.clear()
    write_tiff(store, tmp_path / "jpeg.tif", codec="jpeg", on_note=notes.append)
    assert not notes
    with openslide.OpenSlide(tmp_path / "jpeg.tif") as slide:
        assert slide.level_dimensions == store.level_dimensions
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        found = np.asarray(slide.read_region((0, 0), 0, (700, 600)).convert("RGB")).astype(int)
    assert np.abs(found - store.read_box(0, (0, 0, 700, 600))).mean() < 2


def test_jpeg_tiles_are_kept_with_codec_jpeg_and_need_no_note(pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    store = _stored(tmp_path / "s.tif", pixels, tmp_path / "s.zarr", compression="jpeg", photometric="rgb")
    notes: list[str] = []
    write_tiff(store, tmp_path / "keep.tif", on_note=notes.append)
    write_tiff(store, tmp_path / "jpeg.tif", codec="jpeg", on_note=notes.append)
    assert not notes
    assert (tmp_path / "keep.tif").read_bytes() == (tmp_path / "jpeg.tif").read_bytes()


def test_lossless_chunks_become_jpeg_on_request(slide_path: Path, tmp_path: Path) -> None:
    image = ImageParameters(regions="all", codec="zstd")
    store = tile(slide_path, tmp_path / "s.zarr", image=image, executor=Executor(workers=2))
    write_tiff(store, tmp_path / "jpeg.tif", codec="jpeg")
    with tifffile.TiffFile(tmp_path / "jpeg.tif") as tiff:
        assert {int(page.compression) for page in tiff.pages} == {7}
        found = tiff.pages[0].asarray().astype(int)
    assert np.abs(found - store.read_box(0, (0, 0, 1500, 1100))).mean() < 2


def test_an_unknown_codec_is_refused(slide_path: Path, tmp_path: Path) -> None:
    store = tile(slide_path, tmp_path / "s.zarr", executor=Executor(workers=2))
    with pytest.raises(RequestError, match="choose keep or jpeg"):
        write_tiff(store, tmp_path / "x.tif", codec="webp")  # type: ignore[arg-type]


def test_the_command_prints_the_note_and_takes_the_codec(pixels: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    store = _stored(tmp_path / "s.tif", pixels, tmp_path / "s.zarr", compression="jpeg2000", photometric="rgb")
    arguments = [str(store.folder), "--to", "tiff", "-o", str(tmp_path / "x.tif")]
    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert "note:" in result.stderr
    assert "--codec jpeg" in result.stderr
    result = CliRunner().invoke(command, [*arguments, "--codec", "jpeg"], standalone_mode=False)
    assert result.exception is None
    assert not result.stderr
