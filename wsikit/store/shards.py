"""Shards of zarr's sharding codec as bytes: n × n chunks one after the other, then the index with its checksum.

Each chunk is followed by its own crc32c (the inner codec `crc32c`). A shard is written once and never changed. No
pixels here.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.store.paths import is_local, read_range

MISSING = 2**64 - 1
"""Offset and length of a chunk that is not stored: zarr reads the fill value."""

Bytes = npt.NDArray[np.uint8]

_TAKES_ARRAYS = google_crc32c.implementation == "c"
"""Its slow implementation in Python takes bytes."""

_CRC_BYTES = 4
_CRC = struct.Struct("<I")

_TAIL_BYTES = 4 << 20
"""Read in one request from the end of a remote shard: the latency of a request equals the transfer of some 100 kB."""


def _crc(data: bytes | memoryview) -> bytes:
    return _CRC.pack(google_crc32c.value(bytes(data)))


def index_bytes(chunks_per_side: int, planes: int = 1) -> int:
    """Length in bytes of the index block (with its checksum) of a shard of `planes` · `chunks_per_side`² chunks."""
    return planes * chunks_per_side**2 * 16 + _CRC_BYTES


class SharedHeader:
    """The first bytes that many chunks share, with their checksum, which is thus computed once."""

    __slots__ = ("crc", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.crc = google_crc32c.value(data)


NO_HEADER = SharedHeader(b"")


class Chunk(NamedTuple):
    """A chunk in two pieces, so that it is not copied before it is written."""

    head: SharedHeader
    body: bytes | Bytes
    """The rest, or a slice of the buffer that holds it: uint8, contiguous."""

    def join(self) -> bytes:
        """The chunk in one piece."""
        return self.head.data + bytes(self.body)


class Chunks:
    """The chunks of one shard, row-major, each in two pieces. At first, none is stored."""

    def __init__(self, count: int) -> None:
        self._heads = [NO_HEADER] * count
        self._bodies: list[bytes | Bytes | None] = [None] * count

    @classmethod
    def of(cls, chunks: Sequence[bytes | None]) -> Chunks:
        """From chunks in one piece; None for one that is not stored."""
        found = cls(len(chunks))
        found._bodies = list(chunks)
        return found

    def put(self, position: int, head: SharedHeader, body: bytes | Bytes) -> None:
        """Store one chunk."""
        self._heads[position], self._bodies[position] = head, body

    def put_all(self, positions: Sequence[int], head: SharedHeader, bodies: Sequence[bytes | Bytes]) -> None:
        """Store several chunks that begin with the same bytes."""
        for position, body in zip(positions, bodies, strict=True):
            self._heads[position], self._bodies[position] = head, body

    def first(self) -> bytes | None:
        """The first chunk that is stored, in one piece; None if there is none."""
        pairs = zip(self._heads, self._bodies, strict=True)
        return next((Chunk(head, body).join() for head, body in pairs if body is not None), None)

    def __bool__(self) -> bool:
        return any(body is not None for body in self._bodies)

    def pieces(self) -> list[bytes | Bytes]:
        """The bytes of the shard object, in pieces."""
        stored = [position for position, body in enumerate(self._bodies) if body is not None]
        bodies = [body for body in self._bodies if body is not None]
        heads = [self._heads[position] for position in stored]
        firsts = [head.data for head in heads]
        crcs = struct.pack(f"<{len(stored)}I", *_crcs(heads, bodies))
        pieces: list[bytes | Bytes] = [b""] * (3 * len(stored))
        pieces[0::3] = firsts
        pieces[1::3] = bodies
        pieces[2::3] = [crcs[first : first + _CRC_BYTES] for first in range(0, len(crcs), _CRC_BYTES)]
        entries = [MISSING] * (2 * len(self._bodies))
        offset = 0
        for position, first, body in zip(stored, firsts, bodies, strict=True):
            size = len(first) + len(body) + _CRC_BYTES
            entries[2 * position], entries[2 * position + 1] = offset, size
            offset += size
        index = struct.pack(f"<{len(entries)}Q", *entries)
        pieces += (index, _crc(index))
        return pieces


def _crcs(heads: Sequence[SharedHeader], bodies: Sequence[bytes | Bytes]) -> list[int]:
    """Checksum of each chunk. The library takes an array's buffer as it is, without a copy."""
    if not _TAKES_ARRAYS:
        bodies = [bytes(body) for body in bodies]
    return list(map(google_crc32c.extend, [head.crc for head in heads], bodies))


