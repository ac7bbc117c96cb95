"""CSV and Parquet of the patch table, read back by pandas, csv and pyarrow."""

from __future__ import annotations

import csv
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from wsikit.exporters import rows as module
from wsikit.exporters.rows import write_csv, write_parquet
from wsikit.results.export import export
from wsikit.tables import harmless


def test_every_row_and_value_comes_back_whatever_the_block_size(store, tmp_path, monkeypatch):
    table = store.patches()
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    write_csv(tmp_path / "t.csv", table)
    frame = pd.read_csv(tmp_path / "t.csv")
    assert len(frame) == len(table) > 7
    assert np.array_equal(frame[["x", "y"]], table.coords)
    for index, code in enumerate(("UD", "PD", "D", "other")):
        np.testing.assert_allclose(frame[f"probability:{code}"], table.read("probability")[:, index], rtol=1e-6)
    assert np.isnan(frame["gate"][0])
    assert frame["caption"][2] == "small, round\nnuclei"
    assert not [name for name in frame.columns if name.startswith("features")]


def test_no_text_of_a_csv_begins_as_a_formula(store, tmp_path):
    write_csv(tmp_path / "t.csv", store.patches())
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    place = rows[0].index("caption")
    assert rows[2][place] == '\'=HYPERLINK("http://evil")'
    assert not any(cell.startswith(("=", "@", "+", "\t")) for row in rows for cell in row)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\ufeff=1"])
def test_what_a_spreadsheet_would_run_is_disarmed(text):
    assert harmless(text) == f"'{text}"


def test_parquet_has_types_vectors_and_units(store, tmp_path, monkeypatch):
    table = store.patches()
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)
    write_parquet(tmp_path / "t.parquet", table, slide_id=store.slide_id)
    found = pq.read_table(tmp_path / "t.parquet")
    assert found.column("x").type == "int64"
    assert found.column("gate").type == "float"
    vectors = np.stack(found.column("features_uni").to_pylist()).astype(np.float16)
    assert np.array_equal(vectors, table.read("features_uni"))
    assert found.column("caption").to_pylist() == table.read("caption").tolist()
    about = json.loads(found.schema.metadata[b"wsikit"])
    assert about["slide_id"] == "disc"
    assert about["grid"] == table.grid.to_json()
    assert about["units"]["x"] == "level-0 px"


def test_a_failure_leaves_no_file(store, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module, "_read", fail)
    for to in ("csv", "parquet"):
        with pytest.raises(OSError, match="disk full"):
            export(store, to, tmp_path / f"t.{to}")
    assert not list(tmp_path.glob("t.*"))
