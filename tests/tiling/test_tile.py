"""From slide to store: exact, resumable, nothing unreadable turned into white."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr

from wsikit.errors import ReadError, ScaleError, StoreError
from wsikit.executor import Executor
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling import plan as plan_module
from wsikit.tiling import shard as shard_module
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.plan import ImageParameters, plan_levels, plan_shards, tiles_of_shard
from wsikit.tiling.tile import tile

SMALL = ImageParameters(tile_px=64, chunks_per_shard=4, regions="all")
PATCHES = PatchParameters(mpp=0.5, patch_px=128)


def make(slide: Path, store: Path, **changes: Any) -> SlideStore:
    return tile(slide, store, **{"image": SMALL, "patch_px": 128, "executor": Executor(workers=2), **changes})


def times(store: Path, folder: str) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (store / folder).rglob("*") if path.is_file()}


def test_every_level_of_the_store_shows_the_slide(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "s.zarr")
    with open_slide(slide_path) as slide:
        for level, (width, height) in enumerate(slide.level_dimensions):
            assert store.level_dimensions[level] == (width, height)
            truth = slide.read_box(level, (0, 0, width, height)).astype(int)
            error = np.abs(store.read_box(level, (0, 0, width, height)) - truth)
            assert error.mean() < 1.5, "JPEG of quality 90 keeps the pixels, noise aside"


def test_zarr_reads_the_same_pixels_as_the_store(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "s.zarr")
    group = zarr.open_group(store.folder, mode="r")
    for level, (width, height) in enumerate(store.level_dimensions):
        array = np.asarray(group[str(level)][:]).transpose(1, 2, 0)
        assert np.array_equal(array, store.read_box(level, (0, 0, width, height)))


def test_levels_are_built_by_averaging_where_the_source_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slide_path: Path
) -> None:
    plans = plan_levels([(20_001, 3000)], ImageParameters())
    sizes = [(level.format.width, level.format.height) for level in plans]
    assert sizes == [(20_001, 3000), (5001, 750), (1251, 188)]
    assert [level.downsample for level in plans] == [(1, 1), (4, 4), (16, 16)]
    monkeypatch.setattr(plan_module, "SMALLEST_LEVEL_PX", 500)
    store = make(slide_path, tmp_path / "s.zarr")
    assert store.level_dimensions == ((1500, 1100), (750, 550), (188, 138))
    built = store.read_box(2, (0, 0, 187, 137)).astype(int)
    finer = store.read_box(1, (0, 0, 748, 548)).reshape(137, 4, 187, 4, 3).mean(axis=(1, 3))
    assert np.abs(built - finer).mean() < 2, "JPEG aside"


def test_ngff_validators_accept_the_store_and_its_label(slide_path: Path, tmp_path: Path) -> None:
    from ome_zarr_models.v05.image import Image
    from ome_zarr_models.v05.image_label import ImageLabel

    store = make(slide_path, tmp_path / "s.zarr")
    image = Image.from_zarr(zarr.open_group(store.folder, mode="r"))
    scale = image.ome_attributes.multiscales[0].datasets[1].coordinateTransformations[0].scale
    assert scale == [1.0, 1.0, 1.0], "0.5 µm/px at level 0 is 1.0 at level 1"
    ImageLabel.from_zarr(zarr.open_group(store.folder / "labels" / "tissue", mode="r"))


def test_a_store_states_its_scale_and_where_it_came_from(slide_path: Path, tmp_path: Path) -> None:
    make(slide_path, tmp_path / "s.zarr")
    store = open_slide(tmp_path / "s.zarr")
    assert isinstance(store, SlideStore)
    assert store.mpp == pytest.approx((0.5, 0.5), rel=1e-6)
    assert store.mpp_source == open_slide(slide_path).mpp_source


class InterruptedError(Exception):
    """Simulates a kill."""


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Let `count` shards be written, then break off. Returns the paths that were written."""
    original = shard_module.write_pieces
    written: list[Path] = []

    def write(path: Path, pieces: list[bytes]) -> None:
        if len(written) == count:
            raise InterruptedError
        written.append(path)
        original(path, pieces)

    monkeypatch.setattr(shard_module, "write_pieces", write)
    return written


