"""Read patches and features from tables and bags: Parquet, AnnData (.h5ad), SpatialData, torchmil's .npy files.

Coordinates are top-left corners in level-0 px, columns `x` and `y`. Files that wsikit wrote state their grid; for
others the side of a patch must be given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.exporters.anndata import ABOUT
from wsikit.exporters.patch_source import FEATURES, SHARED
from wsikit.exporters.torchmil import ABOUT_FOLDER, SOMA, SOMA_COORDS, TORCHMIL
from wsikit.geometry import PatchGrid
from wsikit.results.interop_patches import ExternalPatches, usual_step

PARQUET_START, NPY_START = b"PAR1", b"\x93NUMPY"


def read_parquet(path: Path, features: str | None = None) -> ExternalPatches:
    """Columns `x`, `y`, and one column of lists of equal length; `features` names it where there are several."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        _need_places(path, schema.names)
        vectors = [field.name for field in schema if _is_list(field.type)]
        chosen = _choose(path, vectors, features)
        readable = ["readable"] if "readable" in schema.names else []
        table = file.read([name for name in ("x", "y", *readable, chosen) if name is not None])
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{path}: not a readable Parquet file ({error})") from error
    coords = np.stack([_numbers(path, name, table[name].to_numpy()) for name in ("x", "y")], axis=1)
    values = None if chosen is None else _vectors_of(path, chosen, table[chosen].combine_chunks())
    about = _json((schema.metadata or {}).get(b"wsikit"))
    found = _patches("parquet", path, coords, values, about)
    if chosen is not None:
        made = about.get("features", {}).get(chosen, {})
        found = replace(found, encoder=chosen.removeprefix(FEATURES), column=dict(made.get("attributes", {})))
    return _with_unreadable(found, table["readable"].to_numpy() if readable else None)


def read_anndata(path: Path, node: Any, layout: str = "anndata") -> ExternalPatches:
    """An AnnData node: an open .h5ad file, or a group of Zarr. `obs` needs `x` and `y`; `X`, if not empty, is dense."""
    obs = node["obs"]
    _need_places(path, list(obs))
    coords = np.stack([_numbers(path, name, _array(obs[name])) for name in ("x", "y")], axis=1)
    text = node["uns"][ABOUT][()] if "uns" in node and ABOUT in node["uns"] else None
    about = _json(text if text is None or isinstance(text, bytes | str) else str(text))
    values = None
    if "X" in node:
        if not hasattr(node["X"], "dtype"):
            raise RequestError(f"{path}: X is sparse; expected the dense matrix of features. Convert it (X.toarray())")
        values = np.asarray(node["X"][:])
        if values.ndim != 2 or values.dtype.kind != "f":
            raise RequestError(f"{path}: X is {values.dtype} {values.shape}; expected features, float (N, D)")
        values = values if values.shape[1] else None
    found = _patches(layout, path, coords, values, about)
    made = about.get("features", {})
    found = replace(
        found,
        encoder=str(about.get("encoder", "")) if values is not None else "",
        column=dict(made.get("attributes", {})) if values is not None else {},
    )
    return _with_unreadable(found, _array(obs["readable"]) if "readable" in obs else None)


def read_spatialdata(path: Path, features: str | None = None) -> ExternalPatches:
    """A SpatialData folder: its table, or the one that `features` names, as AnnData."""
    import zarr

    try:
        root = zarr.open_group(path, mode="r")
        tables: Any = root["tables"]
        names = sorted(tables.group_keys())
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise RequestError(f"{path}: no SpatialData with tables ({error})") from error
    wanted = None if features is None else features.removeprefix(FEATURES)
    chosen = [name for name in names if wanted is None or name in (wanted, f"{wanted}_tiles")]
    if len(chosen) != 1:
        raise RequestError(f"{path}: tables {', '.join(names) or 'none'}; name the one to import (--features)")
    return read_anndata(path, tables[chosen[0]], "spatialdata")


