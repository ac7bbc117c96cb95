"""Atomic writes of files and zarr nodes, on a local disk and at a URL.

On a disk, content is written next to its target under a temporary name and then renamed. An object store shows an
object only when it is complete: there each object is written in one piece, and a node's own metadata last.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wsikit.errors import StoreError
from wsikit.store.json_text import indented_json
from wsikit.store.paths import place, upload
from wsikit.store.remote import RemotePath

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Piece = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

PARTIAL_SUFFIX = ".partial"
"""Ending of a file that is being written; zarr's local store uses the same. May be deleted when no run is active."""

_OUR_PARTIAL = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(PARTIAL_SUFFIX)}$")
"""Such a name with its random part, as wsikit and zarr's local store create it."""

SENDING = "wsikit-sending"
"""Object in a remote node while the node is being uploaded, and after an interrupted upload."""

_MARK = '"wsikit"'
"""In the metadata of every node that wsikit writes."""

_NAME_BYTES = 255
"""Maximum length of a file name on common file systems."""

_PIECES_AT_ONCE = 1024
"""Maximum of POSIX systems in one call."""


_DISK_FAULTS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str] | RemotePath, *, sync: bool = True) -> Iterator[Path]:
    """Yield a local path to write to; on success its content replaces `path`.

    On a disk, the temporary file lies next to `path` and is flushed before it is renamed; with `sync` False the caller
    flushes later (`flush`), many files at once. Content for a URL is written to a temporary folder and then uploaded.
    On an exception the temporary file is removed and `path` is unchanged. Missing folders are created.
    """
    target = place(path)
    if isinstance(target, RemotePath):
        with tempfile.TemporaryDirectory(prefix="wsikit-") as folder:
            local = Path(folder) / target.name
            yield local
            target.upload(local)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary_name(target)
    try:
        yield partial
        if sync:
            flush(partial)
        os.replace(partial, target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in _DISK_FAULTS and error.filename is None:
            error.filename = os.fspath(target)  # a failed write knows its number only
        raise


def write_json(path: str | os.PathLike[str] | RemotePath, record: Any, *, sync: bool = True) -> None:
    """Write `record` as indented JSON, atomically. ValueError for NaN, which is not JSON."""
    write_bytes(path, json_bytes(record), sync=sync)


def json_bytes(record: Any) -> bytes:
    """`record` as indented JSON with a final line break. ValueError for NaN, which is not JSON."""
    text = indented_json(record) + "\n"
    # bytes of a file name that are not UTF-8 are lone surrogates in Python: they become their JSON escapes
    return text.encode("utf-8", "backslashreplace")


def write_new_json(path: Path, record: Any, *, sync: bool = True) -> bool:
    """As `write_json`, where there is no such file; False if there is one, which is left unchanged."""
    if isinstance(path, RemotePath):
        write_json(path, record)
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary_name(path)
    write_json(partial, record, sync=sync)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: two runs that begin at the same moment cannot be distinguished there
        os.replace(partial, path)
        return True
    finally:
        partial.unlink(missing_ok=True)
    return True


def write_bytes(
    path: str | os.PathLike[str] | RemotePath, data: bytes | bytearray | memoryview, *, sync: bool = True
) -> None:
    """Write `data` atomically."""
    target = place(path)
    if isinstance(target, RemotePath):
        target.write_bytes(data)
        return
    _write_new(os.fspath(target), [data], sync=sync)


def write_pieces(path: str | os.PathLike[str] | RemotePath, pieces: Sequence[Piece]) -> None:
    """Write the concatenation of `pieces` atomically, without joining them in memory. It is not flushed.

    A power cut before it is flushed can leave a file that is cut off under this name: the content must have a checksum.
    """
    target = place(path)
    if isinstance(target, RemotePath):
        target.write_bytes(b"".join(map(bytes, pieces)))
        return
    _write_new(os.fspath(target), pieces, sync=False)


def _write_new(name: str, pieces: Sequence[Piece], *, sync: bool) -> None:
    """As `atomic_write`, of a local file. Stores have many files, and a small slide's take as long as its pixels."""
    partial = _partial_name(name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(partial, flags, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(partial), exist_ok=True)
        descriptor = os.open(partial, flags, 0o666)
    try:
        try:
            for first in range(0, len(pieces), _PIECES_AT_ONCE):
                _write_some(descriptor, pieces[first : first + _PIECES_AT_ONCE])
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, name)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _write_some(descriptor: int, pieces: Sequence[Piece]) -> None:
    """Write all of `pieces`; OSError where the disk is full."""
    buffers = cast(Sequence[bytes], pieces)  # typing has no name for what has a buffer before Python 3.12
    written = os.writev(descriptor, buffers) if hasattr(os, "writev") else 0
    if written < sum(map(len, pieces)):  # a short write is allowed; the next call raises the error, if any
        rest = memoryview(b"".join(map(bytes, pieces)))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def remove_partials(folder: Path) -> None:
    """Remove the temporary files of interrupted writes below `folder`. No other run may be writing there."""
    if isinstance(folder, RemotePath):
        return  # remote writes leave no temporary files
    for left in sorted(folder.rglob(f"*{PARTIAL_SUFFIX}")):
        if not _OUR_PARTIAL.search(left.name):
            continue  # another program's file with the same ending
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)  # its folder may have been removed just before


