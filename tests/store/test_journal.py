"""Intermediate results stored in pieces next to a table, on a disk and at a URL."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr

from wsikit.captions import Caption
from wsikit.errors import ModelError
from wsikit.geometry import PatchGrid
from wsikit.inference.caption import caption
from wsikit.inference.caption_columns import read_captions
from wsikit.slides.store import SlideStore
from wsikit.store.journal import Journal
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable
from wsikit.tiling.tile import tile


@pytest.fixture
def table(tmp_path: Path) -> PatchTable:
    grid = PatchGrid((1000, 1000), (0.5, 0.5), 100, 0.5)
    return PatchTable.create(tmp_path / "t", grid, grid.all_coords()[:7], Receipt("patches", 1))


def test_records_are_read_back_in_order_by_the_next_run(table: PatchTable) -> None:
    assert Journal(table, "a").read() == []
    for number in range(3):
        Journal(table, "a").add([{"row": 2 * number}, {"row": 2 * number + 1}])
    Journal(table, "b").add([{"row": 99}])
    Journal(table, "b").add([])
    assert [record["row"] for record in Journal(table, "a").read()] == [0, 1, 2, 3, 4, 5]


def test_a_journal_is_not_a_column_and_is_valid_zarr(table: PatchTable) -> None:
    Journal(table, "a").add([{"row": 1}])
    assert table.stored_columns() == ["coords"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = dict(zarr.open_group(table.folder, mode="r").members(max_depth=None))
    assert "journals/a" in found


def test_clearing_keeps_files_that_wsikit_did_not_write(table: PatchTable) -> None:
    one, two = Journal(table, "a"), Journal(table, "b")
    one.add([{"row": 1}])
    two.add([{"row": 2}])
    other = one.folder.parent / "notes" / "zarr.json"
    other.parent.mkdir()
    other.write_text("{}")
    one.clear_others()
    assert (one.read(), two.read()) == ([{"row": 1}], [])
    one.clear()
    one.clear()
    assert one.read() == []
    assert other.is_file()


def test_another_choice_of_patches_removes_the_journal(table: PatchTable) -> None:
    Journal(table, "a").add([{"row": 1}])
    PatchTable.create(table.folder, table.grid, table.grid.all_coords()[:3], Receipt("patches", 2))
    assert Journal(table, "a").read() == []


class Breaking:
    """Breaks off after some patches."""

    name, fact_names, batch = "breaking", (), 5

    def __init__(self, most: int) -> None:
        self.left, self.asked = most, 0

    def fingerprint(self) -> dict[str, str]:
        return {"captioner": self.name}

    def caption(self, images: np.ndarray, *, mpp: float) -> list[Caption]:
        if self.left < len(images):
            raise ModelError("broken off")
        self.left -= len(images)
        self.asked += len(images)
        return [Caption(f"Neuropil {n}.") for n in range(len(images))]


def test_interrupted_captions_in_a_remote_store_are_continued(slide_path: Path, remote: str) -> None:
    tile(slide_path, f"{remote}/s.zarr")
    store = SlideStore(f"{remote}/s.zarr")
    with pytest.raises(ModelError):
        caption(store, captioner=Breaking(10))
    last = Breaking(1000)
    found = read_captions(caption(store, captioner=last))
    assert last.asked == len(found.texts) - 10
    assert all(found.texts)
