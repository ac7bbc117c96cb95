"""The chain of directories of a TIFF file, followed with bounds before any library follows it.

Each directory gives the byte offset of the next one. A damaged file can make the chain return to an earlier directory,
which a reader without a bound follows for ever, or state a description of 4 GB, which a library reads at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.errors import BrokenSlideError

MAX_DIRECTORIES = 100_000
"""Far more than a slide has; each costs one small read."""

MAX_ENTRIES = 4_000_000
"""Of all directories together: twice as many as 100,000 planes have."""

MAX_BYTES = 1 << 30
"""Of all directories and the values of their entries together. The largest known are the tile tables and XML of a
slide, some 100 MB."""

MAX_TILE_BYTES = 1 << 28
"""Of one tile, where it would end beyond the file. libtiff and OpenSlide take the memory for it first, and OpenSlide
ends the process if there is not that much."""

_TYPE_BYTES = np.zeros(1 << 16, np.int64)
"""Bytes of one value by type; 0 for types that TIFF does not have."""
_TYPE_BYTES[1:19] = (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
_BYTE_COUNTS = (279, 325)
"""StripByteCounts, TileByteCounts."""
_UNSIGNED = (3, 4, 16)

_NDPI_TAG = 65420
"""Stands in each directory of a Hamamatsu NDPI, whose offset of the next directory has 8 bytes in a classic TIFF."""


class _Form(NamedTuple):
    """How directories are coded."""

    order: str
    number: str
    entry_bytes: int
    offset: str

    @property
    def entry(self) -> np.dtype[Any]:
        """One entry: tag, type, number of values, and the values or their place."""
        wide = "u8" if self.offset == "Q" else "u4"
        fields = {"tag": "u2", "type": "u2", "count": wide, "value": wide}
        return np.dtype([(name, self.order + kind) for name, kind in fields.items()])


@dataclass
class _Seen:
    """What the directories hold together."""

    size: int
    """Of the file, bytes."""
    bytes: int = 0
    """Of the directories and the values of their entries."""
    entries: int = 0
    byte_counts: list[tuple[int, int, int]] = field(default_factory=list)
    """Of tiles and strips: bytes of a number, how many, and their place."""

    def add(self, entries: npt.NDArray[Any], form: _Form, offset: int) -> None:
        """Take note of the directory at `offset`."""
        width, inside = _TYPE_BYTES[entries["type"]], struct.calcsize(form.offset)
        # a count in a damaged BigTIFF can exceed int64
        values = np.minimum(entries["count"].astype(np.float64) * width, self.size)
        self.bytes += entries.nbytes + int(values[values > inside].sum())
        self.entries += len(entries)
        if _NDPI_TAG in entries["tag"]:
            return  # the upper half of its places is elsewhere
        for index in np.flatnonzero(np.isin(entries["tag"], _BYTE_COUNTS) & np.isin(entries["type"], _UNSIGNED)):
            own = offset + struct.calcsize(form.number) + (int(index) + 1) * form.entry_bytes - inside
            place = own if values[index] <= inside else int(entries["value"][index])
            self.byte_counts.append((int(width[index]), int(entries["count"][index]), place))

    @property
    def fault(self) -> str | None:
        if self.bytes > MAX_BYTES:
            return f"its directories state more than {MAX_BYTES >> 20} MB besides the pixels"
        return f"its directories have more than {MAX_ENTRIES} entries" if self.entries > MAX_ENTRIES else None


def check_directories(path: str) -> None:
    """Raise BrokenSlideError if the directories of the TIFF file at `path` do not end or are too large. Other files
    pass.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    _check(path, lambda file, form, seen: None)


def check_tile_bytes(path: str) -> None:
    """Raise BrokenSlideError if a tile or strip of the TIFF file at `path` is said to be of 256 MB and more than the
    file has. For libraries that take the memory before they read. Other files pass.

    Raises
    ------
    OSError
        The file cannot be read.
    """

    def too_large(file: BinaryIO, form: _Form, seen: _Seen) -> str | None:
        largest = max((_largest(file, form, *counts) for counts in seen.byte_counts), default=0)
        return (
            None if largest <= max(seen.size, MAX_TILE_BYTES) else f"a tile of {largest} bytes in a file of {seen.size}"
        )

    _check(path, too_large)