def remove_old_partials(folder: Path, *, hours: float = 1.0) -> None:
    """Remove temporary files directly in `folder` that are older than `hours`: others may be writing there now."""
    limit = time.time() - 3600 * hours
    for left in folder.glob(f"*{PARTIAL_SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            if _OUR_PARTIAL.search(left.name) and left.is_file() and left.stat().st_mtime < limit:
                left.unlink()


def remove_partials_of(target: Path) -> None:
    """Remove the temporary files that interrupted writes of this very file or folder left next to it.

    Of two processes that write one file at once, one would fail: neither result would be the one that was expected.
    """
    if isinstance(target, RemotePath) or not target.parent.is_dir():
        return
    for name in os.listdir(target.parent):
        found = _OUR_PARTIAL.search(name)
        if found is not None and name[: found.start()] in (target.name, f".{target.name}"):
            left = target.parent / name
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def is_our_partial(name: str) -> bool:
    """Whether this is the name of a temporary file as wsikit and zarr's local store create it.

    >>> is_our_partial(f"slides.csv.{'0a' * 16}.partial"), is_our_partial("notes.partial")
    (True, False)
    """
    return _OUR_PARTIAL.search(name) is not None


def without_partial(name: str) -> str:
    """The name of the file that a temporary file was to become; other names unchanged.

    >>> without_partial(f"out/row.json.{'0a' * 16}.partial"), without_partial("a.svs")
    ('out/row.json', 'a.svs')
    """
    return _OUR_PARTIAL.sub("", name)


def names_in(folder: Path) -> list[str]:
    """Names in a local folder, sorted, without the temporary files of interrupted writes; empty without a folder."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(name for name in names if not _OUR_PARTIAL.search(name))


def flush(path: str | os.PathLike[str] | RemotePath) -> None:
    """Flush a file's content to the disk. Nothing to do at a URL."""
    if isinstance(path, RemotePath):
        return
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_node(folder: Path) -> Iterator[Path]:
    """Yield a local path at which to create a zarr node; on success the node replaces `folder`.

    Raises
    ------
    StoreError
        `folder` exists and wsikit did not write it; it is left unchanged.
    """
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="wsikit-") as parent:
            partial = Path(parent) / folder.name
            yield partial
            replace_folder(partial, folder)
        return
    partial = _temporary_name(folder, hidden=True)
    try:
        yield partial
        replace_folder(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(partial: Path, folder: Path) -> None:
    """Replace `folder`, which may be remote, by the zarr node `partial`, a local folder.

    Raises
    ------
    StoreError
        `folder` exists and wsikit did not write it; it is left unchanged.
    """
    there = folder.exists()
    if there and not _is_ours(folder):
        shutil.rmtree(partial)
        raise StoreError(f"{folder}: exists, but wsikit did not write it. Move it to another place and run again.")
    if isinstance(folder, RemotePath):
        if there or len(list(partial.rglob("*"))) > 1:
            _send(partial, folder)
        else:
            upload(partial, folder)  # metadata only: a single object, which is atomic
            shutil.rmtree(partial)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    old = _temporary_name(folder, hidden=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(old)
    partial.rename(folder)
    if old.exists():
        shutil.rmtree(old)


def _is_ours(folder: Path) -> bool:
    """Whether wsikit wrote the node at `folder`, or began to upload it, or it is a node of ours with lost metadata."""
    if (folder / SENDING).is_file():
        return True
    record = read_metadata(folder)
    return is_remains(folder) if record is None else _MARK in json.dumps(record)


def read_metadata(folder: Path) -> Any:
    """The content of the zarr.json of the node at `folder`; None if it is missing or cut off."""
    try:
        return json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None


def is_remains(folder: Path) -> bool:
    """Whether `folder` is what is left of a node of a store that has lost its metadata: nothing but Zarr files."""
    if read_metadata(folder) is not None or not folder.is_dir():
        return False
    above = folder.absolute()
    for _ in range(3):
        above = above.parent
        if _MARK in json.dumps(read_metadata(above)):
            break
    else:
        return False  # not in a store
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return all(path.name == "zarr.json" or path.name.isdigit() or _OUR_PARTIAL.search(path.name) for path in files)


def _send(partial: Path, folder: RemotePath) -> None:
    """Replace a remote node, which cannot be renamed: during the upload it has a marker object and no metadata."""
    mark = folder / SENDING
    mark.write_bytes(b"")
    (folder / "zarr.json").unlink(missing_ok=True)
    folder.remove_all(but=SENDING)
    upload(partial, folder)
    mark.unlink()
    shutil.rmtree(partial)


def _temporary_name(path: Path, *, hidden: bool = False) -> Path:
    return Path(_partial_name(os.fspath(path), hidden=hidden))


def _partial_name(path: str, *, hidden: bool = False) -> str:
    ending = f".{os.urandom(16).hex()}{PARTIAL_SUFFIX}"
    folder, name = os.path.split(path)
    if hidden:
        name = "." + name
    if len(name) + len(ending) > _NAME_BYTES // 4:  # rare: a character has up to four bytes
        name = os.fsdecode(os.fsencode(name)[: _NAME_BYTES - len(ending)])
    return os.path.join(folder, name + ending)
