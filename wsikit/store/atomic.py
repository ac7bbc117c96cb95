"""Files and zarr nodes that are there whole or not at all, on a local disk and at a URL.

On a disk they are written beside their place under another name, then renamed. An object store shows an object only
once all of it has arrived: there they are written in one piece, and of a node its own metadata last.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.store.paths import place, upload
from wsikit.store.remote import RemotePath

PARTIAL_SUFFIX = ".partial"
"""Ending of a file still being written; zarr's local store uses the same. Safe to delete when no run is going."""

_OUR_PARTIAL = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(PARTIAL_SUFFIX)}$")
"""With the random part of the name that we, and zarr's local store, give such files."""

SENDING = "wsikit-sending"
"""Lies in a remote node while it is being sent, and after a send that was interrupted."""

_PIECES_AT_ONCE = 1024
"""The most that POSIX systems take in one call."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str] | RemotePath, *, sync: bool = True) -> Iterator[Path]:
    """Yield a local path to write to; on success its content takes `path`'s place.

    On a disk it lies beside `path`, and is flushed before it is renamed; with `sync` False the caller flushes later
    (`flush`), many files at once. What is meant for a URL is written to a temporary folder and then sent. On an
    exception the temporary file is removed and `path` stays as it was. Missing folders are made.
    """
    target = place(path)
    if isinstance(target, RemotePath):
        with tempfile.TemporaryDirectory(prefix="wsikit-") as folder:
            local = Path(folder) / target.name
            yield local
            target.upload(local)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(target)
    try:
        yield partial
        if sync:
            flush(partial)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: str | os.PathLike[str] | RemotePath, record: Any, *, sync: bool = True) -> None:
    """Write `record` as readable JSON, atomically. NaN is refused: it is not JSON."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode("utf-8"), sync=sync)


def write_bytes(
    path: str | os.PathLike[str] | RemotePath, data: bytes | bytearray | memoryview, *, sync: bool = True
) -> None:
    """Write `data` atomically."""
    target = place(path)
    if isinstance(target, RemotePath):
        target.write_bytes(data)
        return
    with atomic_write(target, sync=sync) as partial:
        partial.write_bytes(data)


def write_pieces(path: str | os.PathLike[str] | RemotePath, pieces: Sequence[bytes], *, sync: bool = True) -> None:
    """Write `pieces` one behind the other, atomically, without joining them in memory."""
    target = place(path)
    if isinstance(target, RemotePath):
        target.write_bytes(b"".join(pieces))
        return
    with atomic_write(target, sync=False) as partial, open(partial, "wb", buffering=0) as file:
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            _write_some(file.fileno(), pieces[first : first + _PIECES_AT_ONCE])
        if sync:
            os.fsync(file.fileno())


def _write_some(descriptor: int, pieces: Sequence[bytes]) -> None:
    """Write all of `pieces`; OSError where the disk is full."""
    written = os.writev(descriptor, pieces) if hasattr(os, "writev") else 0
    if written < sum(map(len, pieces)):  # a system may take less than it was given, and says why at the next call
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def remove_partials(folder: Path) -> None:
    """Remove what interrupted writes left anywhere below `folder`. Only where no other run is at work on it."""
    if isinstance(folder, RemotePath):
        return  # nothing is written beside its place there
    for left in sorted(folder.rglob(f"*{PARTIAL_SUFFIX}")):
        if not _OUR_PARTIAL.search(left.name):
            continue  # somebody else's file that happens to end so
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)  # it may have lain in a folder that is gone by now


def foreign_names(folder: Path) -> list[str]:
    """What lies in a local folder, sorted, but for what interrupted writes of ours left; empty if there is none."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name for name in names if not _OUR_PARTIAL.search(name))


def flush(path: str | os.PathLike[str] | RemotePath) -> None:
    """See to it that a file's content is on the disk. What lies at a URL is there once it is written."""
    if isinstance(path, RemotePath):
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_node(folder: Path) -> Iterator[Path]:
    """Yield a local path at which to make a zarr node; on success it takes the place of `folder`.

    A node of ours that is there already is removed; something else is left alone and StoreError is raised.
    """
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="wsikit-") as parent:
            partial = Path(parent) / folder.name
            yield partial
            replace_folder(partial, folder)
        return
    partial = _beside(folder, hidden=True)
    try:
        yield partial
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(partial: Path, folder: Path) -> None:
    """Put the zarr node `partial`, a local folder, in the place of `folder`, which may be remote.

    A node of ours that is there already is removed; something else is left alone and StoreError is raised.
    """
    there = folder.exists()
    if there and not _is_ours(folder):
        shutil.rmtree(partial)
        raise StoreError(f"{folder}: something that wsikit did not write is in the way. Move it away and run again.")
    if isinstance(folder, RemotePath):
        if there or len(list(partial.rglob("*"))) > 1:
            _send(partial, folder)
        else:
            upload(partial, folder)  # nothing but metadata: it is there whole at once
            shutil.rmtree(partial)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = _beside(folder, hidden=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    partial.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _is_ours(folder: Path) -> bool:
    """Whether we wrote the node at `folder`, or began to send it."""
    metadata = folder / "zarr.json"
    return (metadata.is_file() and '"wsikit"' in metadata.read_text(encoding="utf-8")) or (folder / SENDING).is_file()


def _send(partial: Path, folder: RemotePath) -> None:
    """Replace a remote node, which cannot be renamed: while it is under way it has a mark of ours and no metadata."""
    mark = folder / SENDING
    mark.write_bytes(b"")
    (folder / "zarr.json").unlink(missing_ok=True)
    folder.remove_all(but=SENDING)
    upload(partial, folder)
    mark.unlink()
    shutil.rmtree(partial)


def _beside(path: Path, *, hidden: bool = False) -> Path:
    return path.with_name(f"{'.' if hidden else ''}{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
