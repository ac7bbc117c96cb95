"""Features of a whole slide: `slide_features/<name>` of a patch table, float32 (S,), with receipt. Not a column.

They lie in the table because they are made of its rows: a table with other patches has none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from wsikit.errors import RequestError, StoreError
from wsikit.store.atomic import new_node, read_metadata
from wsikit.store.completeness import SLIDE_VECTORS
from wsikit.store.paths import reaching, zarr_store
from wsikit.store.receipts import Receipt
from wsikit.store.table import PatchTable, make_group_of_tables
from wsikit.store.table_nodes import MARK


@dataclass(frozen=True, eq=False)
class SlideVector:
    """One slide-level feature vector."""

    name: str
    values: npt.NDArray[np.float32]
    """(S,)."""
    receipt: Receipt
    attributes: Mapping[str, Any]
    """`features`: the column it was made of; `pooling`: the slide encoder's record; `patches`: rows that were used."""


def slide_vector_names(table: PatchTable) -> list[str]:
    """Names of the slide features of a table."""
    folder = table.folder / SLIDE_VECTORS
    found = [path.parent for path in folder.glob("*/zarr.json") if not path.parent.name.startswith(".")]
    return sorted(path.name for path in found if read_metadata(path) is not None)


def read_slide_vector(table: PatchTable, name: str) -> SlideVector | None:
    """The slide features `name`, or None.

    Raises
    ------
    StoreError
        They are damaged.
    """
    folder = table.folder / SLIDE_VECTORS / name
    if read_metadata(folder) is None:
        return None
    try:
        with reaching(folder):
            array = zarr.open_array(zarr_store(folder), mode="r", zarr_format=3)
            attributes: dict[str, Any] = dict(array.attrs)
            values = np.asarray(array[:], dtype=np.float32)
        receipt = Receipt.from_json(attributes.pop(MARK))
        if values.ndim != 1 or not np.isfinite(values).all():  # a chunk that is lost reads as NaN
            raise ValueError("a part of it is missing")
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{folder}: slide features that cannot be read ({error}). Delete this folder, and make them again."
        ) from error
    return SlideVector(name, values, receipt, attributes)


def write_slide_vector(table: PatchTable, vector: SlideVector) -> None:
    """Store slide features; those of the same name are replaced."""
    if not vector.name or vector.name.startswith(".") or set(vector.name) & set("/\\"):
        raise RequestError(f"slide features {vector.name!r}: not a name")
    folder = table.folder / SLIDE_VECTORS / vector.name
    make_group_of_tables(table.folder)
    with reaching(folder):
        if read_metadata(folder.parent) is None:  # cut off, if it is there
            (folder.parent / "zarr.json").unlink(missing_ok=True)
        zarr.open_group(zarr_store(folder.parent), mode="a", zarr_format=3)
    with new_node(folder) as partial:
        array = zarr.create_array(
            partial,
            shape=vector.values.shape,
            chunks=(max(1, len(vector.values)),),
            dtype="float32",
            fill_value=np.nan,
            dimension_names=("entry",),
            attributes={MARK: vector.receipt.to_json(), **vector.attributes},
        )
        array[:] = vector.values
