"""Shard objects of zarr's sharding codec, byte by byte: n × n chunks back to back, index and checksum at the end.

Each chunk is followed by its own crc32c (the inner codec `crc32c`). Written whole, never changed. No pixels here.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import google_crc32c
import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError

MISSING = 2**64 - 1
"""Offset and length of a chunk that is not there: zarr reads its fill value."""

_CRC_BYTES = 4


def _crc(data: bytes | memoryview) -> bytes:
    return struct.pack("<I", google_crc32c.value(bytes(data)))


def index_bytes(chunks_per_side: int) -> int:
    """Length in bytes of the index block (with its checksum) of a shard of `chunks_per_side`² chunks."""
    return chunks_per_side**2 * 16 + _CRC_BYTES


def pack_shard(chunks: Sequence[bytes | None]) -> bytes:
    """One shard object from its chunks, row-major; None for a chunk that is not there."""
    entries = np.full((len(chunks), 2), MISSING, dtype="<u8")
    payloads: list[bytes] = []
    offset = 0
    for position, chunk in enumerate(chunks):
        if chunk is None:
            continue
        payload = chunk + _crc(chunk)
        entries[position] = offset, len(payload)
        payloads.append(payload)
        offset += len(payload)
    index = entries.tobytes()
    return b"".join([*payloads, index, _crc(index)])


def parse_index(block: bytes, chunks_per_side: int, name: str) -> npt.NDArray[np.uint64]:
    """(n·n, 2) uint64 of (offset, length with checksum) from a shard's last bytes; StoreError if it is damaged."""
    if len(block) != index_bytes(chunks_per_side) or _crc(block[:-_CRC_BYTES]) != block[-_CRC_BYTES:]:
        raise StoreError(f"{name}: the shard is truncated or its index is damaged. Delete this file and tile again.")
    return np.frombuffer(block[:-_CRC_BYTES], dtype="<u8").reshape(-1, 2)


def read_index(path: Path, chunks_per_side: int) -> npt.NDArray[np.uint64] | None:
    """Index of the shard file at `path`, or None if there is no such file; StoreError if it is damaged."""
    length = index_bytes(chunks_per_side)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - length))
            return parse_index(file.read(), chunks_per_side, str(path))
    except FileNotFoundError:
        return None


def read_shard(path: Path, chunks_per_side: int) -> list[bytes | None] | None:
    """All chunks of a shard file, row-major, without their checksums; None if there is no such file.

    StoreError if the index, a chunk or anything between them is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    index = parse_index(data[-index_bytes(chunks_per_side) :], chunks_per_side, str(path))
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


@dataclass(frozen=True, slots=True)
class _Shard:
    descriptor: int
    index: npt.NDArray[np.uint64]


class ShardedLevel:
    """Random access to the encoded chunks of one sharded array on disk. Safe to use from several threads.

    Keeps open files and indexes of the last `max_open` shards. A chunk is addressed by (column, row).
    """

    def __init__(self, folder: Path, chunks_per_side: int, *, max_open: int = 64) -> None:
        self.folder = folder
        self.chunks_per_side = chunks_per_side
        self._max_open = max_open
        self._shards: OrderedDict[tuple[int, int], _Shard | None] = OrderedDict()
        self._lock = Lock()

    def shard_path(self, shard_col: int, shard_row: int) -> Path:
        """Where the shard of (column, row) lies: c/0/<row>/<column> below the array."""
        return self.folder / "c" / "0" / str(shard_row) / str(shard_col)

    def chunk(self, col: int, row: int) -> bytes | None:
        """The chunk's bytes without checksum, or None if it is not there; StoreError if it is damaged."""
        side = self.chunks_per_side
        position = (row % side) * side + col % side
        # read under the lock: an evicted descriptor must not be closed while it is read
        with self._lock:
            shard = self._open(col // side, row // side)
            if shard is None:
                return None
            offset, length = (int(value) for value in shard.index[position])
            if offset == MISSING:
                return None
            payload = os.pread(shard.descriptor, length, offset)
        data, crc = payload[:-_CRC_BYTES], payload[-_CRC_BYTES:]
        if len(payload) != length or _crc(data) != crc:
            raise StoreError(
                f"{self.shard_path(col // side, row // side)}: chunk {position} is damaged (checksum). "
                "Delete this file and tile again."
            )
        return data

    def close(self) -> None:
        with self._lock:
            while self._shards:
                self._close_oldest()

    def _open(self, shard_col: int, shard_row: int) -> _Shard | None:
        key = (shard_col, shard_row)
        if key in self._shards:
            self._shards.move_to_end(key)
            return self._shards[key]
        path = self.shard_path(shard_col, shard_row)
        index = read_index(path, self.chunks_per_side)
        shard = None if index is None else _Shard(os.open(path, os.O_RDONLY), index)
        self._shards[key] = shard
        if len(self._shards) > self._max_open:
            self._close_oldest()
        return shard

    def _close_oldest(self) -> None:
        _, shard = self._shards.popitem(last=False)
        if shard is not None:
            os.close(shard.descriptor)