@pytest.mark.parametrize("count", [0, 1, 7, 31])
def test_an_interrupted_store_is_not_a_store_and_is_finished_by_the_next_run(
    slide_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    contents: Callable[[Path], dict[str, str]],
) -> None:
    make(slide_path, tmp_path / "whole.zarr", slide_id="s")
    with monkeypatch.context() as patched:
        first = stop_after(count, patched)
        with pytest.raises(InterruptedError):
            make(slide_path, tmp_path / "s.zarr", executor=Executor(workers=1))
        assert len(first) == count
    with pytest.raises(StoreError, match="not a complete slide store"):
        SlideStore(tmp_path / "s.zarr")
    with monkeypatch.context() as patched:
        rest = stop_after(-1, patched)
        make(slide_path, tmp_path / "s.zarr")
    assert not set(first) & set(rest), "shards that are there are kept"
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


def test_a_truncated_shard_is_written_again(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Callable[[Path], dict[str, str]]
) -> None:
    make(slide_path, tmp_path / "whole.zarr", slide_id="s")
    with monkeypatch.context() as patched:
        first = stop_after(5, patched)
        with pytest.raises(InterruptedError):
            make(slide_path, tmp_path / "s.zarr", executor=Executor(workers=1))
    first[2].write_bytes(first[2].read_bytes()[:-10])
    make(slide_path, tmp_path / "s.zarr")
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


def test_a_second_run_writes_nothing(slide_path: Path, tmp_path: Path) -> None:
    make(slide_path, tmp_path / "s.zarr")
    before = times(tmp_path / "s.zarr", ".")
    make(slide_path, tmp_path / "s.zarr")
    assert times(tmp_path / "s.zarr", ".") == before


def test_a_changed_source_is_detected_and_everything_computed_again(
    slide_path: Path,
    tmp_path: Path,
    pixels: npt.NDArray[np.uint8],
    write_slide: Callable[..., Path],
    contents: Callable[[Path], dict[str, str]],
) -> None:
    make(slide_path, tmp_path / "s.zarr")
    write_slide(slide_path, np.ascontiguousarray(pixels[::-1]))
    again = make(slide_path, tmp_path / "s.zarr")
    fresh = make(slide_path, tmp_path / "fresh.zarr", slide_id="s")
    assert contents(again.folder) == contents(fresh.folder)


def test_a_changed_threshold_replaces_the_patches_and_keeps_the_pixels(slide_path: Path, tmp_path: Path) -> None:
    many = make(slide_path, tmp_path / "s.zarr", patch_px=128, min_tissue=0.01)
    n_many = len(many.patches())
    before = times(many.folder, "0")
    few = make(slide_path, tmp_path / "s.zarr", patch_px=128, min_tissue=0.95)
    assert len(few.patches()) < n_many
    assert times(few.folder, "0") == before


def test_a_store_holds_several_grids(slide_path: Path, tmp_path: Path) -> None:
    make(slide_path, tmp_path / "s.zarr")
    store = make(slide_path, tmp_path / "s.zarr", mpp=1.0, patch_px=64)
    assert store.grids() == ["0.5um_128px", "1um_64px"]
    with pytest.raises(StoreError, match="0.5um_128px, 1um_64px"):
        store.patches()


def test_a_folder_that_wsikit_did_not_write_is_not_changed(
    slide_path: Path, tmp_path: Path, contents: Callable[[Path], dict[str, str]]
) -> None:
    theirs = tmp_path / "s.zarr"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="not a complete slide store"):
        make(slide_path, theirs)
    zarr.create_group(tmp_path / "other.zarr", attributes={"lab": "theirs"})
    with pytest.raises(StoreError, match="did not write"):
        make(slide_path, tmp_path / "other.zarr")
    assert contents(theirs) == {"thesis.txt": hashlib.sha256(b"mine").hexdigest()}


def test_unreadable_tiles_are_recorded_and_never_white(
    slide_path: Path, tmp_path: Path, damage_tile: Callable[..., None]
) -> None:
    damage_tile(slide_path, 5, 4)  # level-0 x 640–768, y 512–640: in the disc
    store = make(slide_path, tmp_path / "s.zarr")
    assert store.unreadable_tiles[0] == [(10, 8), (10, 9), (11, 8), (11, 9)]
    with pytest.raises(ReadError, match="could not be read"):
        store.read_region(700, 600, 10, 10)
    table = store.patches()
    readable = table.read("readable")
    lost = table.coords[readable == 0]
    assert lost.tolist() == [[640, 512]], "the one patch on the damaged tile, no other"
    assert store.read_region(300, 500, 200, 100).shape == (100, 200, 3)


