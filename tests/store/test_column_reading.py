"""Columns read chunk by chunk without zarr: equal to what zarr reads, and left to zarr where the layout is another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zarr

from wsikit.errors import StoreError
from wsikit.geometry import PatchGrid
from wsikit.store.column_reading import read_column
from wsikit.store.receipts import Receipt
from wsikit.store.table import ROWS_PER_CHUNK, ColumnSpec, PatchTable

GRID = PatchGrid((100_000, 100_000), (0.25, 0.25), 224, 0.5)
N = 2 * ROWS_PER_CHUNK + 88
RNG = np.random.default_rng(0)
TEXTS = ["", "neuropil", "Schwann'sche Zellen, µm²", "核", "a\0b", "x" * 70_000]

COLUMNS: dict[str, tuple[ColumnSpec, npt.NDArray[np.generic] | list[str]]] = {
    "float32": (ColumnSpec("tissue", "float32"), RNG.random(N)),
    "float32 rows": (ColumnSpec("caption_facts", "float32", 7), np.where(RNG.random((N, 7)) < 0.1, np.nan, 3.5)),
    "one entry": (ColumnSpec("single", "float64", 1), RNG.random((N, 1))),
    "uint8": (ColumnSpec("readable", "uint8"), RNG.integers(0, 2, N)),
    "bool": (ColumnSpec("flag", "bool"), RNG.random(N) < 0.5),
    "int64": (ColumnSpec("caption_source", "int64"), RNG.integers(-(2**60), 2**60, N)),
    "float16": (ColumnSpec("half", "float16"), RNG.random(N)),
    "text": (ColumnSpec("caption", "str"), [TEXTS[i] for i in RNG.integers(0, len(TEXTS) - 1, N)]),
}


@pytest.fixture
def table(tmp_path: Path) -> PatchTable:
    return PatchTable.create(tmp_path / "t", GRID, GRID.all_coords()[:N], Receipt("patches", 1))


def fill(table: PatchTable, spec: ColumnSpec, values: npt.NDArray[np.generic] | list[str]) -> None:
    for rows in table.prepare([spec], Receipt("x", 1)):
        table.write(spec.name, rows, values[rows])


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_type_of_column_reads_as_zarr_reads_it(table: PatchTable, kind: str) -> None:
    spec, values = COLUMNS[kind]
    fill(table, spec, values)
    folder = table.folder / spec.name
    truth = np.asarray(zarr.open_array(folder, mode="r")[:])
    for rows in (slice(None), slice(100, 600), slice(ROWS_PER_CHUNK, ROWS_PER_CHUNK + 1), slice(N - 5, N + 50)):
        quick = read_column(folder, truth.shape, rows)
        assert quick is not None
        assert quick.dtype == (object if spec.dtype == "str" else truth.dtype)
        np.testing.assert_array_equal(quick, truth.astype(quick.dtype)[rows])
        assert quick.flags.writeable
        np.testing.assert_array_equal(table.read(spec.name, rows), quick)
    if spec.dtype == "str":
        assert list(quick) == values[N - 5 :]
        assert {type(text) for text in quick} == {str}


def test_long_texts_and_coordinates_are_read(table: PatchTable) -> None:
    texts = [TEXTS[-1]] * 3 + ["short"] * (N - 3)
    fill(table, ColumnSpec("caption", "str"), texts)
    assert list(table.read("caption")) == texts
    np.testing.assert_array_equal(read_column(table.folder / "coords", (N, 2), slice(None)), GRID.all_coords()[:N])


def test_many_chunks_are_decoded_in_threads_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsikit.store.column_reading._CHUNKS_PER_TASK", 2)
    monkeypatch.setattr("wsikit.store.table.ROWS_PER_CHUNK", 16)
    table = PatchTable.create(tmp_path / "t", GRID, GRID.all_coords()[:N], Receipt("patches", 1))
    values = np.arange(N, dtype=np.float64)
    fill(table, ColumnSpec("number", "float64"), values)
    np.testing.assert_array_equal(read_column(table.folder / "number", (N,), slice(None)), values)


@pytest.mark.parametrize("damage", ["cut off", "of another length", "not compressed", "no text"])
@pytest.mark.parametrize("kind", ["float32 rows", "text"])
def test_a_damaged_chunk_is_never_read_as_values(table: PatchTable, kind: str, damage: str) -> None:
    import imagecodecs

    spec, values = COLUMNS[kind]
    fill(table, spec, values)
    chunk = table.folder / spec.name / "c" / ("1/0" if spec.width else "1")
    whole = chunk.read_bytes()
    content = imagecodecs.zstd_decode(whole)
    chunk.write_bytes(
        {
            "cut off": whole[:-9],
            "of another length": imagecodecs.zstd_encode(content[:-5]),
            "not compressed": bytes(content),
            "no text": imagecodecs.zstd_encode(ROWS_PER_CHUNK.to_bytes(4, "little") + b"\xff" * 90),
        }[damage]
    )
    assert read_column(table.folder / spec.name, (N, 7) if spec.width else (N,), slice(None)) is None
    with pytest.raises(StoreError, match=spec.name):
        table.read(spec.name)
    assert len(table.read(spec.name, slice(0, 10))) == 10, "the other chunks can be read"


@pytest.mark.parametrize(
    "layout",
    [
        {"compressors": None},
        {"compressors": zarr.codecs.GzipCodec()},
        {"shards": (2 * ROWS_PER_CHUNK,)},
        {"chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
    ],
    ids=["plain", "gzip", "shards", "other names", "big-endian"],
)
def test_an_array_of_another_layout_is_left_to_zarr(tmp_path: Path, layout: dict[str, object]) -> None:
    array = zarr.create_array(tmp_path / "a", shape=(N,), chunks=(ROWS_PER_CHUNK,), dtype="float32", **layout)
    array[:] = np.arange(N)
    assert read_column(tmp_path / "a", (N,), slice(None)) is None


def test_rows_in_steps_and_empty_rows_are_left_to_zarr(table: PatchTable) -> None:
    fill(table, *COLUMNS["float32"])
    folder = table.folder / "tissue"
    assert read_column(folder, (N,), slice(0, N, 2)) is None
    assert read_column(folder, (N,), slice(5, 5)) is None
    assert len(table.read("tissue", slice(0, N, 2))) == N // 2
    assert table.read("tissue", slice(5, 5)).shape == (0,)
