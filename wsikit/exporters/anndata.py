"""The patch table as AnnData (.h5ad), written with h5py by the specification of the format: no package anndata.

One observation per patch. `obsm["spatial"]` are centres of patches in level-0 px, as Squidpy draws them; `x`, `y` in
`obs` are their top-left corners.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.exporters.patch_source import FEATURES, SHARED, PatchSource, provenance
from wsikit.store.atomic import atomic_write
from wsikit.store.table import PatchTable

if TYPE_CHECKING:
    import h5py

ABOUT = "wsikit"
"""Entry of `uns` with the file's provenance, as JSON."""

SPATIAL = "spatial"
_ROWS_AT_ONCE = 1 << 14


def write_h5ad(
    path: str | os.PathLike[str],
    source: PatchSource,
    *,
    labels: npt.NDArray[Any] | None = None,
    classes: tuple[str, ...] = (),
    votes: Mapping[str, Any] | None = None,
    thumbnail: npt.NDArray[np.uint8] | None = None,
) -> None:
    """Write all patches and complete columns as one .h5ad file, atomically.

    Parameters
    ----------
    source
        The patches; its `features` become `X`, (N, D), in their precision. Unlike in bags, patches that could not be
        read are kept: their features are NaN, and `obs["readable"]` is 0.
    labels, classes
        Index into `classes` of each patch's class, (N,), -1 for none: `obs["subtype"]`, categorical.
    votes
        Slide-level results by method, JSON values: part of `uns["wsikit"]`.
    thumbnail
        The slide, uint8 (h, w, 3), for Squidpy's plots.
    """
    import h5py

    table = source.table
    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        _mark(file, "anndata", "0.1.0")
        _write_x(file, source)
        _write_obs(file, source, labels, classes)
        width = 0 if source.features is None else table.width(source.features) or 0
        var = _group(file, "var", "dataframe", "0.2.0")
        var.attrs.update({"_index": "_index", "column-order": np.empty(0, dtype="S1")})
        _strings(var, "_index", [str(index) for index in range(width)])
        for name in ("layers", "obsp", "varm", "varp"):
            _group(file, name, "dict", "0.1.0")
        _array(_group(file, "obsm", "dict", "0.1.0"), SPATIAL, centres(source))
        _write_uns(_group(file, "uns", "dict", "0.1.0"), source, votes, thumbnail)


def centres(source: PatchSource) -> npt.NDArray[np.float64]:
    """Centres of all patches of the table, (N, 2), level-0 px."""
    return source.table.coords + np.asarray(source.grid.side) / 2


def observations(
    source: PatchSource, labels: npt.NDArray[Any] | None, classes: tuple[str, ...]
) -> dict[str, npt.NDArray[Any]]:
    """Columns of `obs`, each (N,): x, y, every column with one value per patch, and named entries as `column:entry`.

    Text has dtype object. `subtype` has the codes of the classes, empty for none.
    """
    table = source.table
    coords = table.coords
    found: dict[str, npt.NDArray[Any]] = {"x": coords[:, 0], "y": coords[:, 1]}
    for name in table.columns():
        if name == "coords" or name.startswith(FEATURES):
            continue
        if table.width(name) is None:
            found[name.replace("/", "_")] = table.read(name)
        elif table.attributes(name).get("names"):
            values = table.read(name)
            for index, entry in enumerate(table.entries(name)):
                found[f"{name}:{entry}".replace("/", "_")] = values[:, index]
    if labels is not None and classes:
        codes = np.asarray([*classes, ""], dtype=object)
        found["subtype"] = codes[np.where(labels < 0, len(classes), labels)]
    return found


def _write_x(file: h5py.File, source: PatchSource) -> None:
    table = source.table
    if source.features is None:
        _array(file, "X", np.empty((len(table), 0), dtype=np.float32))
        return
    dtype = table.read(source.features, slice(0, 0)).dtype
    dataset = file.create_dataset("X", shape=(len(table), table.width(source.features)), dtype=dtype)
    _mark(dataset, "array", "0.2.0")
    for first in range(0, len(table), _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, len(table)))
        dataset[rows] = table.read(source.features, rows)