def test_a_slide_without_pixel_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    import tifffile

    path = tmp_path / "noscale.tiff"
    tifffile.imwrite(path, np.zeros((512, 512, 3), np.uint8), tile=(128, 128), photometric="rgb")
    with pytest.raises(ScaleError, match="--assume-mpp"):
        make(path, tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


def test_shards_and_tiles_cover_every_level_once() -> None:
    for level in plan_levels([(1500, 1100)], SMALL):
        form = level.format
        boxes = [tile.box for shard in plan_shards(level) for tile in tiles_of_shard(shard, form) if tile is not None]
        canvas = np.zeros((form.height, form.width), int)
        for x, y, width, height in boxes:
            canvas[y : y + height, x : x + width] += 1
        assert (canvas == 1).all()


def test_a_dask_cluster_writes_the_same_bytes_as_threads(
    slide_path: Path, tmp_path: Path, contents: Callable[[Path], dict[str, str]]
) -> None:
    from distributed import LocalCluster

    make(slide_path, tmp_path / "threads.zarr", slide_id="s")
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None) as cluster:
        make(slide_path, tmp_path / "cluster.zarr", slide_id="s", executor=Executor(cluster.scheduler_address))
    assert contents(tmp_path / "threads.zarr") == contents(tmp_path / "cluster.zarr")


def test_progress_reports_every_stage_and_ends_at_its_total(slide_path: Path, tmp_path: Path) -> None:
    class Listener:
        def __init__(self) -> None:
            self.stages: dict[str, list[int]] = {}

        def start(self, stage: str, total: int, unit: str) -> None:
            self.stages[stage] = [total, 0]
            self.now = stage

        def advance(self, done: int = 1) -> None:
            self.stages[self.now][1] += done

        def finish(self) -> None:
            return None

    listener = Listener()
    make(slide_path, tmp_path / "s.zarr", progress=listener)
    assert list(listener.stages) == ["pixels", "tissue", "quality"]
    total, done = listener.stages["pixels"]
    assert total == done > 1
    assert listener.stages["quality"][0] == listener.stages["quality"][1]


@pytest.fixture
def unscaled(tmp_path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """A slide that states no pixel size."""
    path = tmp_path / "unscaled.tiff"
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", metadata=None)
    return path


@pytest.mark.parametrize("way", ["option", "sidecar"])
def test_a_corrected_pixel_size_makes_the_store_again(unscaled: Path, tmp_path: Path, way: str) -> None:
    def tiled(mpp: float) -> SlideStore:
        if way == "option":
            return make(open_slide(unscaled, mpp=mpp), tmp_path / "s.zarr")
        unscaled.with_name(unscaled.name + ".json").write_text(json.dumps({"mpp": mpp}))
        return make(unscaled, tmp_path / "s.zarr")

    first = tiled(0.5)
    assert first.mpp == (0.5, 0.5)
    coarse = len(first.patches())
    kept = times(tmp_path / "s.zarr", "0")
    assert tiled(0.5).mpp == (0.5, 0.5)
    assert times(tmp_path / "s.zarr", "0") == kept, "an equal pixel size redoes nothing"
    second = tiled(0.25)
    assert second.mpp == (0.25, 0.25)
    fresh = make(open_slide(unscaled, mpp=0.25), tmp_path / "fresh.zarr")
    assert len(second.patches()) == len(fresh.patches()) < coarse
    assert second.tissue_record()["area_mm2"] == fresh.tissue_record()["area_mm2"]


def test_a_pixel_size_that_the_file_states_is_not_part_of_the_receipt(slide_path: Path, tmp_path: Path) -> None:
    store = make(slide_path, tmp_path / "s.zarr")
    assert "mpp" not in store.record["receipt"]["parameters"], "stores of before stay up to date"
    other = make(open_slide(slide_path, mpp=0.4), tmp_path / "s.zarr")
    assert other.mpp == (0.4, 0.4), "what a user gives goes before what the file states"
