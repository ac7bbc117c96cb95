"""The patch table: whole chunks, receipts, and nothing partial taken for whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from wsikit.errors import RequestError, StoreError
from wsikit.geometry import PatchGrid
from wsikit.store.receipts import Receipt
from wsikit.store.table import ROWS_PER_CHUNK, ColumnSpec, PatchTable

N = ROWS_PER_CHUNK + 88
GRID = PatchGrid((100_000, 100_000), (0.25, 0.25), 224, 0.5)
SPEC = ColumnSpec("probability", "float32", 2, {"names": ["a", "b"]})


def receipt(**parameters: object) -> Receipt:
    return Receipt("test", 1, parameters)


@pytest.fixture
def table(tmp_path: Path) -> PatchTable:
    return PatchTable.create(tmp_path / "patches" / GRID.name, GRID, GRID.all_coords()[:N], receipt())


def fill(table: PatchTable, spec: ColumnSpec = SPEC, made_with: Receipt | None = None) -> list[slice]:
    ranges = table.prepare([spec], made_with or receipt())
    for rows in ranges:
        table.write(spec.name, rows, np.full((rows.stop - rows.start, 2), 0.5))
    return ranges


def test_a_table_gives_back_its_grid_and_coords(table: PatchTable) -> None:
    again = PatchTable(table.folder)
    assert again.grid == GRID
    assert np.array_equal(again.coords, GRID.all_coords()[:N])
    assert len(again) == N


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    table = PatchTable.create(tmp_path / "t", GRID, np.empty((0, 2), np.int64), receipt())
    assert len(table) == 0
    assert table.prepare([SPEC], receipt()) == []
    assert table.read("probability").shape == (0, 2)
    assert list(table.frame().columns) == ["x", "y", "probability:a", "probability:b"]


def test_a_column_with_a_missing_chunk_is_not_complete_and_not_read(table: PatchTable) -> None:
    first, second = table.prepare([SPEC], receipt())
    table.write("probability", first, np.ones((ROWS_PER_CHUNK, 2)))
    assert "probability" not in table.columns()
    with pytest.raises(StoreError, match="1 of 2 parts"):
        table.read("probability")
    assert table.prepare([SPEC], receipt()) == [second], "only what is missing is asked for again"


def test_a_chunk_of_only_fill_values_counts_as_written(table: PatchTable) -> None:
    for rows in table.prepare([SPEC], receipt()):
        table.write("probability", rows, np.full((rows.stop - rows.start, 2), np.nan))
    assert "probability" in table.columns()


def test_an_equal_receipt_keeps_a_column_and_another_one_replaces_it(table: PatchTable) -> None:
    fill(table)
    assert table.prepare([SPEC], receipt()) == []
    assert len(table.prepare([SPEC], receipt(threshold=0.3))) == 2
    assert "probability" not in table.columns()


def test_rows_that_one_of_several_columns_lacks_are_requested(table: PatchTable) -> None:
    fill(table)
    other = ColumnSpec("gate", "float32")
    assert table.prepare([SPEC, other], receipt()) == table.chunks()


def test_rows_that_are_not_a_whole_chunk_are_refused(table: PatchTable) -> None:
    table.prepare([SPEC], receipt())
    with pytest.raises(RequestError, match="chunk"):
        table.write("probability", slice(0, 10), np.ones((10, 2)))
    with pytest.raises(RequestError, match="shape"):
        table.write("probability", table.chunks()[0], np.ones((3, 2)))


def test_text_comes_back_as_it_was_written(table: PatchTable) -> None:
    spec = ColumnSpec("caption", "str")
    texts = [f"neuropil-like matrix, µm² № {i} <b>" for i in range(N)]
    for rows in table.prepare([spec], receipt()):
        table.write("caption", rows, texts[rows])
    assert table.read("caption").tolist() == texts
    assert table.read("caption", slice(5, 7)).tolist() == texts[5:7]


def test_zarr_alone_opens_a_column(table: PatchTable) -> None:
    fill(table)
    array = zarr.open_array(table.folder / "probability", mode="r")
    assert array.shape == (N, 2)
    assert array.attrs["names"] == ["a", "b"]


def test_a_new_choice_of_patches_removes_the_columns_of_the_old_one(table: PatchTable) -> None:
    fill(table)
    table.write_vote("mean", {"label": 0}, receipt())
    fresh = PatchTable.create(table.folder, GRID, GRID.all_coords()[:10], receipt(min_tissue=0.5))
    assert fresh.columns() == ["coords"]
    assert fresh.votes() == {}


def test_votes_are_kept_by_method_with_their_receipt(table: PatchTable) -> None:
    table.write_vote("mean", {"label": 0}, receipt())
    table.write_vote("hard", {"label": 1}, receipt(n=1))
    table.write_vote("mean", {"label": 2}, receipt(n=2))
    assert table.votes() == {"hard": {"label": 1}, "mean": {"label": 2}}
    assert table.vote_receipt("mean") == receipt(n=2)
    assert table.columns() == ["coords"]


def test_receipts_differ_by_stage_revision_parameters_and_inputs() -> None:
    base = Receipt("caption", 1, {"a": 1}, {"patches": "x"})
    others = [
        Receipt("predict", 1, {"a": 1}, {"patches": "x"}),
        Receipt("caption", 2, {"a": 1}, {"patches": "x"}),
        Receipt("caption", 1, {"a": 2}, {"patches": "x"}),
        Receipt("caption", 1, {"a": 1}, {"patches": "y"}),
    ]
    assert len({receipt.digest for receipt in [base, *others]}) == 5
    assert Receipt.from_json(base.to_json()).digest == base.digest


def test_a_frame_names_entries_by_column_and_has_units(tmp_path: Path) -> None:
    table = PatchTable.create(tmp_path / "t", GRID, GRID.all_coords()[:3], receipt())
    facts = ColumnSpec("caption_facts", "float32", 2, {"names": ["nuclei_per_mm2", "no_such_fact"]})
    tissue = ColumnSpec("tissue", "float32", attributes={"unit": "share of the patch's area"})
    for spec in (facts, tissue, SPEC):
        for rows in table.prepare([spec], receipt()):
            table.write(spec.name, rows, np.zeros((3, *([spec.width] if spec.width else []))))
    frame = table.frame()
    assert list(frame.columns) == [
        *("x", "y", "caption_facts:nuclei_per_mm2", "caption_facts:no_such_fact"),
        *("probability:a", "probability:b", "tissue"),
    ]
    assert frame.attrs["units"] == {
        "x": "level-0 px",
        "y": "level-0 px",
        "caption_facts:nuclei_per_mm2": "per mm²",
        "tissue": "share of the patch's area",
    }


def test_a_table_shows_its_grid_rows_and_columns(table: PatchTable) -> None:
    fill(table)
    assert (
        repr(table) == f"<PatchTable {str(table.folder)!r}: grid {GRID.name}, {N} patches, columns coords, probability>"
    )
    shown = table._repr_html_()
    assert "224 × 224 px at 0.5 µm/px" in shown
    assert "float32 · a, b" in shown
    assert f"{N:,}" in shown


def test_other_programs_list_the_tables_of_a_store_and_their_columns(table: PatchTable, tmp_path: Path) -> None:
    fill(table)
    zarr.create_group(tmp_path, attributes={"wsikit": {"format": 3}})
    group = zarr.open_group(tmp_path, mode="r")["patches"]
    assert isinstance(group, zarr.Group)
    assert list(group.group_keys()) == [GRID.name]
    assert set(group[GRID.name].array_keys()) == {"coords", "probability"}  # type: ignore[union-attr]


def test_a_table_of_an_older_store_is_listed_too_after_the_next_write(table: PatchTable) -> None:
    metadata = table.folder.parent / "zarr.json"
    fill(table)
    metadata.unlink()
    PatchTable(table.folder).read("probability")
    table.prepare([SPEC], receipt())
    assert not metadata.exists(), "reading and finished columns leave a store as it is"
    table.prepare([SPEC], receipt(other=1))
    assert list(zarr.open_group(table.folder.parent, mode="r").group_keys()) == [GRID.name]
    metadata.unlink()
    table.write_vote("mean", {"label": 0}, receipt())
    assert metadata.is_file()


def test_a_vote_with_cut_metadata_is_lost_and_can_be_written_again(table: PatchTable) -> None:
    table.write_vote("mean", {"label": None}, receipt())
    for path in (table.folder / "votes" / "mean" / "zarr.json", table.folder / "votes" / "zarr.json"):
        path.write_bytes(path.read_bytes()[:-30])
    assert table.votes() == {}
    table.write_vote("mean", {"label": None}, receipt())
    assert table.votes() == {"mean": {"label": None}}


def test_a_description_changes_and_values_and_receipt_stay(table: PatchTable) -> None:
    fill(table)
    made = table.receipt("probability")
    table.annotate("probability", {"shown": "Blood (Haemorrhage)"})
    assert table.attributes("probability") == {"names": ["a", "b"], "shown": "Blood (Haemorrhage)"}
    assert table.receipt("probability") == made
    assert (table.read("probability") == 0.5).all()
    for name, attributes in (("gate", {"unit": "x"}), ("probability", {"wsikit": {}})):
        with pytest.raises(StoreError, match="no column"):
            table.annotate(name, attributes)
