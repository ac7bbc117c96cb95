"""The patch table: one row per patch of a grid, one zarr array per column, written in whole chunks of rows.

A chunk of rows is there, whole, or it is not there; a column is complete when none is missing. Coordinates are
level-0 pixels. What the columns mean is for the stages to say.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr

from wsikit.errors import RequestError, StoreError
from wsikit.geometry import PatchGrid
from wsikit.store.atomic import new_node
from wsikit.store.paths import place, reaching, remove_tree, zarr_store
from wsikit.store.receipts import Receipt
from wsikit.store.remote import RemotePath

if TYPE_CHECKING:
    import pandas as pd
    from zarr.core.array_spec import ArrayConfigParams

ROWS_PER_CHUNK = 512
"""A task's worth: some seconds of captions, a file of some kB."""

JOURNALS = "journals"
"""Beside the columns: what slow stages have done so far; see `wsikit.store.journal`."""

_MARK = "wsikit"
_NO_COLUMNS = ("coords", "votes", JOURNALS)
_WRITE_ALL: ArrayConfigParams = {"write_empty_chunks": True}
"""A chunk that happens to hold only the fill value must exist all the same: its file says that it was computed."""


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


class PatchTable:
    """The patches of one grid of one slide: N rows in one fixed, row-major order.

    Parameters
    ----------
    folder
        The table's group inside a store, e.g. `<store>/patches/0.5um_224px`; a path or a URL.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = place(folder)
        try:
            with reaching(self.folder):
                record = _attributes(zarr.open_group(zarr_store(self.folder), mode="r", zarr_format=3))[_MARK]
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise StoreError(
                f"{self.folder}: no patch table of wsikit here ({error}). Run wsikit tile first."
            ) from error
        self.grid = PatchGrid.from_json(record["grid"])
        self._n_rows = int(record["rows"])

    @classmethod
    def create(cls, folder: str | Path, grid: PatchGrid, coords: npt.NDArray[np.int64], receipt: Receipt) -> PatchTable:
        """Write a new table holding `coords`, int64 (N, 2) level-0 px; it appears under its name whole.

        A table already there is replaced, with all its columns: another choice of patches makes them void.
        """
        folder = place(folder)
        chunk_rows = max(1, min(len(coords), 65536))
        with new_node(folder) as partial:
            group = zarr.create_group(partial, attributes={_MARK: {"grid": grid.to_json(), "rows": len(coords)}})
            array = group.create_array(
                "coords",
                shape=coords.shape,
                chunks=(chunk_rows, 2),
                dtype="int64",
                dimension_names=("patch", "xy"),
                attributes={_MARK: receipt.to_json(), "unit": "level-0 px", "columns": ["x", "y"]},
                config=_WRITE_ALL,
            )
            if len(coords):
                array[:] = coords
        return cls(folder)

    def __len__(self) -> int:
        return self._n_rows

    @property
    def name(self) -> str:
        """Name of the grid, e.g. 0.5um_224px."""
        return self.folder.name

    @property
    def coords(self) -> npt.NDArray[np.int64]:
        """Top-left corners, int64 (N, 2), x then y, level-0 px."""
        with reaching(self.folder):
            return np.asarray(self._array("coords")[:], dtype=np.int64).reshape(-1, 2)

    def columns(self) -> list[str]:
        """Names of the columns that are complete."""
        return [name for name in self.stored_columns() if not self._missing_chunks(name)]

    def receipt(self, name: str) -> Receipt | None:
        """Receipt of a column, or None if there is no such column. Says nothing about completeness."""
        try:
            text = (self.folder / name / "zarr.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        record = json.loads(text)["attributes"].get(_MARK)
        return None if record is None else Receipt.from_json(record)

    def attributes(self, name: str) -> dict[str, Any]:
        """What is stored with a column: class names, fact names, units."""
        return {key: value for key, value in self._array(name).attrs.items() if key != _MARK}

    def is_text(self, name: str) -> bool:
        """Whether a column holds text."""
        return bool(self._array(name).dtype.kind == "T")

    def width(self, name: str) -> int | None:
        """Entries per row of a column; None if each row is one value."""
        shape = self._array(name).shape
        return None if len(shape) == 1 else int(shape[1])

    def read(self, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
        """A complete column, (N,) or (N, width); text comes as object. StoreError if absent or incomplete."""
        array = self._array(name)
        missing = self._missing_chunks(name)
        if missing:
            raise StoreError(
                f"{self.folder}: column {name} is incomplete ({len(missing)} of {len(self.chunks())} parts are "
                "missing). Run the same command again to finish it."
            )
        with reaching(self.folder):
            values = np.asarray(array[rows])
        return values.astype(object) if values.dtype.kind == "T" else values

    def chunks(self) -> list[slice]:
        """The row ranges that are written as one, in order."""
        return [slice(first, min(first + ROWS_PER_CHUNK, len(self))) for first in range(0, len(self), ROWS_PER_CHUNK)]

    def is_current(self, name: str, receipt: Receipt) -> bool:
        """Whether the column `name` is complete and was made under an equal receipt. Nothing is changed."""
        known = self.receipt(name)
        return known is not None and known.digest == receipt.digest and not self._missing_chunks(name)

    def prepare(self, specs: Sequence[ColumnSpec], receipt: Receipt) -> list[slice]:
        """Make the columns of `specs` ready for `receipt`; return the row ranges that are still to be computed.

        Columns whose receipt is equal are kept with what they hold; others are replaced.
        """
        missing: set[int] = set()
        for spec in specs:
            if spec.name == "coords":
                raise RequestError("the column coords is written once, with the table")
            known = self.receipt(spec.name)
            if known is None or known.digest != receipt.digest:
                self._create_column(spec, receipt)
            missing.update(self._missing_chunks(spec.name))
        return [self.chunks()[index] for index in sorted(missing)]

    def write(self, name: str, rows: slice, values: npt.NDArray[Any] | Sequence[str]) -> None:
        """Write one whole chunk of rows; `rows` is one of `chunks()`. Safe beside other chunks' writers."""
        if rows not in self.chunks():
            raise RequestError(f"rows {rows.start}–{rows.stop} of column {name} are not one chunk of {ROWS_PER_CHUNK}")
        array = self._array(name, mode="r+")
        data = np.asarray(values, dtype=object) if array.dtype.kind == "T" else np.asarray(values, dtype=array.dtype)
        expected = (rows.stop - rows.start, *array.shape[1:])
        if data.shape != expected:
            raise RequestError(f"column {name}: got values of shape {data.shape}, expected {expected}")
        with reaching(self.folder):
            array[rows] = data

    def drop(self, name: str) -> None:
        """Remove a column of ours; nothing happens if there is none. StoreError for `coords`, which is the table."""
        if name == "coords" or self.receipt(name) is None:
            if name == "coords" or (self.folder / name).exists():
                raise StoreError(f"{self.folder}: {name} is no column that may be removed")
            return
        remove_tree(self.folder / name)

    def write_vote(self, method: str, record: Mapping[str, Any], receipt: Receipt) -> None:
        """Store a slide result under votes/<method>: attributes only."""
        folder = self.folder / "votes" / method
        with reaching(folder):
            zarr.open_group(zarr_store(folder.parent), mode="a", zarr_format=3)
        with new_node(folder) as partial:
            zarr.create_group(partial, attributes={_MARK: receipt.to_json(), "result": dict(record)})

    def votes(self) -> dict[str, dict[str, Any]]:
        """Slide results by method."""
        return {name: dict(_attributes(group)["result"]) for name, group in self._vote_groups()}

    def vote_receipt(self, method: str) -> Receipt | None:
        """Receipt of a slide result, or None."""
        for name, group in self._vote_groups():
            if name == method:
                return Receipt.from_json(_attributes(group)[_MARK])
        return None

    def frame(self) -> pd.DataFrame:
        """All complete columns as a data frame; wide columns are spread by their names (class, fact)."""
        import pandas as pd

        coords = self.coords
        data: dict[str, npt.NDArray[Any]] = {"x": coords[:, 0], "y": coords[:, 1]}
        for name in self.columns():
            if name == "coords":
                continue
            values = self.read(name)
            if values.ndim == 1:
                data[name] = values
                continue
            labels = self.attributes(name).get("names", range(values.shape[1]))
            data.update({f"{name}_{label}": values[:, i] for i, label in enumerate(labels)})
        return pd.DataFrame(data)

    def _array(self, name: str, mode: str = "r") -> zarr.Array:
        folder = self.folder / name
        try:
            with reaching(folder):
                return zarr.open_array(zarr_store(folder), mode=mode, zarr_format=3).with_config(_WRITE_ALL)
        except FileNotFoundError as error:
            raise StoreError(
                f"{self.folder}: no column {name}; there are {', '.join(self.stored_columns())}."
            ) from error

    def stored_columns(self) -> list[str]:
        """Names of all columns that were begun, complete or not."""
        names = sorted(
            path.parent.name for path in self.folder.glob("*/zarr.json") if not path.parent.name.startswith(".")
        )
        return ["coords", *(name for name in names if name not in _NO_COLUMNS)]

    def _missing_chunks(self, name: str) -> list[int]:
        if name == "coords":
            return []
        folder = self.folder / name / "c"
        indexes = range(len(self.chunks()))
        if isinstance(folder, RemotePath):
            # one listing instead of a request per chunk; a remote folder is there only if something lies in it
            with contextlib.suppress(FileNotFoundError):
                present = {path.name for path in folder.iterdir()}
                return [index for index in indexes if str(index) not in present]
            return list(indexes)
        tail = ("0",) if self._array(name).ndim == 2 else ()
        return [index for index in indexes if not folder.joinpath(str(index), *tail).is_file()]

    def _create_column(self, spec: ColumnSpec, receipt: Receipt) -> None:
        tail = () if spec.width is None else (spec.width,)
        floats = spec.dtype.startswith("float")
        with new_node(self.folder / spec.name) as partial:
            zarr.create_array(
                partial,
                shape=(len(self), *tail),
                chunks=(ROWS_PER_CHUNK, *tail),
                dtype=spec.dtype,
                fill_value=np.nan if floats else None,
                dimension_names=("patch", "entry")[: 1 + len(tail)],
                attributes={_MARK: receipt.to_json(), **spec.attributes},
                config=_WRITE_ALL,
            )

    def _vote_groups(self) -> Iterator[tuple[str, zarr.Group]]:
        for path in sorted((self.folder / "votes").glob("*/zarr.json")):
            if not path.parent.name.startswith("."):
                with reaching(path):
                    group = zarr.open_group(zarr_store(path.parent), mode="r", zarr_format=3)
                yield path.parent.name, group


def coords_digest(table: PatchTable) -> str:
    """Identity of a table's patches: which were kept, of which grid, of which pixels."""
    receipt = table.receipt("coords")
    assert receipt is not None
    return receipt.digest


def _attributes(node: zarr.Array | zarr.Group) -> dict[str, Any]:
    return dict(node.attrs)
