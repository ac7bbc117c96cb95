"""Fast reading of a column from a local disk: chunk files decoded in threads, straight into the array.

zarr schedules each chunk as a task of its own, about 0.2 ms; a column of 10⁶ rows has 2,000 chunks. Here a chunk costs
its file and its decompression. What is read is exactly what zarr reads: columns of another layout, and chunks that do
not decode to the expected length, are left to zarr, which also words the error.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.executor import available_cpus
from wsikit.store.atomic import read_metadata
from wsikit.store.remote import RemotePath

TEXT_TYPE = "string"
"""Type of text in the metadata of an array, as zarr 3 writes it."""

_NUMBERS = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)
_KEYS = {"name": "default", "configuration": {"separator": "/"}}
_CHUNKS_PER_TASK = 64
_MOST_THREADS = 8

_Decode = Callable[[int], bool]
"""Decode the chunk of this index into its place; False if it is not as expected."""


def read_column(folder: Path, shape: Sequence[int], rows: slice) -> npt.NDArray[Any] | None:
    """Rows of a column; text as objects. None: zarr must read it.

    Parameters
    ----------
    folder
        The column's Zarr array.
    shape
        Its shape, (N,) or (N, width).
    rows
        Rows to read.

    Returns
    -------
    (n,) or (n, width), in the type of the column; None for a place that is not local, another layout or other codecs
    than those that wsikit writes, a chunk that is missing or damaged, and rows in steps.
    """
    first, stop, step = rows.indices(shape[0])
    if isinstance(folder, RemotePath) or step != 1 or stop <= first:
        return None
    try:
        record = read_metadata(folder)
        per_chunk = _rows_per_chunk(record, shape)
        if per_chunk is None:
            return None
        chunks = range(first // per_chunk, -(-stop // per_chunk))
        begin = chunks.start * per_chunk
        dtype = np.dtype(object if record["data_type"] == TEXT_TYPE else record["data_type"])
        # whole chunks: the last one is stored with its padding
        values = np.empty((len(chunks) * per_chunk, *shape[1:]), dtype)
        decode = _decoder(os.fspath(folder), values, chunks.start, per_chunk)
        if not _all(decode, chunks):
            return None
    except (ImportError, KeyError, TypeError, IndexError, ValueError, OSError, RuntimeError):
        return None
    return values[first - begin : stop - begin]


def _rows_per_chunk(record: Any, shape: Sequence[int]) -> int | None:
    """Rows of a chunk, if the array is of the layout that is read here."""
    chunk = list(record["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = [(codec["name"], codec.get("configuration", {})) for codec in record["codecs"]]
    kind, wide = record["data_type"], len(chunk) > 1
    if kind == TEXT_TYPE:
        packed = codecs[0][0] == "vlen-utf8" and not wide
    else:
        packed = kind in _NUMBERS and codecs[0][0] == "bytes" and sys.byteorder == "little"
        packed &= codecs[0][1].get("endian", "little") == "little"
    known = (
        packed
        and [name for name, _ in codecs[1:]] == ["zstd"]
        and record["chunk_grid"]["name"] == "regular"
        and record["chunk_key_encoding"] == _KEYS
        and not record.get("storage_transformers")
        and list(record["shape"]) == list(shape)
        and chunk[1:] == list(shape[1:])
        and len(shape) <= 2
        and chunk[0] > 0
    )
    return int(chunk[0]) if known else None


def _decoder(folder: str, values: npt.NDArray[Any], first: int, per_chunk: int) -> _Decode:
    """Decoding of the chunk `index` into its rows of `values`, whose first rows are those of the chunk `first`."""
    from imagecodecs import zstd_decode

    ending = "/0" if values.ndim == 2 else ""
    if values.dtype == object:
        from numcodecs.vlen import VLenUTF8

        texts = VLenUTF8()

        def decode_text(index: int) -> bool:
            at = (index - first) * per_chunk
            texts.decode(zstd_decode(_content(f"{folder}/c/{index}")), out=values[at : at + per_chunk])
            return True

        return decode_text

    length = per_chunk * math.prod(values.shape[1:]) * values.dtype.itemsize
    places: Any = values.reshape(-1).view(np.uint8)

    def decode(index: int) -> bool:
        at = (index - first) * length
        return len(zstd_decode(_content(f"{folder}/c/{index}{ending}"), out=places[at : at + length])) == length

    return decode


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(descriptor).st_size
        data = os.read(descriptor, size)
        if len(data) != size:
            raise OSError(f"{path}: {len(data)} bytes read of {size}")
        return data
    finally:
        os.close(descriptor)


def _all(decode: _Decode, chunks: range) -> bool:
    """Decode all chunks, in threads where there are many."""

    def run(part: range) -> bool:
        return all(decode(index) for index in part)

    if len(chunks) <= 2 * _CHUNKS_PER_TASK:
        return run(chunks)
    parts = [chunks[at : at + _CHUNKS_PER_TASK] for at in range(0, len(chunks), _CHUNKS_PER_TASK)]
    with ThreadPoolExecutor(min(_MOST_THREADS, available_cpus())) as pool:
        return all(pool.map(run, parts))
