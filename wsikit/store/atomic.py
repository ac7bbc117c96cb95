"""Files that are there whole or not at all: written beside their place under another name, then renamed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError

PARTIAL_SUFFIX = ".partial"
"""Ending of a file still being written; zarr's local store uses the same. Safe to delete when no run is going."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and takes `path`'s place.

    On an exception the temporary file is removed and `path` stays as it was. Missing folders are made. With `sync`
    False the caller flushes later (`flush`), many files at once.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        yield partial
        if sync:
            flush(partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str], record: Any, *, sync: bool = True) -> None:
    """Write `record` as readable JSON, atomically. NaN is refused: it is not JSON."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path, sync=sync) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: str | os.PathLike[str], data: bytes | bytearray | memoryview, *, sync: bool = True) -> None:
    """Write `data` atomically."""
    with atomic_write(path, sync=sync) as partial:
        partial.write_bytes(data)


def flush(path: str | os.PathLike[str]) -> None:
    """See to it that a file's content is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def replace_folder(partial: Path, folder: Path) -> None:
    """Put the zarr node `partial` in the place of `folder`.

    A node of ours that is there already is removed; something else is left alone and StoreError is raised.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        partial.rename(folder)
        return
    metadata = folder / "zarr.json"
    if not metadata.is_file() or '"wsikit"' not in metadata.read_text(encoding="utf-8"):
        shutil.rmtree(partial)
        raise StoreError(f"{folder}: something that wsikit did not write is in the way. Move it away and run again.")
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old)