def read_bag(path: Path) -> ExternalPatches:
    """A bag of torchmil by its features/<slide>.npy, with coords/<slide>.npy; or of soma by its <slide>.npy, with
    <slide>.coords.npy next to it."""
    neighbour = path.with_name(path.stem + SOMA_COORDS)
    layout = SOMA if neighbour.is_file() else TORCHMIL
    folder = path.parent if layout == SOMA else path.parent.parent
    places = neighbour if layout == SOMA else folder / "coords" / path.name
    if not places.is_file():
        raise RequestError(f"{path}: features without coordinates; expected {places} (torchmil) or {neighbour} (soma)")
    try:
        values, coords = np.load(path, allow_pickle=False), np.load(places, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RequestError(f"{path}: not a readable bag ({error})") from error
    if values.ndim != 2 or values.dtype.kind != "f" or coords.ndim != 2 or coords.shape[1] != 2:
        raise RequestError(
            f"{path}: features {values.dtype} {values.shape}, coordinates {coords.shape}; expected float (N, D), (N, 2)"
        )
    stated = folder / ABOUT_FOLDER / f"{path.stem}.json"
    about = _json(stated.read_bytes()) if stated.is_file() else {}
    found = _patches(layout, path, coords.astype(np.float64), values, about)
    step = usual_step(found.coords)
    if found.grid is None and step is not None and step <= 2:
        raise RequestError(
            f"{places}: neighbours are {step:g} apart: columns and rows of a grid, expected level-0 px. Multiply them "
            "by the step in level-0 px first."
        )
    made = about.get("features", {})
    return replace(found, encoder=str(about.get("encoder", folder.name)), column=dict(made.get("attributes", {})))


def _patches(
    layout: str, path: Path, coords: npt.NDArray[np.float64], values: npt.NDArray[Any] | None, about: dict[str, Any]
) -> ExternalPatches:
    grid = _grid(path, about)
    if values is not None and values.dtype not in (np.float16, np.float32):
        values = values.astype(np.float32)
    return ExternalPatches(
        layout=layout,
        path=str(path),
        coords=coords,
        side_px=None if grid is None else sum(grid.side) / 2,
        patch_px=None if grid is None else grid.patch_px,
        overlap_px=None if grid is None else grid.overlap_px,
        features=values,
        slide_px=None if grid is None else grid.slide_px,
        unit="px",
        missing=() if grid is not None else ("the grid, as wsikit states it",),
        grid=grid,
    )


def _with_unreadable(found: ExternalPatches, readable: npt.NDArray[Any] | None) -> ExternalPatches:
    """Rows without any number whose patch, the file says, could not be read."""
    if found.features is None or readable is None or len(readable) != len(found.features):
        return found
    missing = np.isnan(found.features).all(axis=1)
    return replace(found, unreadable=missing & (np.asarray(readable, dtype=np.float64) == 0))


def _choose(path: Path, there: Sequence[str], features: str | None) -> str | None:
    if features is None:
        main = [name for name in there if not (name.endswith(SHARED) and name.removesuffix(SHARED) in there)]
        if len(main) > 1:
            raise RequestError(f"{path}: several columns of features: name one of {', '.join(there)} (--features)")
        return main[0] if main else None
    for name in (features, f"{FEATURES}{features}"):
        if name in there:
            return name
    raise RequestError(f"{path}: no features {features!r}; there are {', '.join(there) or 'none'}")


def _need_places(path: Path, names: Sequence[str]) -> None:
    lacking = [name for name in ("x", "y") if name not in names]
    if lacking:
        raise RequestError(
            f"{path}: no column {' and '.join(lacking)}; expected the top-left corners of the patches in level-0 px. "
            f"There are {', '.join(list(names)[:12]) or 'no columns'}"
        )


def _numbers(path: Path, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if values.dtype.kind not in "iuf":
        raise RequestError(f"{path}: column {name} is {values.dtype}, expected numbers (level-0 px)")
    return values.astype(np.float64)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    is_list = types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind)
    return bool(is_list and types.is_floating(kind.value_type))


def _vectors_of(path: Path, name: str, column: Any) -> npt.NDArray[Any]:
    """(N, D) of a column of lists."""
    n = len(column)
    values = column.flatten()
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False)) if n else np.zeros(1)
    if column.null_count or values.null_count or len(lengths) > 1:
        raise RequestError(f"{path}: column {name} has missing vectors, or vectors of different length")
    width = column.type.list_size if hasattr(column.type, "list_size") else int(lengths[0])
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(n, width)


def _array(node: Any) -> npt.NDArray[Any]:
    if not hasattr(node, "dtype"):
        raise KeyError("a column x, y or readable is not a plain array")
    return np.asarray(node[:])


def _json(text: str | bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _grid(path: Path, about: dict[str, Any]) -> PatchGrid | None:
    if "grid" not in about:
        return None
    try:
        return PatchGrid.from_json(about["grid"])
    except (KeyError, TypeError, ValueError, IndexError, RequestError) as error:
        raise RequestError(f"{path}: the patch grid that it states makes no sense ({error})") from error