def pack_shard(chunks: Sequence[bytes | None]) -> bytes:
    """One shard object from its chunks, row-major; None for a chunk that is not stored."""
    return b"".join(map(bytes, Chunks.of(chunks).pieces()))


def parse_index(block: bytes, chunks_per_side: int, name: str, planes: int = 1) -> npt.NDArray[np.uint64]:
    """(planes · n · n, 2) uint64 of (offset, length with checksum) from a shard's last bytes; StoreError if it is
    damaged."""
    if len(block) != index_bytes(chunks_per_side, planes) or _crc(block[:-_CRC_BYTES]) != block[-_CRC_BYTES:]:
        raise StoreError(f"{name}: the shard is truncated or its index is damaged. Delete this file and tile again.")
    return np.frombuffer(block[:-_CRC_BYTES], dtype="<u8").reshape(-1, 2)


def read_index(path: Path, chunks_per_side: int, planes: int = 1) -> npt.NDArray[np.uint64] | None:
    """Index of the shard at `path`, or None if there is no such file; StoreError if it is damaged."""
    length = index_bytes(chunks_per_side, planes)
    try:
        return parse_index(read_range(path, -length, length), chunks_per_side, str(path), planes)
    except FileNotFoundError:
        return None


def read_shard(path: Path, chunks_per_side: int, planes: int = 1) -> list[bytes | None] | None:
    """All chunks of a shard file, plane by plane, row-major, without their checksums; None if there is no such file.

    StoreError if the index, a chunk or anything between them is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    index = parse_index(data[-index_bytes(chunks_per_side, planes) :], chunks_per_side, str(path), planes)
    chunks: list[bytes | None] = []
    for position, (offset, length) in enumerate(index.tolist()):
        if offset == MISSING:
            chunks.append(None)
            continue
        payload = data[offset : offset + length]
        if len(payload) != length or _crc(payload[:-_CRC_BYTES]) != payload[-_CRC_BYTES:]:
            raise StoreError(f"{path}: chunk {position} is damaged (checksum). Delete this file and tile again.")
        chunks.append(payload[:-_CRC_BYTES])
    return chunks


class _Shard:
    """A shard on a local disk: its file and its index. The file is closed when nothing refers to the shard any more."""

    _descriptor: int | None = None

    def __init__(self, path: Path, chunks_per_side: int, planes: int) -> None:
        self._index = read_index(path, chunks_per_side, planes)
        self._descriptor = None if self._index is None else os.open(path, os.O_RDONLY)

    def payload(self, position: int) -> tuple[int, bytes] | None:
        """Length by the index, and bytes read, of a chunk with its checksum; None if it is not stored."""
        if self._index is None or self._descriptor is None:
            return None
        offset, length = (int(value) for value in self._index[position])
        return None if offset == MISSING else (length, os.pread(self._descriptor, length, offset))

    def is_there(self) -> bool:
        return self._index is not None

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class _RemoteShard:
    """A shard at a URL: its index and its last bytes, read at first use. For most shards one request reads all."""

    def __init__(self, path: Path, chunks_per_side: int, planes: int) -> None:
        self._path = path
        self._chunks_per_side = chunks_per_side
        self._planes = planes
        self._lock = Lock()
        self._asked = False
        self._index: npt.NDArray[np.uint64] | None = None
        self._tail = b""
        self._tail_offset = 0

    def payload(self, position: int) -> tuple[int, bytes] | None:
        """As for a local shard. Thread-safe; only the first request is made under a lock."""
        if not self.is_there():
            return None
        assert self._index is not None
        offset, length = (int(value) for value in self._index[position])
        if offset == MISSING:
            return None
        if offset < self._tail_offset:
            return length, read_range(self._path, offset, length)
        first = offset - self._tail_offset
        return length, self._tail[first : first + length]

    def is_there(self) -> bool:
        with self._lock:
            if not self._asked:
                self._ask()
                self._asked = True
        return self._index is not None

    def close(self) -> None:
        """Nothing to close."""

    def _ask(self) -> None:
        try:
            self._tail = read_range(self._path, -_TAIL_BYTES, _TAIL_BYTES)
        except FileNotFoundError:
            return
        length = index_bytes(self._chunks_per_side, self._planes)
        index = parse_index(self._tail[-length:], self._chunks_per_side, str(self._path), self._planes)
        there = index[index[:, 0] != MISSING]
        size = length + int(there.sum(axis=1).max(initial=0))
        self._index, self._tail_offset = index, size - len(self._tail)


class ShardedLevel:
    """Random access to the encoded chunks of one sharded array, by (column, row). Thread-safe.

    Keeps open files and indexes of the last `max_open` shards; at a URL, indexes and last bytes of the last
    `max_open` / 4.
    """

    def __init__(self, folder: Path, chunks_per_side: int, *, planes: int = 1, max_open: int = 64) -> None:
        self.folder = folder
        self.planes = planes
        self.chunks_per_side = chunks_per_side
        self._max_open = max_open if is_local(folder) else max(1, max_open // 4)
        self._shards: OrderedDict[tuple[int, int], _Shard | _RemoteShard] = OrderedDict()
        self._lock = Lock()

    def shard_path(self, shard_col: int, shard_row: int) -> Path:
        """File of the shard at (column, row): c/0/<row>/<column> below the array."""
        return self.folder / "c" / "0" / str(shard_row) / str(shard_col)

    def chunk(self, col: int, row: int, plane: int = 0) -> bytes | None:
        """The chunk's bytes without checksum, or None if it is not stored; StoreError if it is damaged."""
        side = self.chunks_per_side
        position = (plane * side + row % side) * side + col % side
        with self._lock:
            shard = self._open(col // side, row // side)
            # local reads hold the lock: an evicted descriptor must not be closed during the read
            found = shard.payload(position) if isinstance(shard, _Shard) else None
        if isinstance(shard, _RemoteShard):
            found = shard.payload(position)
        if found is None:
            return None
        length, payload = found
        data, crc = payload[:-_CRC_BYTES], payload[-_CRC_BYTES:]
        if len(payload) != length or _crc(data) != crc:
            raise StoreError(
                f"{self.shard_path(col // side, row // side)}: chunk {position} is damaged (checksum). "
                "Delete this file and tile again."
            )
        return data

    def holds(self, col: int, row: int) -> bool:
        """Whether the file of the shard with this chunk is there; StoreError if it is damaged."""
        with self._lock:
            return self._open(col // self.chunks_per_side, row // self.chunks_per_side).is_there()

    def close(self) -> None:
        with self._lock:
            while self._shards:
                self._close_oldest()

    def _open(self, shard_col: int, shard_row: int) -> _Shard | _RemoteShard:
        key = (shard_col, shard_row)
        if key in self._shards:
            self._shards.move_to_end(key)
            return self._shards[key]
        kind = _Shard if is_local(self.folder) else _RemoteShard
        shard = kind(self.shard_path(shard_col, shard_row), self.chunks_per_side, self.planes)
        self._shards[key] = shard
        if len(self._shards) > self._max_open:
            self._close_oldest()
        return shard

    def _close_oldest(self) -> None:
        _, shard = self._shards.popitem(last=False)
        shard.close()
