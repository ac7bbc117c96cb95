"""The patches and features that a file for another tool is made of: which rows, which column, in which precision."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.store.table import PatchTable

FEATURES = "features_"
"""Prefix of feature columns: features_<encoder>."""

SHARED = "-shared"
"""Ending of the columns with the places of images in a space shared with texts (`EncoderInfo.shared_column`)."""

SQUARE_TOLERANCE = 0.01
"""Relative. These tools store one side per patch, so pixels that deviate more from a square are refused."""

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class PatchSource:
    """The data to write: the patches of a table and, if `features` names a column, its vectors.

    With features, patches without a vector (those that could not be read) are left out: a NaN in a bag makes every
    result of a model NaN.
    """

    slide_id: str
    table: PatchTable
    features: str | None
    file_name: str
    """Name of the slide file that the store was made from, without its folder."""
    slide_vectors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """Features of the whole slide, (S,), by name; made of `features`."""

    @property
    def grid(self) -> PatchGrid:
        return self.table.grid

    @property
    def stem(self) -> str:
        """The name of the slide file without suffix, by which these tools find it; the slide's id if it is unknown."""
        name = Path(self.file_name).stem or self.slide_id
        return re.sub(r"[^\w.+=@ -]+", "_", name).lstrip(".") or "slide"

    @property
    def encoder(self) -> str:
        assert self.features is not None
        return self.features.removeprefix(FEATURES)

    @property
    def side_px(self) -> int:
        """Level-0 px of a patch's side."""
        x, y = self.grid.side
        if abs(x / y - 1) > SQUARE_TOLERANCE:
            raise RequestError(
                f"{self.slide_id}: patches of {x:.1f} × {y:.1f} level-0 px (the slide's pixels are not square); this "
                "layout stores only one side. Use CSV or Parquet."
            )
        return round((x + y) / 2)

    @cached_property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(N,): whether a row is written. Without features, all are.

        Raises
        ------
        RequestError
            A vector is not a number in some places only, or infinite: then it is damaged, not missing.
        """
        keep = np.ones(len(self.table), dtype=np.bool_)
        if self.features is None:
            return keep
        for rows in _blocks(len(self.table)):
            values = self.table.read(self.features, rows)
            finite, missing = np.isfinite(values).all(axis=1), np.isnan(values).all(axis=1)
            damaged = ~finite & ~(missing if values.shape[1] else finite)
            if damaged.any():
                row = rows.start + int(damaged.argmax())
                raise RequestError(
                    f"{self.table.folder}: column {self.features}, row {row}: infinity, or NaN in some of the numbers "
                    "only. Compute or import these features again."
                )
            keep[rows] = finite
        return keep

    @property
    def n_rows(self) -> int:
        """Number of rows that are written."""
        return int(self.kept.sum())

    @property
    def coords(self) -> npt.NDArray[np.int64]:
        """Top-left corners of the patches that are written, level-0 px."""
        return self.table.coords[self.kept] if len(self.table) else self.table.coords

    def vectors(self, dtype: str) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """The features that are written, in blocks; the slices count the rows of the file.

        Raises
        ------
        RequestError
            A number is too large for `dtype`.
        """
        assert self.features is not None
        first = 0
        for rows in _blocks(len(self.table)):
            values = self.table.read(self.features, rows)[self.kept[rows]]
            with np.errstate(over="ignore"):
                cast = values.astype(dtype, copy=False)
            if not np.isfinite(cast).all():
                raise RequestError(
                    f"{self.slide_id}: features of {self.encoder} up to {np.abs(values).max():.4g} do not fit into "
                    f"{dtype}, which this layout stores. Export to trident, clam or parquet."
                )
            yield slice(first, first + len(cast)), cast
            first += len(cast)


def feature_columns(table: PatchTable) -> list[str]:
    """Complete feature columns of a table: `features_<encoder>`, (N, D)."""
    return [name for name in table.columns() if name.startswith(FEATURES) and table.width(name) is not None]


def choose_features(table: PatchTable, name: str | None) -> str | None:
    """The feature column to write: the named one, the only one, or None if there is none.

    Unless it is named, the column of a space shared with texts does not count where its encoder's own column is there.

    Raises
    ------
    RequestError
        There is no such column, or there are several and none is named.
    """
    there = feature_columns(table)
    if name is None:
        main = [one for one in there if not (one.endswith(SHARED) and one.removesuffix(SHARED) in there)]
        if len(main) > 1:
            raise RequestError(f"{table.folder}: several feature columns: name one of {_names(there)} (--features)")
        return main[0] if main else None
    wanted = name if name.startswith(FEATURES) else f"{FEATURES}{name}"
    if wanted not in there:
        raise RequestError(f"{table.folder}: no features {name!r}; there are {_names(there) or 'none'}")
    return wanted


def provenance(source: PatchSource) -> dict[str, Any]:
    """What a file states about where its rows come from, as plain JSON values."""
    from wsikit._version import __version__

    coords = source.table.receipt("coords")
    about: dict[str, Any] = {
        "wsikit": __version__,
        "slide_id": source.slide_id,
        "file": source.file_name,
        "grid": source.grid.to_json(),
        "patches": coords.digest if coords else "",
    }
    if source.features is not None:
        receipt = source.table.receipt(source.features)
        about["encoder"] = source.encoder
        about["features"] = {
            "column": source.features,
            "attributes": source.table.attributes(source.features),
            "receipt": receipt.to_json() if receipt else {},
        }
    return about


def _blocks(n_rows: int) -> Iterator[slice]:
    for first in range(0, n_rows, _ROWS_AT_ONCE):
        yield slice(first, min(first + _ROWS_AT_ONCE, n_rows))


def _names(columns: list[str]) -> str:
    return ", ".join(name.removeprefix(FEATURES) for name in columns)
