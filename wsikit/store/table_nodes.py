"""The Zarr nodes of a patch table: its group, its coordinates, its columns, and the group of a store's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from wsikit.geometry import PatchGrid
from wsikit.store import ngff
from wsikit.store.atomic import read_metadata, write_json
from wsikit.store.receipts import Receipt

if TYPE_CHECKING:
    from zarr.core.array_spec import ArrayConfigParams

TABLES = "patches"
"""Group of a store that holds its patch tables."""

MARK = "wsikit"
"""Attribute of every node that wsikit writes."""

WRITE_ALL: ArrayConfigParams = {"write_empty_chunks": True}
"""A chunk that holds only the fill value is written too: its file is the record that it was computed."""


@dataclass(frozen=True)
class ColumnSpec:
    """Type of a column."""

    name: str
    dtype: str
    """numpy dtype name, or "str"."""
    width: int | None = None
    """Entries per row: None for shape (N,), else (N, width)."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values stored with the column: class names, fact names, units."""


def create_group(folder: Path, grid: PatchGrid, n_rows: int) -> None:
    """The group of a table, without columns."""
    zarr.create_group(folder, attributes={MARK: {"grid": grid.to_json(), "rows": n_rows}})


def create_coords(folder: Path, coords: npt.NDArray[np.int64], receipt: Receipt) -> None:
    """The column of coordinates, (N, 2) level-0 px, with its values."""
    array = zarr.create_array(
        folder,
        shape=coords.shape,
        chunks=(max(1, min(len(coords), 65536)), 2),
        dtype="int64",
        dimension_names=("patch", "xy"),
        attributes={MARK: receipt.to_json(), "unit": "level-0 px", "columns": ["x", "y"]},
        config=WRITE_ALL,
    )
    if len(coords):
        array[:] = coords


def create_column(
    folder: Path, spec: ColumnSpec, n_rows: int, rows_per_chunk: int, attributes: Mapping[str, Any]
) -> None:
    """An empty column; `attributes` are those on disk, with the receipt."""
    tail = () if spec.width is None else (spec.width,)
    zarr.create_array(
        folder,
        shape=(n_rows, *tail),
        chunks=(rows_per_chunk, *tail),
        dtype=spec.dtype,
        fill_value=np.nan if spec.dtype.startswith("float") else None,
        dimension_names=("patch", "entry")[: 1 + len(tail)],
        attributes=dict(attributes),
        config=WRITE_ALL,
    )


def make_group_of_tables(table: Path) -> None:
    """Make the folder of a store's tables a Zarr group, so that other programs list them. Older stores have none."""
    metadata = table.parent / "zarr.json"
    if table.parent.name == TABLES and read_metadata(table.parent) is None:
        write_json(metadata, ngff.group({}))
