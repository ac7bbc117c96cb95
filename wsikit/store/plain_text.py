"""Text columns as bytes too, for programs whose Zarr library has no type for text; wsikit itself does not read them.

Column `caption` of a table is then also `text/caption`: uint8 (N, W), each row the UTF-8 bytes of one text, padded with
zeros. In Python: `bytes(row).rstrip(b"\\0").decode()`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from wsikit.store.atomic import new_node, write_json
from wsikit.store.ngff import group
from wsikit.store.paths import remove_tree

if TYPE_CHECKING:
    from wsikit.store.table import PatchTable

TEXT = "text"
"""Group of a table that holds them."""

_ROWS_PER_CHUNK = 4096


def wants_plain_text(record: Mapping[str, Any]) -> bool:
    """Whether the store with this root record is for other programs: of the portable profile."""
    return bool(record["receipt"].get("parameters", {}).get("profile") == "portable")


def write_plain_text(table: PatchTable) -> None:
    """Write every complete text column of `table` as bytes; those that are up to date are kept."""
    for name in table.columns():
        receipt = table.receipt(name)
        if receipt is None or not table.is_text(name):
            continue
        made: dict[str, Any] = {
            "wsikit": {"column": name, "digest": receipt.digest},
            "encoding": "utf-8, padded with zero bytes",
        }
        folder = table.folder / TEXT / name
        if _attributes(folder) == made:
            continue
        texts = [str(text).encode() for text in table.read(name)]
        width = max(1, *map(len, texts), 1)
        rows = np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), dtype=np.uint8)
        if not (table.folder / TEXT / "zarr.json").is_file():
            write_json(table.folder / TEXT / "zarr.json", group({}))
        with new_node(folder) as partial:
            array = zarr.create_array(
                partial,
                shape=(len(texts), width),
                chunks=(_ROWS_PER_CHUNK, width),
                dtype="uint8",
                dimension_names=("patch", "byte"),
                attributes=made,
            )
            if texts:
                array[:] = rows.reshape(len(texts), width)


def remove_plain_text(table: Path, column: str) -> None:
    """Remove the bytes of a text column that is to be replaced."""
    folder = table / TEXT / column
    if (folder / "zarr.json").is_file():
        remove_tree(folder)


def _attributes(folder: Path) -> Any:
    try:
        return json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except FileNotFoundError:
        return None
