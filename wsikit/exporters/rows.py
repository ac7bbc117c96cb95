"""The patch table as CSV and Parquet, streamed in blocks of rows. Coordinates are level-0 px.

In a CSV, text that a spreadsheet would run as a formula is prefixed with an apostrophe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.exporters.patch_source import FEATURES
from wsikit.store.atomic import atomic_write
from wsikit.store.table import PatchTable
from wsikit.tables import harmless

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1 << 15
"""First characters of text that LibreOffice Calc, Excel or Google Sheets interprets as a formula or command."""


@dataclass(frozen=True)
class _Field:
    """One column of the file: a column of the table, or one of its entries."""

    name: str
    column: str
    entry: int | None
    """None: the column itself, which may be a vector."""


def write_csv(path: str | os.PathLike[str], table: PatchTable) -> None:
    """Write all complete columns except feature vectors, one row per patch, atomically.

    x, y are level-0 px; columns of named entries become one column each: probability:PD. UTF-8, RFC 4180.
    """
    import pandas as pd

    fields = [field for field in _fields(table) if not _is_vector(table, field)]
    header = [harmless(name) for name in ("x", "y", *(field.name for field in fields))]
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        pd.DataFrame(columns=header).to_csv(file, index=False)
        for rows in _blocks(len(table)):
            values = _read(table, fields, rows)
            values = {name: _texts(found) if found.dtype == object else found for name, found in values.items()}
            frame = pd.DataFrame(dict(zip(header, values.values(), strict=True)))
            frame.to_csv(file, index=False, header=False)


def write_parquet(
    path: str | os.PathLike[str], table: PatchTable, *, slide_id: str, features: str | None = None
) -> None:
    """Write all complete columns as Parquet (Zstandard), atomically.

    Like the CSV, with feature vectors as fixed-size lists, in their precision; `features` names the only column of them
    that is written, None: all. The file's metadata, key "wsikit", holds as JSON the slide's id, the grid (slide size in
    px, µm/px, patch side), each column's unit, and the encoder and receipt of each column of features.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = _fields(table)
    if features is not None:
        fields = [field for field in fields if not field.name.startswith(FEATURES) or field.column == features]
    known: dict[str, str] = {}
    for column in {field.column for field in fields}:
        known.update(table.units(column))
    units = {field.name: known.get(field.name, "") for field in fields}
    about = {
        "slide_id": slide_id,
        "grid": table.grid.to_json(),
        "units": {"x": "level-0 px", "y": "level-0 px", **units},
        "features": {field.name: _made_of(table, field.name) for field in fields if field.name.startswith(FEATURES)},
    }
    schema = pa.schema(
        [("x", pa.int64()), ("y", pa.int64()), *((field.name, _arrow_type(table, field)) for field in fields)],
        metadata={"wsikit": json.dumps(about, ensure_ascii=False)},
    )
    with atomic_write(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for rows in _blocks(len(table)):
            arrays = [_arrow(values) for values in _read(table, fields, rows).values()]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _made_of(table: PatchTable, column: str) -> dict[str, Any]:
    receipt = table.receipt(column)
    return {"attributes": table.attributes(column), "receipt": receipt.to_json() if receipt else {}}


def _blocks(n_rows: int) -> Iterator[slice]:
    for first in range(0, n_rows, ROWS_AT_ONCE):
        yield slice(first, min(first + ROWS_AT_ONCE, n_rows))


def _fields(table: PatchTable) -> list[_Field]:
    fields: list[_Field] = []
    for column in table.columns():
        if column == "coords":
            continue
        names = table.attributes(column).get("names")
        if table.width(column) is None or not names:
            fields.append(_Field(column, column, None))
        else:
            fields += [_Field(f"{column}:{name}", column, index) for index, name in enumerate(names)]
    return fields


def _is_vector(table: PatchTable, field: _Field) -> bool:
    return field.entry is None and table.width(field.column) is not None


def _read(table: PatchTable, fields: list[_Field], rows: slice) -> dict[str, npt.NDArray[Any]]:
    """x, y and the fields, by name; each column is read once."""
    coords = table.read("coords", rows)
    found: dict[str, npt.NDArray[Any]] = {"x": coords[:, 0], "y": coords[:, 1]}
    columns: dict[str, npt.NDArray[Any]] = {}
    for field in fields:
        if field.column not in columns:
            columns = {field.column: table.read(field.column, rows)}  # fields of one column follow each other
        values = columns[field.column]
        found[field.name] = values if field.entry is None else values[:, field.entry]
    return found


def _texts(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray([harmless(str(value)) for value in values], dtype=object)


def _arrow_type(table: PatchTable, field: _Field) -> pa.DataType:
    import pyarrow as pa

    if table.is_text(field.column):
        return pa.string()
    plain = pa.from_numpy_dtype(table.read(field.column, slice(0, 0)).dtype)
    width = table.width(field.column)
    return pa.list_(plain, width) if field.entry is None and width is not None else plain


def _arrow(values: npt.NDArray[Any]) -> pa.Array:
    import pyarrow as pa

    if values.dtype == object:
        return pa.array([str(value) for value in values], pa.string())
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
    return pa.array(np.ascontiguousarray(values))
