"""Columns computed in one pass over the patches, whichever rows each of them lacks."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.executor import Executor
from wsikit.progress import Progress, Silent
from wsikit.slides.store import SlideStore
from wsikit.store import table as table_module
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec, PatchTable
from wsikit.tiling import columns
from wsikit.tiling.columns import ColumnStage, DeviceWork, fill_columns
from wsikit.tiling.plan import ImageParameters
from wsikit.tiling.tile import tile


@dataclass(frozen=True)
class Mean:
    """Mean grey level of a patch under a name of its own."""

    name: str
    sign: int = 1

    def __call__(
        self, images: npt.NDArray[np.uint8], readable: npt.NDArray[np.bool_], mpp: float
    ) -> dict[str, npt.NDArray[np.float32]]:
        return {self.name: self.sign * images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)}


def stage(name: str, sign: int = 1) -> ColumnStage:
    receipt = Receipt(name, 1, {"sign": sign}, {})
    return ColumnStage(name, (ColumnSpec(name, "float32"),), receipt, Mean(name, sign))


class Counted(Silent):
    """Progress that keeps what it is given."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int]] = []
        self.rows: list[int] = []

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stages.append((stage, total))

    def advance(self, done: int = 1) -> None:
        self.rows.append(done)


@pytest.fixture
def store(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlideStore:
    """A store whose patch table is written in chunks of 10 rows."""
    monkeypatch.setattr(table_module, "ROWS_PER_CHUNK", 10)
    return tile(slide_path, tmp_path / "s.zarr", image=ImageParameters(tile_px=64), patch_px=96)


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many patches each read was for."""
    reads: list[int] = []
    real = columns.read_patches

    def counted(slide: SlideStore, grid: object, coords: npt.NDArray[np.int64]) -> object:
        reads.append(len(coords))
        return real(slide, grid, coords)  # type: ignore[arg-type]

    monkeypatch.setattr(columns, "read_patches", counted)
    return reads


def test_stages_that_lack_the_same_rows_share_one_read(store: SlideStore, rows_read: list[int]) -> None:
    table = store.patches()
    assert len(table) > 20
    progress = Counted()
    fill_columns(store, table, [stage("a"), stage("b", -1)], Executor(workers=2), progress)
    assert sum(rows_read) == sum(progress.rows) == len(table)
    assert progress.stages == [("a and b", len(table))]
    assert np.array_equal(table.read("a"), -table.read("b"))
    assert (table.read("a") > 0).all()


def test_after_an_interruption_each_stage_computes_the_rows_that_it_lacks(
    store: SlideStore, rows_read: list[int]
) -> None:
    table = store.patches()
    fill_columns(store, table, [stage("a")], Executor())
    whole = table.read("a")
    for chunk in (0, 2):
        (table.folder / "a" / "c" / str(chunk)).unlink()
    fill_columns(store, table, [stage("b", -1)], Executor())
    (table.folder / "b" / "c" / "1").unlink()
    kept = (table.folder / "b" / "c" / "0").stat().st_mtime_ns
    rows_read.clear()
    fill_columns(store, table, [stage("a"), stage("b", -1)], Executor())
    assert rows_read == [10, 10, 10]
    assert (table.folder / "b" / "c" / "0").stat().st_mtime_ns == kept
    assert np.array_equal(table.read("a"), whole)
    assert np.array_equal(table.read("b"), -whole)


def test_stages_that_are_complete_read_nothing(store: SlideStore, rows_read: list[int]) -> None:
    table = store.patches()
    fill_columns(store, table, [stage("a"), stage("b")], Executor())
    rows_read.clear()
    fill_columns(store, table, [stage("a"), stage("b")], Executor())
    assert rows_read == []
    fill_columns(store, table, [stage("a"), stage("b", -1)], Executor())
    assert sum(rows_read) == len(table), "a changed parameter redoes what depends on it"


def test_a_device_stage_runs_in_its_place_and_only_if_it_is_not_done(store: SlideStore, rows_read: list[int]) -> None:
    table = store.patches()
    order: list[str] = []

    def run(store: SlideStore, table: PatchTable, progress: Progress) -> None:
        assert "a" in table.columns(), "stages before it are complete"
        assert "b" not in table.columns(), "stages after it have not begun"
        order.append("device")
        for rows in table.prepare(device.specs, device.receipt):
            table.write("d", rows, np.zeros(rows.stop - rows.start))

    device = ColumnStage("d", (ColumnSpec("d", "float32"),), Receipt("d", 1), DeviceWork(run))
    assert (stage("a").where, device.where) == ("workers", "device")
    fill_columns(store, table, [stage("a"), device, stage("b")])
    assert {"a", "b", "d"} <= set(table.columns())
    fill_columns(store, table, [stage("a"), device, stage("b")])
    assert order == ["device"]


@dataclass(frozen=True)
class Meets:
    """Computes its rows only while another call does so too; may fail after some calls."""

    both: threading.Barrier
    calls: list[int]
    fails_at: int | None = None

    def __call__(
        self, images: npt.NDArray[np.uint8], readable: npt.NDArray[np.bool_], mpp: float
    ) -> dict[str, npt.NDArray[np.float32]]:
        self.calls.append(len(images))
        if self.fails_at is not None and len(self.calls) >= self.fails_at:
            raise ValueError("this part")
        if len(self.calls) <= 2:
            self.both.wait()
        return Mean("a")(images, readable, mpp)


def meeting(fails_at: int | None = None) -> tuple[ColumnStage, list[int]]:
    work = Meets(threading.Barrier(2, timeout=20), [], fails_at)
    return ColumnStage("a", (ColumnSpec("a", "float32"),), stage("a").receipt, work), work.calls


@pytest.fixture
def of_one_chunk(slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PatchTable:
    """A table of one chunk, and parts of few rows."""
    monkeypatch.setattr(columns, "_LEAST_ROWS", 2)
    return tile(slide_path, tmp_path / "one.zarr", image=ImageParameters(tile_px=64), patch_px=96).patches()


def test_the_rows_of_one_chunk_are_shared_by_all_workers(of_one_chunk: PatchTable) -> None:
    table = of_one_chunk
    assert len(table.chunks()) == 1
    store = SlideStore(table.folder.parent.parent)
    shared, calls = meeting()
    progress = Counted()
    fill_columns(store, table, [shared], Executor(workers=2), progress)
    assert len(calls) > 4
    assert sum(calls) == sum(progress.rows) == len(table)
    parts = table.read("a")
    fill_columns(store, table, [stage("b")], Executor(workers=1))
    assert np.array_equal(parts, table.read("b"))


def test_a_chunk_is_written_when_all_of_its_parts_are_there(of_one_chunk: PatchTable) -> None:
    table = of_one_chunk
    store = SlideStore(table.folder.parent.parent)
    failing, _ = meeting(fails_at=4)
    with pytest.raises(ValueError, match="this part"):
        fill_columns(store, table, [failing], Executor(workers=2))
    assert "a" not in table.columns()
    fill_columns(store, table, [stage("a")], Executor(workers=2))
    assert (table.read("a") > 0).all()


@pytest.mark.parametrize(
    ("first", "last", "at_once"), [(0, 512, 78), (512, 621, 78), (0, 5, 16), (7, 8, 1), (0, 10, 3)]
)
def test_parts_cover_a_chunk_in_order_and_are_about_equal(first: int, last: int, at_once: int) -> None:
    parts = columns._parts(slice(first, last), at_once)
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(first, last))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= at_once
    assert max(sizes) - min(sizes) <= 1