def _check(path: str, further: Callable[[BinaryIO, _Form, _Seen], str | None]) -> None:
    """Raise BrokenSlideError for a fault of the directories, or else one that `further` finds in them."""
    with open(path, "rb") as file:
        head = file.read(16)
        form = _form(head)
        if form is None:
            return
        seen = _Seen(file.seek(0, 2))
        fault = _walk(file, head, form, seen) or further(file, form, seen)
    if fault is not None:
        raise BrokenSlideError(f"{path}: the TIFF structure is damaged: {fault}. Copy it again from its source.")


def _walk(file: BinaryIO, head: bytes, form: _Form, seen: _Seen) -> str | None:
    """Why the directories cannot be read with bounded effort, in words, or None; `seen` is filled."""

    def following(offset: int) -> int:
        entries, after = _directory(file, offset, form)
        seen.add(entries, form, offset)
        return after if seen.fault is None else 0

    first = first_directory(head)
    assert first is not None
    return chain_fault(first, following) or seen.fault


def _largest(file: BinaryIO, form: _Form, width: int, count: int, place: int) -> int:
    """The largest of the numbers of an entry."""
    file.seek(place)
    coded = file.read(width * count)
    return int(np.frombuffer(coded[: len(coded) // width * width], f"{form.order}u{width}").max(initial=0))


def chain_fault(first: int, following: Callable[[int], int]) -> str | None:
    """Why a chain of offsets has no end, in words; None if it has one.

    `following` gives the offset that stands at an offset, 0 at the end of the chain.

    >>> chain_fault(8, {8: 100, 100: 0}.__getitem__)
    >>> chain_fault(8, {8: 100, 100: 8}.__getitem__)
    'directory 2 is followed by directory 1 again, without end'
    """
    numbers: dict[int, int] = {}
    offset = first
    while offset:
        if offset in numbers:
            return f"directory {len(numbers)} is followed by directory {numbers[offset]} again, without end"
        numbers[offset] = len(numbers) + 1
        if len(numbers) > MAX_DIRECTORIES:
            return f"it has more than {MAX_DIRECTORIES} directories"
        offset = following(offset)
    return None


def first_directory(head: bytes) -> int | None:
    """Byte offset of the first directory, from a file's first 16 bytes; None if the file is not a TIFF."""
    form = _form(head)
    if form is None:
        return None
    start = 4 if form.offset == "I" else 8
    offset: int = struct.unpack(form.order + form.offset, head[start : start + struct.calcsize(form.offset)])[0]
    return offset


def _directory(file: BinaryIO, offset: int, form: _Form) -> tuple[npt.NDArray[Any], int]:
    """Entries of the directory at `offset`, and the offset of the next one; 0 if it is the last, or if the file ends
    before it does."""
    nothing = np.zeros(0, form.entry)
    try:
        file.seek(offset)
    except (OSError, OverflowError, ValueError):  # a place beyond what the file system has
        return nothing, 0
    size = struct.calcsize(form.number)
    counted = file.read(size)
    if len(counted) < size:
        return nothing, 0
    count: int = struct.unpack(form.order + form.number, counted)[0]
    if count > 0xFFFF:
        return nothing, 0
    coded = file.read(count * form.entry_bytes)
    rest = file.read(8)
    width = struct.calcsize(form.offset)
    if len(coded) < count * form.entry_bytes or len(rest) < width:
        return nothing, 0
    entries = np.frombuffer(coded, form.entry)
    if form.offset == "I" and _NDPI_TAG in entries["tag"] and len(rest) == 8:
        width = 8
    following: int = struct.unpack(form.order + ("I" if width == 4 else "Q"), rest[:width])[0]
    return entries, following


def _form(head: bytes) -> _Form | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    version = struct.unpack(order + "H", head[2:4])[0]
    return {42: _Form(order, "H", 12, "I"), 43: _Form(order, "Q", 20, "Q")}.get(version)
