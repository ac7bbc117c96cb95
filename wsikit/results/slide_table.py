"""Slide features of many slides as one table: Parquet or CSV, one row per slide."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.errors import RequestError, StoreError
from wsikit.slides.store import SlideStore, StoreLike, open_store
from wsikit.store.atomic import atomic_write
from wsikit.store.paths import place
from wsikit.store.slide_vectors import SlideVector, read_slide_vector, slide_vector_names
from wsikit.tables import harmless

_TOLERATED = ("patches",)
"""Attributes that differ from slide to slide."""


def write_slide_table(
    stores: Iterable[StoreLike],
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    grid: str | None = None,
) -> int:
    """Write the slide features `name` of stores, one row per slide, atomically; return the number of rows.

    Parameters
    ----------
    stores
        Slide stores, their paths, or folders of `wsikit run`.
    path
        `.parquet`: columns `slide_id`, `patches` (number that was used) and `features`, list<float>[S]; the encoder and
        the pooling are in the metadata, key "wsikit". `.csv`: slide_id, patches, f0 … with all digits.
    name
        Which slide features; not needed if all stores have only one.

    Raises
    ------
    RequestError
        The features of two slides were made by different encoders or poolings, or two slides have one id.
    StoreError
        A store has no such features.
    """
    target = place(path)
    if target.suffix.lower() not in (".parquet", ".csv"):
        raise RequestError(f"{target}: expected a name that ends in .parquet or .csv")
    rows: dict[str, SlideVector] = {}
    for store in _opened(stores):
        vector = _vector(store, name, grid)
        if store.slide_id in rows:
            raise RequestError(f"{store.folder}: another store has the slide id {store.slide_id!r} too")
        rows[store.slide_id] = vector
        _check_same(store, vector, next(iter(rows.values())))
    if not rows:
        raise RequestError("no stores to write a table of slide features of")
    _write_parquet(target, rows) if target.suffix.lower() == ".parquet" else _write_csv(target, rows)
    return len(rows)


def _opened(stores: Iterable[StoreLike]) -> Iterable[SlideStore]:
    for store in stores:
        if isinstance(store, SlideStore):
            yield store
            continue
        folder = place(store)
        inside = sorted((folder / "slides").glob("*.zarr")) if (folder / "slides").is_dir() else []
        for one in inside or [folder]:
            yield open_store(one)


def _vector(store: SlideStore, name: str | None, grid: str | None) -> SlideVector:
    table = store.patches(grid)
    names = slide_vector_names(table)
    if name is None and len(names) > 1:
        raise RequestError(f"{table.folder}: several slide features: name one of {', '.join(names)}")
    wanted = name or (names[0] if names else "")
    found = read_slide_vector(table, wanted) if wanted else None
    if found is None:
        raise StoreError(f"{table.folder}: no slide features {wanted}; there are {', '.join(names) or 'none'}")
    column = str(found.attributes.get("features", ""))
    made_of = table.receipt(column)
    if made_of is None or made_of.digest != found.receipt.inputs.get("features"):
        raise StoreError(f"{table.folder}: slide features {wanted} were made of other features than {column} now has")
    return found


def _check_same(store: SlideStore, vector: SlideVector, first: SlideVector) -> None:
    def kind(one: SlideVector) -> dict[str, Any]:
        return {key: value for key, value in one.attributes.items() if key not in _TOLERATED}

    if kind(vector) != kind(first) or vector.values.shape != first.values.shape or vector.name != first.name:
        raise RequestError(
            f"{store.folder}: slide features {vector.name} were made differently than those of the slides before "
            f"({_words(vector)}; {_words(first)})"
        )


def _words(vector: SlideVector) -> str:
    return f"{vector.name}, {len(vector.values)} numbers, {json.dumps(dict(vector.attributes), sort_keys=True)[:300]}"


def _write_parquet(path: Path, rows: dict[str, SlideVector]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(iter(rows.values()))
    flat = np.concatenate([vector.values for vector in rows.values()])
    about = {"name": first.name, **{key: first.attributes[key] for key in first.attributes if key not in _TOLERATED}}
    table = pa.table(
        {
            "slide_id": pa.array(list(rows), pa.string()),
            "patches": pa.array([int(vector.attributes["patches"]) for vector in rows.values()], pa.int64()),
            "features": pa.FixedSizeListArray.from_arrays(pa.array(flat), len(first.values)),
        }
    ).replace_schema_metadata({"wsikit": json.dumps(about, ensure_ascii=False)})
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _write_csv(path: Path, rows: dict[str, SlideVector]) -> None:
    width = len(next(iter(rows.values())).values)
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "patches", *(f"f{index}" for index in range(width))])
        for slide_id, vector in rows.items():
            numbers = (str(value) for value in vector.values)  # the shortest text that gives this float32 again
            writer.writerow([harmless(slide_id), vector.attributes["patches"], *numbers])
