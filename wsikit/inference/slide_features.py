"""Features of the whole slide from those of its patches: mean, attention pooling, or a slide encoder.

They are stored as `slide_features/<name>` of the patch table (`wsikit.store.slide_vectors`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import COLUMN_PREFIX
from wsikit.errors import ModelError, RequestError
from wsikit.slides.store import StoreLike, open_store
from wsikit.store.receipts import Receipt
from wsikit.store.slide_vectors import SlideVector, read_slide_vector, write_slide_vector
from wsikit.store.table import PatchTable, coords_digest

if TYPE_CHECKING:
    from wsikit.encoders.slide_protocol import SlideEncoder

SLIDE_FEATURES_REVISION = 1

MEAN = "mean"
_MEAN_RECORD = {"name": MEAN, "fingerprint": hashlib.sha256(b"mean of float64, 1").hexdigest()}

_ROWS_AT_ONCE = 1 << 14


@runtime_checkable
class _SlideEncoder(Protocol):
    @property
    def info(self) -> Any: ...

    def encode(self, features: Any, coords: Any, patch_size_lv0: float) -> Any: ...


def slide_features(
    store: StoreLike,
    *,
    features: str | None = None,
    pooling: str | SlideEncoder = MEAN,
    weights: str | None = None,
    name: str | None = None,
    grid: str | None = None,
    device: str = "cpu",
) -> SlideVector:
    """Compute features of the slide and store them; those with an equal receipt are kept.

    Patches without features (they could not be read) are left out.

    Parameters
    ----------
    store
        A slide store, or its path.
    features
        Name of the encoder of the patches: column `features_<name>`; not needed if the table has only one.
    pooling
        "mean"; "abmil:FILE", gated attention with the weights of a file, or another name that
        `wsikit.encoders.slide_registry.load_slide_encoder` takes; or a `SlideEncoder`.
    weights
        "tissue": each patch counts by its tissue fraction (mean only). None: all count the same.
    name
        Name of the result; by default `<features>-<pooling>`.
    grid
        Name of the patch grid; not needed if the store has only one.
    device
        Where a slide encoder runs: "cpu", "cuda".

    Returns
    -------
    SlideVector
        `values`, float32 (S,): as many as a patch has for the mean.

    Raises
    ------
    RequestError
        There are no such features, or no patch has any.
    ModelError
        The slide encoder is unknown, was made for features of another encoder, or cannot be loaded.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> from wsikit.store.table import ColumnSpec
    >>> folder = tempfile.mkdtemp()
    >>> slide = wsikit.make_phantom(f"{folder}/slide.tiff", size_px=(448, 448)).path
    >>> store = wsikit.tile(slide, f"{folder}/slide.zarr")
    >>> table = store.patches()
    >>> for rows in table.prepare([ColumnSpec("features_x", "float32", 2)], Receipt("example", 1)):
    ...     table.write("features_x", rows, np.ones((rows.stop - rows.start, 2)))
    >>> found = slide_features(store)
    >>> found.name, found.values.tolist()
    ('x-mean', [1.0, 1.0])
    """
    table = open_store(store).patches(grid)
    column = _column(table, features)
    encoder = None if pooling == MEAN else _encoder(pooling, device)
    if weights is not None and (weights != "tissue" or encoder is not None):
        raise RequestError(f"weights {weights!r}: expected 'tissue', for the mean only")
    record = dict(_MEAN_RECORD) if encoder is None else dict(encoder.info.record())
    if encoder is not None:
        _check_patch_encoder(encoder.info, column)
    made_of = table.receipt(column)
    assert made_of is not None  # the column is complete
    inputs = {"patches": coords_digest(table), "features": made_of.digest, "pooling": str(record["fingerprint"])}
    if weights is not None:
        inputs["tissue"] = getattr(table.receipt("tissue"), "digest", "")
    receipt = Receipt("slide_features", SLIDE_FEATURES_REVISION, {"weights": weights}, inputs)
    of = column.removeprefix(COLUMN_PREFIX)
    wanted = name or f"{of}-{record['name']}{'' if weights is None else f'-{weights}'}"
    known = read_slide_vector(table, wanted)
    if known is not None and known.receipt.digest == receipt.digest:
        return known
    if encoder is None:
        values, n = _mean(table, column, weights)
    else:
        vectors, coords = _all(table, column)
        n = len(vectors)
        values = np.asarray(encoder.encode(vectors, coords, sum(table.grid.side) / 2), dtype=np.float32)
    attributes = {
        "features": column,
        "encoder": table.attributes(column).get("encoder", of),
        "pooling": record,
        "weights": weights,
        "patches": n,
    }
    vector = SlideVector(wanted, values, receipt, attributes)
    write_slide_vector(table, vector)
    return vector


def _column(table: PatchTable, features: str | None) -> str:
    there = [one for one in table.columns() if one.startswith(COLUMN_PREFIX) and table.width(one) is not None]
    if features is None:
        there_main = [one for one in there if not (one.endswith("-shared") and one.removesuffix("-shared") in there)]
        wanted = there_main[0] if len(there_main) == 1 else ""
    else:
        wanted = features if features.startswith(COLUMN_PREFIX) else f"{COLUMN_PREFIX}{features}"
    if wanted not in there:
        names = ", ".join(one.removeprefix(COLUMN_PREFIX) for one in there) or "none"
        asked = "name one of the features" if features is None else f"no features {features!r}"
        raise RequestError(f"{table.folder}: {asked}; there are {names}")
    return wanted


def _encoder(pooling: str | SlideEncoder, device: str) -> SlideEncoder:
    if isinstance(pooling, str):
        from wsikit.encoders.slide_registry import load_slide_encoder

        return load_slide_encoder(pooling, device=device)
    if not isinstance(pooling, _SlideEncoder):
        raise RequestError(f"pooling {pooling!r}: expected a name or an object with `info` and `encode`")
    return pooling


def _check_patch_encoder(info: Any, column: str) -> None:
    """ModelError if a slide encoder was trained on features of another encoder."""
    expected, found = str(info.patch_encoder), column.removeprefix(COLUMN_PREFIX)
    if expected and _letters(expected) != _letters(found):
        raise ModelError(
            f"slide encoder {info.name!r} was made for features of {expected}; these are of {found}. Compute those "
            f"first (wsikit features --encoder {expected})."
        )


def _letters(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())


def _mean(table: PatchTable, column: str, weights: str | None) -> tuple[npt.NDArray[np.float32], int]:
    """Mean over the patches with features, summed in float64, and their number."""
    total = np.zeros(table.width(column) or 0, dtype=np.float64)
    weight, n = 0.0, 0
    for rows, values in _blocks(table, column):
        known = ~np.isnan(values).all(axis=1)
        share = table.read("tissue", rows)[known] if weights else np.ones(int(known.sum()))
        total += share.astype(np.float64) @ values[known].astype(np.float64)
        weight += float(share.sum())
        n += int(known.sum())
    if not weight:
        raise RequestError(f"{table.folder}: no patch has features in {column}{' and tissue' if weights else ''}")
    return _finite(table, column, (total / weight).astype(np.float32)), n


def _all(table: PatchTable, column: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Features (N, D) and corners (N, 2), level-0 px, of the patches with features."""
    parts, coords, everything = [], [], table.coords
    for rows, values in _blocks(table, column):
        known = ~np.isnan(values).all(axis=1)
        parts.append(values[known].astype(np.float32))
        coords.append(everything[rows][known])
    if not sum(map(len, parts)):
        raise RequestError(f"{table.folder}: no patch has features in {column}")
    return _finite(table, column, np.concatenate(parts)), np.concatenate(coords)


def _finite(table: PatchTable, column: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise RequestError(f"{table.folder}: {column} has infinity, or NaN in some numbers of a row. Compute it again.")
    return values


def _blocks(table: PatchTable, column: str) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    for first in range(0, len(table), _ROWS_AT_ONCE):
        rows = slice(first, min(first + _ROWS_AT_ONCE, len(table)))
        yield rows, table.read(column, rows)