def _write_obs(file: h5py.File, source: PatchSource, labels: npt.NDArray[Any] | None, classes: tuple[str, ...]) -> None:
    obs = _group(file, "obs", "dataframe", "0.2.0")
    columns = observations(source, labels, classes)
    n = len(source.table)
    _strings(obs, "_index", [f"{source.slide_id}_{row}" for row in range(n)])
    for name, values in columns.items():
        if name == "subtype":
            _categorical(obs, name, values, classes)
        elif values.dtype == object:
            _strings(obs, name, [str(value) for value in values])
        else:
            _array(obs, name, values)
    _categorical(obs, "library_id", np.full(n, source.slide_id, dtype=object), (source.slide_id,))
    order = np.asarray([*columns, "library_id"], dtype=object)
    import h5py

    obs.attrs["_index"] = "_index"
    obs.attrs.create("column-order", order, dtype=h5py.string_dtype())


def _write_uns(
    uns: h5py.Group, source: PatchSource, votes: Mapping[str, Any] | None, thumbnail: npt.NDArray[np.uint8] | None
) -> None:
    about = {**provenance(source), "units": units_of(source.table), "votes": dict(votes or {})}
    _text(uns, ABOUT, json.dumps(about, ensure_ascii=False))
    if thumbnail is None:
        return
    library = _group(_group(uns, SPATIAL, "dict", "0.1.0"), source.slide_id.replace("/", "_"), "dict", "0.1.0")
    _array(_group(library, "images", "dict", "0.1.0"), "hires", thumbnail)
    factors = _group(library, "scalefactors", "dict", "0.1.0")
    _number(factors, "tissue_hires_scalef", thumbnail.shape[1] / source.grid.slide_px[0])
    _number(factors, "spot_diameter_fullres", sum(source.grid.side) / 2)


def units_of(table: PatchTable) -> dict[str, str]:
    """Units of the columns that are written, by name."""
    known = {"x": "level-0 px", "y": "level-0 px"}
    for name in table.columns():
        if name != "coords" and not name.startswith(FEATURES) and not name.endswith(SHARED):
            known.update({column.replace("/", "_"): unit for column, unit in table.units(name).items() if unit})
    return known


# ---- elements of the format, by its specification


def _mark(node: Any, kind: str, version: str) -> None:
    node.attrs.update({"encoding-type": kind, "encoding-version": version})


def _group(parent: Any, name: str, kind: str, version: str) -> h5py.Group:
    group = parent.create_group(name)
    _mark(group, kind, version)
    return group


def _array(parent: Any, name: str, values: npt.NDArray[Any]) -> None:
    _mark(parent.create_dataset(name, data=values), "array", "0.2.0")


def _strings(parent: Any, name: str, values: list[str]) -> None:
    import h5py

    # HDF5 ends text at a NUL, which no caption needs
    cleaned = np.asarray([value.replace("\0", "") for value in values], dtype=object)
    dataset = parent.create_dataset(name, shape=cleaned.shape, dtype=h5py.string_dtype())
    if len(cleaned):
        dataset[:] = cleaned
    _mark(dataset, "string-array", "0.2.0")


def _categorical(parent: Any, name: str, values: npt.NDArray[Any], categories: tuple[str, ...]) -> None:
    code = {category: index for index, category in enumerate(categories)}
    group = _group(parent, name, "categorical", "0.2.0")
    group.attrs["ordered"] = False
    _array(group, "codes", np.asarray([code.get(value, -1) for value in values], dtype=np.int16))
    _strings(group, "categories", list(categories))


def _text(parent: Any, name: str, text: str) -> None:
    import h5py

    _mark(parent.create_dataset(name, data=text, dtype=h5py.string_dtype()), "string", "0.2.0")


def _number(parent: Any, name: str, value: float) -> None:
    _mark(parent.create_dataset(name, data=value), "numeric-scalar", "0.2.0")
