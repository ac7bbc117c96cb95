"""Paths of stores: a folder on a local disk (`pathlib.Path`), or a URL that fsspec supports (`RemotePath`).

Local paths stay plain paths; the network is used only for URLs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from wsikit.errors import RequestError
from wsikit.store.remote import ABSENT, URL, RemotePath, async_filesystem, filesystem, naming

if TYPE_CHECKING:
    from zarr.storage import FsspecStore

Place = Path | RemotePath

_FAULTS = (ValueError, LookupError, TypeError, AttributeError, RuntimeError)
"""Errors in data and code, such as a damaged chunk: reported unchanged, not as an unreachable place."""
_MARKER = "zarr.json"


def place(text: str | os.PathLike[str] | RemotePath) -> Path:
    """The path that `text` names: a RemotePath for `scheme://…`, else a `pathlib.Path`.

    The result is declared as a Path, since a RemotePath has the methods of a Path that stores use.

    Raises
    ------
    RequestError
        fsspec does not support the scheme, or its library is not installed; a chain of URLs (`a::b://`).

    >>> place("slides/a.zarr").name, place("file:///data/a.zarr").parts[-1]
    ('a.zarr', 'a.zarr')
    """
    if isinstance(text, RemotePath):
        return cast(Path, text)
    name = os.fspath(text)
    match = URL.match(name)
    if match is None:
        if "::" in name and "://" in name:
            raise RequestError(f"{name}: chained URLs are not supported; give the address of the store itself")
        return Path(name)
    if match["scheme"].lower() == "file":
        return Path(match["rest"])
    found = RemotePath(name)
    filesystem(found.root, os.getpid())
    return cast(Path, found)


def is_url(text: str | os.PathLike[str] | RemotePath) -> bool:
    """Whether `text` is the URL of a remote place. No network access.

    >>> is_url("memory://a.zarr"), is_url("a.zarr")
    (True, False)
    """
    return not is_local(place(text))


def local_folder(text: str | os.PathLike[str] | RemotePath) -> Path:
    """The local folder that `text` names; RequestError for a URL, where only stores may be written."""
    found = place(text)
    if isinstance(found, RemotePath):
        raise RequestError(
            f"{found}: results are written to a local folder; only slide stores may be at a URL. Give a folder."
        )
    return found


def is_local(where: Place) -> bool:
    """Whether a path is on a local disk, so that it can be opened, renamed and read by position."""
    return isinstance(where, Path)


def zarr_store(where: Place) -> Path | FsspecStore:
    """The store argument for zarr: the path itself, or a store over fsspec."""
    if isinstance(where, Path):
        return where
    from zarr.storage import FsspecStore

    return FsspecStore(async_filesystem(where.root, os.getpid()), path=where.key)


@contextlib.contextmanager
def reaching(where: Place) -> Iterator[None]:
    """Convert the errors of a remote library that gets no answer to UnreachableError, with the place in the message.

    For reads and writes by zarr; the methods of RemotePath do this themselves. Errors for missing files and damaged
    data are not converted, and at a local path no error is.
    """
    if isinstance(where, Path):
        yield
        return
    with naming(where, (*ABSENT, *_FAULTS)):
        yield


def read_range(where: Place, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, fewer at the end of the file; a negative offset counts from the end.

    One positioned read on a disk, one ranged request elsewhere. FileNotFoundError if there is no such file.
    """
    if isinstance(where, RemotePath):
        return where.read_range(offset, length)
    descriptor = os.open(where, os.O_RDONLY)
    try:
        start = offset if offset >= 0 else max(0, os.fstat(descriptor).st_size + offset)
        return os.pread(descriptor, length, start)
    finally:
        os.close(descriptor)


def sizes_below(where: Place) -> dict[str, int]:
    """Length of each file in a folder and below, bytes, by its name relative to the folder; empty without a folder."""
    if isinstance(where, RemotePath):
        return where.sizes_below()
    found: dict[str, int] = {}
    waiting = [(os.fspath(where), "")]
    while waiting:
        folder, prefix = waiting.pop()
        with contextlib.suppress(*ABSENT), os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    found[prefix + entry.name] = entry.stat().st_size
    return found


def bytes_below(where: Place) -> int:
    """Length of all files in a folder, bytes."""
    if isinstance(where, RemotePath):
        return where.bytes_below()
    return sum(path.stat().st_size for path in where.rglob("*") if path.is_file())


def remove_tree(where: Place) -> None:
    """Remove a folder with its content; of a remote zarr node the metadata first, so that a part cannot be opened."""
    if isinstance(where, Path):
        shutil.rmtree(where)
        return
    (where / _MARKER).unlink(missing_ok=True)
    where.remove_all()


def upload(source: Path, target: RemotePath) -> None:
    """Upload a local file, or a zarr node with its content; a node's own metadata last."""
    if source.is_file():
        target.upload(source)
        return
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path == source / _MARKER):
        target.joinpath(*path.relative_to(source).parts).upload(path)
