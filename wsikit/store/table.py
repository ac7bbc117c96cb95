"""The patch table: one row per patch of a grid, one zarr array per column, written in whole chunks of rows.

A chunk of rows is either stored completely or absent; a column is complete when no chunk is missing. Coordinates are
level-0 pixels. The meaning of a column is defined by the stage that writes it.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from wsikit.errors import RequestError, StoreError, UnreachableError
from wsikit.geometry import PatchGrid
from wsikit.store.atomic import new_node, read_metadata, write_json
from wsikit.store.column_reading import read_column
from wsikit.store.completeness import JOURNALS, lost_columns, missing_chunks, restore_metadata, stored_columns
from wsikit.store.format2_names import Names
from wsikit.store.paths import place, reaching, remove_tree, zarr_store
from wsikit.store.plain_text import remove_plain_text
from wsikit.store.receipts import Receipt
from wsikit.store.remote import ABSENT, RemotePath
from wsikit.store.table_display import column_units, table_frame, table_html
from wsikit.store.table_nodes import (
    MARK,
    TABLES,
    WRITE_ALL,
    ColumnSpec,
    create_column,
    create_coords,
    create_group,
    make_group_of_tables,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "JOURNALS",
    "ROWS_PER_CHUNK",
    "STORE_FORMAT",
    "TABLES",
    "ColumnSpec",
    "PatchTable",
    "coords_digest",
    "make_group_of_tables",
]

STORE_FORMAT = 3
"""Format of the stores that are written now. Stores of format 2 are read too, see `wsikit.store.format2_names`."""

ROWS_PER_CHUNK = 512
"""Rows of one task: some seconds of captions, a file of some kB."""

_MOST_ROWS = 2**36
_REMEDY = "Copy the store again; or delete this folder, and run the stage that writes it again."


class PatchTable:
    """The patches of one grid of one slide: N rows in one fixed, row-major order.

    Parameters
    ----------
    folder
        The table's group inside a store, e.g. `<store>/patches/0.5um_224px`; a path or a URL.
    store_format
        Format of the store; None: read from the store's root. Columns, facts and votes have the same names here
        whatever the format.

    Raises
    ------
    StoreError
        There is no patch table at `folder`.

    Examples
    --------
    >>> import tempfile
    >>> grid = PatchGrid((1000, 800), (0.5, 0.5), 224, 0.5)
    >>> made = PatchTable.create(tempfile.mkdtemp() + "/table", grid, grid.all_coords(), Receipt("patches", 1))
    >>> table = PatchTable(made.folder)
    >>> len(table), table.columns(), list(table.frame())
    (20, ['coords'], ['x', 'y'])
    """

    def __init__(self, folder: str | Path, *, store_format: int | None = None) -> None:
        self.folder = place(folder)
        self.stored_names = Names(_store_format(self.folder) if store_format is None else store_format)
        """Translation between the names on disk and those in memory."""
        try:
            with reaching(self.folder):
                record = _attributes(zarr.open_group(zarr_store(self.folder), mode="r", zarr_format=3))[MARK]
            self.grid = PatchGrid.from_json(record["grid"])
            self._n_rows = operator.index(record["rows"])
        except UnreachableError:
            raise
        except Exception as error:  # zarr raises errors of many kinds for metadata that make no sense
            raise StoreError(
                f"{self.folder}: no patch table of wsikit here ({error}). Run wsikit tile first."
            ) from error
        if not 0 <= self._n_rows <= _MOST_ROWS:
            raise StoreError(
                f"{self.folder / 'zarr.json'}: {self._n_rows} rows found, expected the number of patches. {_REMEDY}"
            )

    @classmethod
    def create(cls, folder: str | Path, grid: PatchGrid, coords: npt.NDArray[np.int64], receipt: Receipt) -> PatchTable:
        """Write a new table holding `coords`, int64 (N, 2) level-0 px; it appears at `folder` in one step.

        An existing table is replaced with all its columns: they do not apply to another choice of patches.
        """
        folder = place(folder)
        make_group_of_tables(folder)
        with new_node(folder) as partial:
            create_group(partial, grid, len(coords))
            create_coords(partial / "coords", coords, receipt)
        return cls(folder)

    @classmethod
    def restore(
        cls, folder: str | Path, grid: PatchGrid, coords: npt.NDArray[np.int64], receipt: Receipt
    ) -> PatchTable | None:
        """Write lost metadata of a table, or of its coordinates, again; None if its columns are of other patches.

        The columns that apply to the same patches have the receipt of coords: tissue is one of them.
        """
        folder = place(folder)
        return cls(folder) if restore_metadata(folder, grid, coords, receipt) else None

    def __len__(self) -> int:
        return self._n_rows

    @property
    def name(self) -> str:
        """Name of the grid, e.g. 0.5um_224px."""
        return self.folder.name

    @property
    def coords(self) -> npt.NDArray[np.int64]:
        """Top-left corners, int64 (N, 2), x then y, level-0 px. StoreError if a file of them is lost."""
        return np.asarray(self.read("coords"), dtype=np.int64).reshape(-1, 2)

    def columns(self) -> list[str]:
        """Names of the columns that are complete."""
        return [name for name in self.stored_columns() if not self._missing_chunks(name)]

    def receipt(self, name: str) -> Receipt | None:
        """Receipt of a column, or None if there is no such column. The column may be incomplete."""
        stored = self._stored_receipt(name)
        return None if stored is None else self.stored_names.receipt(stored, self._stored_receipt)

    def _stored_receipt(self, name: str) -> Receipt | None:
        """Receipt of a column as it is on disk."""
        metadata = read_metadata(self._column_folder(name))
        if metadata is None:  # missing or cut off: the column is lost, and made again
            return None
        try:
            record = metadata["attributes"].get(MARK)
            receipt = None if record is None else Receipt.from_json(record)
            assert receipt is None or receipt.digest
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise StoreError(
                f"{self._column_folder(name) / 'zarr.json'}: not the metadata of a column ({error}). {_REMEDY}"
            ) from error
        return receipt

    def _column_folder(self, name: str) -> Path:
        return self.folder / self.stored_names.stored_column(name)

    def _receipt_json(self, receipt: Receipt) -> dict[str, Any]:
        """A receipt as it is written to disk."""
        return self.stored_names.stored_receipt(receipt, self._stored_receipt).to_json()

    def attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a column: class names, fact names, unit."""
        stored = {key: value for key, value in self._array(name).attrs.items() if key != MARK}
        return self.stored_names.attributes(name, stored)

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        return bool(self._array(name).dtype.kind == "T")

    def width(self, name: str) -> int | None:
        """Entries per row of a column; None if each row is one value."""
        shape = self._array(name).shape
        return None if len(shape) == 1 else int(shape[1])

    def read(self, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """A complete column, (N,) or (N, width); text has dtype object. StoreError if absent or incomplete."""
        array = self._array(name)
        missing = self._missing_chunks(name)
        if missing:
            parts = -(-len(self) // array.chunks[0])
            raise StoreError(
                f"{self.folder}: column {name} is incomplete ({len(missing)} of {parts} parts are missing). "
                "Run the same command again to finish it."
            )
        quick = read_column(self._column_folder(name), array.shape, rows)
        if quick is not None:
            return quick
        try:
            with reaching(self.folder):
                values = np.asarray(array[rows])
        except (OSError, ValueError, RuntimeError, TypeError) as error:  # of zarr's codecs, for damaged chunks
            damaged = ", ".join(f"c/{index}" for index in self._missing_chunks(name, whole=True)) or "a part"
            raise StoreError(
                f"{self._column_folder(name)}: {damaged} is cut off or damaged ({error}). Delete this folder, and run "
                f"wsikit run again, or the verb that writes the column {name}."
            ) from error
        return values.astype(object) if values.dtype.kind == "T" else values

    def chunks(self) -> list[slice]:
        """Row ranges of the chunks, in order; each is written in one step."""
        return [slice(first, min(first + ROWS_PER_CHUNK, len(self))) for first in range(0, len(self), ROWS_PER_CHUNK)]

    def is_current(self, name: str, receipt: Receipt) -> bool:
        """Whether the column `name` is complete and has an equal receipt. Read-only."""
        known = self.receipt(name)
        return known is not None and known.digest == receipt.digest and not self._missing_chunks(name, whole=True)

    def prepare(self, specs: Sequence[ColumnSpec], receipt: Receipt) -> list[slice]:
        """Prepare the columns of `specs` for writing; return the row ranges that are still to be computed.

        Columns whose stored receipt equals `receipt` are kept with their values; others are replaced by empty ones.
        """
        missing: set[int] = set()
        for spec in specs:
            if spec.name == "coords":
                raise RequestError("the column coords is written once, with the table")
            known = self.receipt(spec.name)
            if known is None or known.digest != receipt.digest:
                self._create_column(spec, receipt)
            missing.update(self._missing_chunks(spec.name, whole=True))
        return [self.chunks()[index] for index in sorted(missing)]

    def write(self, name: str, rows: slice, values: npt.NDArray[Any] | Sequence[str]) -> None:
        """Write one whole chunk of rows; `rows` is one of `chunks()`. Other chunks may be written at the same time."""
        if rows not in self.chunks():
            raise RequestError(f"rows {rows.start}–{rows.stop} of column {name} are not one chunk of {ROWS_PER_CHUNK}")
        array = self._array(name, mode="r+")
        data = np.asarray(values, dtype=object) if array.dtype.kind == "T" else np.asarray(values, dtype=array.dtype)
        expected = (rows.stop - rows.start, *array.shape[1:])
        if data.shape != expected:
            raise RequestError(f"column {name}: got values of shape {data.shape}, expected {expected}")
        with reaching(self.folder):
            array[rows] = data

    def annotate(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Replace attributes of a column that only describe it; its values, receipt and other attributes are kept.

        Raises
        ------
        StoreError
            There is no such column.
        """
        folder = self._column_folder(name)
        metadata = read_metadata(folder)
        if metadata is None or self._stored_receipt(name) is None or MARK in attributes:
            raise StoreError(f"{self.folder}: no column {name} that could be described; there are {self.columns()}.")
        metadata["attributes"].update(self.stored_names.stored_attributes(name, attributes))
        with reaching(folder):
            write_json(folder / "zarr.json", metadata)

    def drop(self, name: str) -> None:
        """Remove a column; nothing happens if it does not exist.

        Raises
        ------
        StoreError
            For `coords`, which defines the table, and for a folder that wsikit did not write.
        """
        if name == "coords" or self._stored_receipt(name) is None:
            if name == "coords" or self._column_folder(name).exists():
                raise StoreError(f"{self.folder}: {name} is not a column that may be removed")
            return
        remove_plain_text(self.folder, name)
        remove_tree(self._column_folder(name))

    def write_vote(self, method: str, record: Mapping[str, Any], receipt: Receipt) -> None:
        """Store a slide-level result under votes/<method>, as attributes."""
        folder = self.folder / "votes" / method
        make_group_of_tables(self.folder)
        with reaching(folder):
            if read_metadata(folder.parent) is None:  # cut off, if it is there
                (folder.parent / "zarr.json").unlink(missing_ok=True)
            zarr.open_group(zarr_store(folder.parent), mode="a", zarr_format=3)
        with new_node(folder) as partial:
            zarr.create_group(
                partial,
                attributes={MARK: self._receipt_json(receipt), "result": self.stored_names.stored_vote(record)},
            )

    def votes(self) -> dict[str, dict[str, Any]]:
        """Slide-level results by method."""
        return {name: self.stored_names.vote(_attributes(group)["result"]) for name, group in self._vote_groups()}

    def vote_receipt(self, method: str) -> Receipt | None:
        """Receipt of a slide-level result, or None."""
        for name, group in self._vote_groups():
            if name == method:
                return self.stored_names.receipt(Receipt.from_json(_attributes(group)[MARK]), self._stored_receipt)
        return None

    def frame(self) -> pd.DataFrame:
        """All complete columns as a data frame, one row per patch.

        Columns are `x`, `y` (level-0 px), then the columns by name. A column with several entries per row becomes one
        column per entry, `column:entry`, such as `probability:PD` or `caption_facts:nuclei_per_mm2`. `attrs["units"]`
        has the unit of each column whose unit is known.
        """
        return table_frame(self)

    def entries(self, name: str) -> list[str]:
        """Names of the entries of a column with several per row: classes, facts, or numbers from 0; else empty."""
        width = self.width(name)
        if width is None:
            return []
        return [str(label) for label in self.attributes(name).get("names", range(width))]

    def units(self, name: str) -> dict[str, str]:
        """Unit of a column, or of each of its entries as `column:entry`; what has no known unit is absent."""
        return column_units(self, name)

    def __repr__(self) -> str:
        columns = ", ".join(self.columns())
        return f"<PatchTable {str(self.folder)!r}: grid {self.name}, {len(self)} patches, columns {columns}>"

    def _repr_html_(self) -> str:
        return table_html(self)

    def type_name(self, name: str) -> str:
        """Type of a column's values: "text", or the name of a NumPy dtype."""
        return "text" if self.is_text(name) else str(self._array(name).dtype)

    def _array(self, name: str, mode: str = "r") -> zarr.Array[Any]:
        folder = self._column_folder(name)
        try:
            with reaching(folder):
                if mode == "r" and not isinstance(folder, RemotePath):
                    array = _opened(str(folder), (folder / "zarr.json").read_bytes())
                else:
                    array = zarr.open_array(zarr_store(folder), mode=mode, zarr_format=3).with_config(WRITE_ALL)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.folder}: no column {name}; there are {', '.join(self.stored_columns())}."
            ) from error
        except UnreachableError:
            raise
        except Exception as error:  # as above
            raise StoreError(f"{folder / 'zarr.json'}: not the metadata of a column ({error}). {_REMEDY}") from error
        rows = array.chunks[0] if name == "coords" else ROWS_PER_CHUNK
        expected = ((2,) if name == "coords" else array.shape[1:2], rows)
        fits = array.shape[:1] == (len(self),) and (array.shape[1:], array.chunks[0]) == expected
        if not fits or rows < 1 or array.size > _MOST_ROWS:  # a column may be of no width: a captioner without facts
            raise StoreError(
                f"{folder / 'zarr.json'}: shape {array.shape} in chunks of {array.chunks} found, expected {len(self)} "
                f"rows in chunks of {rows}. {_REMEDY}"
            )
        return array

    def stored_columns(self) -> list[str]:
        """Names of all columns, complete or not; without those that have lost their metadata."""
        return stored_columns(self.folder, self.stored_names)

    def lost_columns(self) -> list[str]:
        """Names of columns that have lost their metadata, so that only files without a meaning are left."""
        return lost_columns(self.folder, self.stored_names)

    def restore_coords(self, coords: npt.NDArray[np.int64]) -> None:
        """Write the coordinates again, int64 (N, 2), if a file of them is lost; all columns are kept."""
        if coords.shape != (len(self), 2):
            raise RequestError(f"coords of shape {coords.shape}: expected {(len(self), 2)}")
        if self._missing_chunks("coords", whole=True):
            with reaching(self.folder):
                self._array("coords", mode="r+")[:] = coords

    def _missing_chunks(self, name: str, *, whole: bool = False) -> list[int]:
        """Indexes of chunks that are not there; with `whole`, also of those that are cut off (on a local disk)."""
        folder = self._column_folder(name)
        array = self._array(name) if name == "coords" or not isinstance(folder, RemotePath) else None
        rows = ROWS_PER_CHUNK if array is None or name != "coords" else array.chunks[0]
        return missing_chunks(folder, -(-len(self) // rows), array, whole=whole)

    def _create_column(self, spec: ColumnSpec, receipt: Receipt) -> None:
        made = self._receipt_json(receipt)
        make_group_of_tables(self.folder)
        if spec.dtype == "str":
            remove_plain_text(self.folder, spec.name)
        attributes = {MARK: made, **self.stored_names.stored_attributes(spec.name, spec.attributes)}
        with new_node(self._column_folder(spec.name)) as partial:
            create_column(partial, spec, len(self), ROWS_PER_CHUNK, attributes)

    def _vote_groups(self) -> Iterator[tuple[str, zarr.Group]]:
        for path in sorted((self.folder / "votes").glob("*/zarr.json")):
            if not path.parent.name.startswith(".") and read_metadata(path.parent) is not None:  # cut off: lost
                with reaching(path):
                    group = zarr.open_group(zarr_store(path.parent), mode="r", zarr_format=3)
                yield path.parent.name, group


@lru_cache(maxsize=64)
def _opened(folder: str, metadata: bytes) -> zarr.Array[Any]:
    """A column of a local table, opened to be read. Stages ask for each column many times, and opening takes 1 ms.

    It holds no open file. With other `metadata`, the content of its zarr.json, it is opened again.
    """
    return zarr.open_array(folder, mode="r", zarr_format=3).with_config(WRITE_ALL)


def coords_digest(table: PatchTable) -> str:
    """Digest of a table's patches: their selection, grid and pixels."""
    receipt = table.receipt("coords")
    assert receipt is not None
    return receipt.digest


def _attributes(node: zarr.Array[Any] | zarr.Group) -> dict[str, Any]:
    return dict(node.attrs)


def _store_format(table: Path) -> int:
    """Format of the store that contains a table; the present format for a table outside of a store."""
    try:
        text = (table.parent.parent / "zarr.json").read_text(encoding="utf-8")
        return int(json.loads(text)["attributes"]["wsikit"]["format"])
    except (*ABSENT, json.JSONDecodeError, KeyError, TypeError, RecursionError):
        return STORE_FORMAT
