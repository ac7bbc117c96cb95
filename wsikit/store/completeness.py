"""What of a patch table is there: which chunks of a column, which columns, and what has lost its metadata.

A chunk of rows is either stored completely or absent; a column is complete when no chunk is missing.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid
from wsikit.store.atomic import is_remains, new_node, read_metadata, write_bytes
from wsikit.store.format2_names import Names
from wsikit.store.plain_text import TEXT
from wsikit.store.receipts import Receipt
from wsikit.store.remote import RemotePath
from wsikit.store.table_nodes import MARK, create_coords, create_group
from wsikit.store.zstd_frame import is_complete_frame

if TYPE_CHECKING:
    import zarr

JOURNALS = "journals"
"""Folder next to the columns with the intermediate results of slow stages; see `wsikit.store.journal`."""

SLIDE_VECTORS = "slide_features"
"""Folder next to the columns with features of the whole slide; see `wsikit.store.slide_vectors`."""

_NO_COLUMNS = ("coords", "votes", JOURNALS, TEXT, SLIDE_VECTORS)


def missing_chunks(
    folder: Path, n_chunks: int, array: zarr.Array[Any] | None = None, *, whole: bool = False
) -> list[int]:
    """Indexes of the chunks of rows that a column lacks.

    Parameters
    ----------
    folder
        The column's folder.
    n_chunks
        Chunks of rows that it must have.
    array
        The opened column; needed on a local disk.
    whole
        Count chunks that are cut off as missing, too (on a local disk).
    """
    chunks = folder / "c"
    indexes = range(n_chunks)
    if isinstance(chunks, RemotePath):
        # one listing instead of a request per chunk; a remote folder exists only if it holds an object
        with contextlib.suppress(FileNotFoundError):
            present = {path.name for path in chunks.iterdir()}
            return [index for index in indexes if str(index) not in present]
        return list(indexes)
    assert array is not None
    # plain text: a Path for each of thousands of chunks takes longer than the question whether it is there
    prefix, ending = f"{os.fspath(chunks)}/", "/0" if array.ndim == 2 else ""
    if not whole or [type(codec).__name__ for codec in array.compressors] != ["ZstdCodec"]:
        return [index for index in indexes if not os.path.isfile(f"{prefix}{index}{ending}")]
    return [index for index in indexes if not _is_whole(f"{prefix}{index}{ending}")]


def _is_whole(path: str) -> bool:
    """Whether a chunk is there and not cut off. It is written atomically, but may be cut by a copy of the store."""
    try:
        with open(path, "rb", buffering=0) as file:
            return is_complete_frame(file.read())
    except FileNotFoundError:
        return False


def stored_columns(table: Path, names: Names) -> list[str]:
    """Names of all columns of a table, complete or not; without those that have lost their metadata."""
    folders = [path.parent for path in table.glob("*/zarr.json") if not path.parent.name.startswith(".")]
    found = sorted(folder.name for folder in folders if read_metadata(folder) is not None)
    return ["coords", *sorted(names.column(name) for name in found if name not in _NO_COLUMNS)]


def lost_columns(table: Path, names: Names) -> list[str]:
    """Names of columns that have lost their metadata, so that only files without a meaning are left."""
    remains = (path.name for path in table.iterdir() if path.name[0] != "." and is_remains(path))
    return sorted(names.column(name) for name in remains if name not in _NO_COLUMNS[1:])


def restore_metadata(folder: Path, grid: PatchGrid, coords: npt.NDArray[np.int64], receipt: Receipt) -> bool:
    """Write lost metadata of a table, or of its coordinates, again; False if its columns are of other patches.

    The columns that apply to the same patches have the receipt of coords: tissue is one of them.
    """
    of_patches = [read_metadata(folder / name) for name in ("coords", "tissue")]
    if not any(_is_column(record, len(coords), receipt) for record in of_patches):
        return False
    if read_metadata(folder) is None:
        with tempfile.TemporaryDirectory(prefix="wsikit-") as made:
            create_group(Path(made) / "table", grid, len(coords))
            write_bytes(folder / "zarr.json", (Path(made) / "table" / "zarr.json").read_bytes())
    if read_metadata(folder / "coords") is None:
        with new_node(folder / "coords") as partial:
            create_coords(partial, coords, receipt)
    return True


def _is_column(record: Any, n_rows: int, receipt: Receipt) -> bool:
    """Whether metadata are those of a column with `n_rows` rows and an equal receipt."""
    try:
        found = Receipt.from_json(record["attributes"][MARK])
        return found.digest == receipt.digest and record["shape"][0] == n_rows
    except (KeyError, TypeError, AttributeError, ValueError, IndexError):
        return False
