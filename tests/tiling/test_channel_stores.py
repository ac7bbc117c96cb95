"""Stores of fluorescence slides: every sample of every level is kept, as an OME-Zarr of channels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr

from wsikit.errors import ReadError, StoreError
from wsikit.executor import Executor
from wsikit.slides import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling import image, plan
from wsikit.tiling.image import ImageSource, image_receipt
from wsikit.tiling.plan import ImageParameters, Planes, plan_levels
from wsikit.tiling.tile import tile
from wsikit.tiling.verify import verify

NAMES = ["DAPI", "CD3", "CD8"]
SMALL = ImageParameters(tile_px=32, chunks_per_shard=8)
"""Tiles of 64 px, 4 × 4 of them in a shard: several shards in a small slide."""


def _cells(dtype: str, height: int, width: int, seed: int = 0) -> npt.NDArray[Any]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    inside = ((x > width * 0.1) & (x < width * 0.8) & (y > height * 0.2) & (y < height * 0.9)).astype(float)
    planes = rng.normal(100, 4, (3, height, width)) + inside * rng.integers(300, 3000, (3, height, width))
    return (planes / (1 if dtype != "uint8" else 16)).clip(0, 60000).astype(dtype)


def _write(path: Path, dtype: str = "uint16") -> list[npt.NDArray[Any]]:
    """A pyramid whose levels have different content, 1 µm/px."""
    levels = [_cells(dtype, 300, 410), _cells(dtype, 150, 205, 1), _cells(dtype, 75, 102, 2)]
    options: dict[str, Any] = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack"}
    scale = {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 1.0, "PhysicalSizeYUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        described = {"axes": "CYX", "Channel": {"Name": NAMES}, **scale}
        writer.write(levels[0], subifds=2, metadata=described, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, **options)
    return levels


@pytest.mark.parametrize("profile", ["native", "portable"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.filterwarnings("ignore:Both zarr.json")
def test_every_level_is_kept_without_loss(tmp_path: Path, dtype: str, profile: str) -> None:
    path = tmp_path / "s.ome.tif"
    levels = _write(path, dtype)
    made = tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=replace(SMALL, profile=profile))
    with open_slide(path) as slide, made, tifffile.TiffFile(path) as tiff:
        assert made.info.channels == slide.info.channels
        assert made.record["lossless"] is True
        for number, level in enumerate(tiff.series[0].levels):
            samples = level.asarray()
            assert (samples == levels[number]).all()
            height, width = samples.shape[1:]
            read = made.read_channels(0, 0, width, height, level=number)
            assert read.dtype == samples.dtype
            assert (read == samples).all()
            array = zarr.open_array(tmp_path / "s.zarr" / str(number), mode="r", zarr_format=3)
            assert array.dtype == samples.dtype
            assert (array[:] == samples).all()
            shown = made.read_region(0, 0, width, height, level=number)
            assert (shown == slide.read_region(0, 0, width, height, level=number)).all()
        assert (made.read_channels(33, 40, 90, 70, channels=["CD8"])[0] == levels[0][2, 40:110, 33:123]).all()
    verdict = verify(tmp_path / "s.zarr", source=path)
    assert verdict.ok
    assert verdict.compared_pixels > 3


def test_a_chunk_has_one_channel_and_a_shard_has_all(tmp_path: Path) -> None:
    _write(tmp_path / "s.ome.tif")
    tile(tmp_path / "s.ome.tif", tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL)
    array = zarr.open_array(tmp_path / "s.zarr" / "0", mode="r")
    assert array.chunks == (1, 64, 64)
    assert array.shards == (3, 256, 256)


def test_shards_of_many_channels_are_smaller() -> None:
    sides = {}
    for count in (3, 7, 40, 100):
        form = plan_levels([(9000, 9000)], ImageParameters(), planes=Planes(count, "uint16"), fill=0)[0].format
        assert form.chunks_per_shard is not None
        raw = count * 2 * (form.tile_px[0] * form.chunks_per_shard) ** 2
        assert raw <= 128 << 20
        sides[count] = form.chunks_per_shard
    assert sides == {3: 8, 7: 4, 40: 2, 100: 1}


def test_metadata_state_names_colours_and_windows(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    store = tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64)
    found = json.loads((tmp_path / "s.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    shown = found["omero"]["channels"]
    assert [channel["label"] for channel in shown] == NAMES
    assert [channel["color"] for channel in shown] == ["0000FF", "00FF00", "FF0000"]
    for channel, known in zip(shown, store.info.channels):
        assert (channel["window"]["start"], channel["window"]["end"]) == known.window
        assert (channel["window"]["min"], channel["window"]["max"]) == (0, 65535)
    assert [axis["name"] for axis in found["multiscales"][0]["axes"]] == ["c", "y", "x"]


def test_coarser_levels_are_averages_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SMALLEST_LEVEL_PX", 100)
    samples = _cells("uint16", 300, 410)
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, samples, imagej=True, metadata={"axes": "CYX", "mode": "composite"})
    with open_slide(path, mpp=1.0) as slide:
        store = tile(slide, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL)
        assert store.level_dimensions == ((410, 300), (103, 75), (26, 19))
        padded = np.pad(samples, ((0, 0), (0, 0), (0, 2)), mode="edge").astype(float)
        expected = np.rint(padded.reshape(3, 75, 4, 103, 4).mean(axis=(2, 4)))
        assert (store.read_channels(0, 0, 103, 75, level=1) == expected).all()
        assert store.read_channels(0, 0, 26, 19, level=2).any()


def test_tissue_is_found_where_there_is_signal_and_patches_are_composites(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    store = tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64)
    assert store.tissue_record()["stain"] == "fluorescence"
    mask, _ = store.tissue()
    assert 0.3 < mask.mean() < 0.8
    table = store.patches()
    x, y = table.read("coords")[0].tolist()
    with open_slide(path) as slide:
        assert (store.read_region(x, y, 64, 64) == slide.read_region(x, y, 64, 64)).all()


def test_a_store_without_pixels_reads_channels_from_its_slide(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    levels = _write(path)
    store = tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=ImageParameters(pixels="none"))
    assert [channel.name for channel in store.info.channels] == NAMES
    assert (store.read_channels(0, 0, 410, 300) == levels[0]).all()


def test_only_tissue_on_request_leaves_out_dark_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.tiling.regions.SMALLEST_LEVEL_PX", 300)
    monkeypatch.setattr("wsikit.tiling.regions.MARGIN_UM", 8.0)
    path = tmp_path / "s.ome.tif"
    levels = _write(path)
    store = tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=replace(SMALL, regions="tissue"))
    dropped = store.level_record(0)["dropped_tiles"]
    assert 0 < dropped < 35
    read = store.read_channels(0, 0, 410, 300)
    assert not read[:, :, 390:].any()
    assert (read[:, 80:250, 60:300] == levels[0][:, 80:250, 60:300]).all()
    assert verify(tmp_path / "s.zarr", source=path).ok


def test_a_second_call_writes_nothing_and_other_windows_write_again(
    tmp_path: Path, contents: Callable[[Path], dict[str, str]]
) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL).close()
    before = contents(tmp_path / "s.zarr")
    tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL).close()
    assert contents(tmp_path / "s.zarr") == before
    with open_slide(path) as slide:
        source = ImageSource.of(slide)
        first = image_receipt(source, SMALL, None)
        changed = replace(slide.info.channels[0], window=(0.0, 9.0))
        slide._info = replace(slide.info, channels=(changed, *slide.info.channels[1:]))
        assert image_receipt(source, SMALL, None).digest != first.digest


def test_an_interrupted_run_gives_the_same_bytes(
    tmp_path: Path, contents: Callable[[Path], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    tile(path, tmp_path / "whole" / "s.zarr", mpp=1.0, patch_px=64, image=SMALL).close()
    written = []
    write = image.write_shard

    def stop(task: Any) -> Any:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(task)
        return write(task)

    again = {"mpp": 1.0, "patch_px": 64, "image": SMALL, "executor": Executor(workers=1)}
    monkeypatch.setattr(image, "write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        tile(path, tmp_path / "cut" / "s.zarr", **again)
    monkeypatch.setattr(image, "write_shard", write)
    tile(path, tmp_path / "cut" / "s.zarr", **again).close()
    assert contents(tmp_path / "cut" / "s.zarr") == contents(tmp_path / "whole" / "s.zarr")


def test_a_damaged_source_tile_is_unreadable_in_the_store(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    levels = _write(path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1].aspage()
        offset, count = page.dataoffsets[8], page.databytecounts[8]  # column 1, row 1 of CD3
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * count)
    store = tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL)
    assert store.unreadable_tiles[0] == [(1, 1)]
    with pytest.raises(ReadError):
        store.read_channels(70, 70, 10, 10)
    with pytest.raises(ReadError):
        store.read_region(70, 70, 10, 10)
    assert (store.read_channels(0, 0, 64, 64) == levels[0][:, :64, :64]).all()
    assert verify(tmp_path / "s.zarr", source=path).ok


def test_verify_finds_a_changed_sample(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL).close()
    shard = tmp_path / "s.zarr" / "0" / "c" / "0" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert not verify(tmp_path / "s.zarr").ok
    with pytest.raises(ReadError), SlideStore(tmp_path / "s.zarr") as store:
        store.read_channels(0, 0, 256, 256)


@pytest.mark.parametrize("profile", ["native", "portable"])
def test_a_lost_file_is_noticed_and_written_again(
    tmp_path: Path, contents: Callable[[Path], dict[str, str]], profile: str
) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    options: dict[str, Any] = {"mpp": 1.0, "patch_px": 64, "image": replace(SMALL, profile=profile)}
    tile(path, tmp_path / "s.zarr", **options).close()
    before = contents(tmp_path / "s.zarr")
    lost = tmp_path / "s.zarr" / "0" / ("c/0/0/1" if profile == "native" else "0/0/1")
    lost.unlink()
    with SlideStore(tmp_path / "s.zarr") as store, pytest.raises(ReadError):
        store.read_channels(0, 0, 410, 300)
    assert not verify(tmp_path / "s.zarr").ok
    tile(path, tmp_path / "s.zarr", **options).close()
    assert contents(tmp_path / "s.zarr") == before


def test_channels_that_do_not_fit_the_levels_are_one_store_error(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    _write(path)
    tile(path, tmp_path / "s.zarr", mpp=1.0, patch_px=64, image=SMALL).close()
    root = tmp_path / "s.zarr" / "zarr.json"
    record = json.loads(root.read_text())
    whole = record["attributes"]["wsikit"].pop("channels")
    for channels in ([], whole[:2], [{**whole[0], "dtype": "uint8"}, *whole[1:]], 7, [1, 2, 3], [{"name": "a"}] * 3):
        record["attributes"]["wsikit"]["channels"] = channels
        root.write_text(json.dumps(record))
        with pytest.raises(StoreError):
            SlideStore(tmp_path / "s.zarr")
