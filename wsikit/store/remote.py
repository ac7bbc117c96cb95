"""Files and folders at a URL that fsspec supports, with the methods of `pathlib.Path` that stores use.

Remote places are treated as object stores: a folder exists if it holds an object, and an object exists only after it
was uploaded completely.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsikit.errors import RequestError, UnreachableError, WsikitError

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)

ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors of pathlib for a missing path or one of another kind: an answer of the file system, not a failure."""

_ONE_PIECE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class RemoteStat:
    """Properties of a remote file."""

    st_size: int
    """Bytes."""


class RemotePath:
    """A file or folder at a URL, with the methods of `pathlib.Path` that stores use.

    Without an answer from the server, every method raises UnreachableError, while `exists` and `isfile` of fsspec
    return False: an unreachable file must not be treated as a missing one. There is no `__fspath__`, so that passing it
    to `open` or `Path` by mistake fails at once. Picklable; file systems are shared by all threads of a process.
    """

    __slots__ = ("_parts", "root")

    def __init__(self, url: str) -> None:
        match = URL.fullmatch(url)
        if match is None:
            raise RequestError(f"{url}: not a URL")
        host, *parts = match["rest"].split("/")
        self.root = f"{match['scheme'].lower()}://{host}"
        """Scheme and host, or bucket."""
        self._parts = tuple(part for part in parts if part)

    # ---- the name

    def __str__(self) -> str:
        return "/".join((self.root, *self._parts))

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __lt__(self, other: RemotePath) -> bool:
        return (self.root, self._parts) < (other.root, other._parts)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (str(self),)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self}/{name}")

    def joinpath(self, *names: str) -> RemotePath:
        return RemotePath("/".join((str(self), *names)))

    @property
    def key(self) -> str:
        """The name within the file system, without scheme, such as bucket/slide.zarr."""
        return str(filesystem(self.root, os.getpid())._strip_protocol(str(self))).rstrip("/")

    @property
    def name(self) -> str:
        return self._parts[-1] if self._parts else self.root.partition("://")[2]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        return RemotePath("/".join((self.root, *self._parts[:-1])))

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def absolute(self) -> RemotePath:
        return self

    # ---- existence and listing

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def stat(self) -> RemoteStat:
        with self._answering():
            return RemoteStat(int(self._fs.info(self.key)["size"]))

    def iterdir(self) -> Iterator[RemotePath]:
        """Children, in no order; FileNotFoundError if there are none."""
        yield from (path for path, _ in self._listed())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Paths below that match, such as `*/zarr.json`; `**` is not supported."""
        first, _, rest = pattern.partition("/")
        if not any(sign in first for sign in "*?["):
            found = self / first
            if rest:
                yield from found.glob(rest)
            elif found.exists():
                yield found
            return
        with contextlib.suppress(*ABSENT):
            for path, kind in self._listed():
                if not fnmatchcase(path.name, first):
                    continue
                if not rest:
                    yield path
                elif kind == "directory":
                    yield from path.glob(rest)

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Files and folders at any depth below whose name matches `pattern`."""
        with self._answering(), contextlib.suppress(*ABSENT):
            found = self._fs.find(self.key, withdirs=True)
        for path in map(self._at, found):
            if path != self and fnmatchcase(path.name, pattern):
                yield path

    def bytes_below(self) -> int:
        """Total length of all files below, bytes; by one listing."""
        return sum(self.sizes_below().values())

    def sizes_below(self) -> dict[str, int]:
        """Length of each file below, bytes, by its name relative to this folder; by one listing."""
        with self._answering(), contextlib.suppress(*ABSENT):
            found = self._fs.find(self.key, detail=True)
            prefix = self.key
            return {name.removeprefix(prefix).strip("/"): int(info["size"]) for name, info in found.items()}
        return {}

    # ---- content

    def read_bytes(self) -> bytes:
        with self._answering():
            return bytes(self._fs.cat_file(self.key))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def read_range(self, offset: int, length: int) -> bytes:
        """See `wsikit.store.paths.read_range`."""
        with self._answering():
            if offset < 0:
                return bytes(self._fs.cat_file(self.key, start=offset))[:length]
            return bytes(self._fs.cat_file(self.key, start=offset, end=offset + length))

    def write_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """Write the object in one request, which is atomic in object stores."""
        with self._writing():
            self._fs.pipe_file(self.key, bytes(data))

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def upload(self, source: Path) -> None:
        """Put a local file here, in one piece or, if it is large, in parts that are shown once all have arrived."""
        if source.stat().st_size <= _ONE_PIECE_BYTES:
            self.write_bytes(source.read_bytes())
            return
        with self._writing():
            self._fs.put_file(str(source), self.key)

    def unlink(self, missing_ok: bool = False) -> None:
        with self._answering():
            try:
                self._fs.rm_file(self.key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_all(self, *, but: str | None = None) -> None:
        """Remove this file, or all files below, except the one called `but`."""
        with self._answering(), contextlib.suppress(*ABSENT):
            kept = None if but is None else (self / but).key
            found = [key for key in self._fs.find(self.key) if key != kept]
            if found:
                self._fs.rm(found)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a remote folder exists as soon as it holds an object."""

    # ---- below

    @property
    def _fs(self) -> Any:
        return filesystem(self.root, os.getpid())

    def _kind(self) -> str | None:
        with self._answering():
            try:
                return str(self._fs.info(self.key)["type"])
            except ABSENT:
                return None

    def _listed(self) -> list[tuple[RemotePath, str]]:
        with self._answering():
            entries = [(self._at(entry["name"]), str(entry["type"])) for entry in self._fs.ls(self.key, detail=True)]
        return [(path, kind) for path, kind in entries if path != self]

    def _at(self, key: str) -> RemotePath:
        """The place below this one that the file system calls `key`."""
        below = key.rstrip("/").removeprefix(self.key).strip("/")
        return self / below if below else self

    def _answering(self) -> contextlib.AbstractContextManager[None]:
        return naming(self, ABSENT)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return naming(self, ())  # only the bucket can be absent


@contextlib.contextmanager
def naming(where: RemotePath, kept: tuple[type[Exception], ...]) -> Iterator[None]:
    """Convert exceptions to UnreachableError, except `kept` and WsikitError: each library raises its own."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (*kept, WsikitError)):
            raise
        raise _unreachable(where, error) from error


def _unreachable(where: RemotePath, error: Exception) -> UnreachableError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UnreachableError(
        f"{where}: could not be reached ({reason}). Check the address, the credentials and the network, then run "
        "the same command again."
    )


@lru_cache(maxsize=64)
def filesystem(root: str, pid: int) -> Any:
    """The fsspec file system behind a scheme and host, one for all threads of a process.

    `pid` is a key of the cache, because connections cannot be used after a fork.
    """
    import fsspec

    scheme = root.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(root, **_options(scheme))[0]
    except ImportError as error:
        extra = "Install it with pip install 'wsikit[s3]'." if scheme in ("s3", "s3a") else "Install that library."
        raise RequestError(f"{root}: the library for {scheme}:// is not installed ({error}). {extra}") from error
    except ValueError as error:
        raise RequestError(f"{root}: fsspec does not support {scheme}:// ({error})") from error


@lru_cache(maxsize=64)
def async_filesystem(root: str, pid: int) -> Any:
    """The same for zarr, which uses its own event loop."""
    from zarr.storage import FsspecStore

    filesystem(root, pid)  # raises RequestError for an unsupported scheme
    return FsspecStore.from_url(root, storage_options=_options(root.partition("://")[0])).fs


def _options(scheme: str) -> dict[str, Any]:
    import fsspec

    # listings are not cached, so that objects written by other processes are found; only asynchronous ones cache
    options: dict[str, Any] = {"use_listings_cache": False} if fsspec.get_filesystem_class(scheme).async_impl else {}
    if scheme in ("s3", "s3a"):
        options["max_concurrency"] = 1  # with parallel parts, each read would first request the object's length
    return options
