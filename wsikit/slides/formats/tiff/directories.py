"""The chain of directories of a TIFF file, followed with a bound before any library follows it.

Each directory gives the byte offset of the next one. A damaged file can make the chain return to an earlier directory,
which a reader without a bound follows for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from wsikit.errors import BrokenSlideError

MAX_DIRECTORIES = 100_000
"""Far more than a slide has; each costs one small read."""

_NDPI_TAG = 65420
"""Stands in each directory of a Hamamatsu NDPI, whose offset of the next directory has 8 bytes in a classic TIFF."""


class _Form(NamedTuple):
    """How directories are coded."""

    order: str
    number: str
    entry_bytes: int
    offset: str


def check_directories(path: str) -> None:
    """Raise BrokenSlideError if the directories of the TIFF file at `path` do not end. Other files pass.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        form = _form(head)
        if form is None:
            return
        first = first_directory(head)
        assert first is not None
        fault = chain_fault(first, lambda offset: next_directory(file, offset, form))
    if fault is not None:
        raise BrokenSlideError(f"{path}: the TIFF structure is damaged: {fault}. Copy it again from its source.")


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


def next_directory(file: BinaryIO, offset: int, form: _Form) -> int:
    """Offset of the directory after the one at `offset`; 0 if it is the last, or if the file ends before it does."""
    try:
        file.seek(offset)
    except OSError:  # a place beyond what the file system has
        return 0
    size = struct.calcsize(form.number)
    counted = file.read(size)
    if len(counted) < size:
        return 0
    count: int = struct.unpack(form.order + form.number, counted)[0]
    if count > 0xFFFF:
        return 0
    entries = file.read(count * form.entry_bytes)
    rest = file.read(8)
    width = struct.calcsize(form.offset)
    if len(entries) < count * form.entry_bytes or len(rest) < width:
        return 0
    if form.offset == "I" and _has_tag(entries, form, _NDPI_TAG) and len(rest) == 8:
        width = 8
    following: int = struct.unpack(form.order + ("I" if width == 4 else "Q"), rest[:width])[0]
    return following


def _form(head: bytes) -> _Form | None:
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    version = struct.unpack(order + "H", head[2:4])[0]
    return {42: _Form(order, "H", 12, "I"), 43: _Form(order, "Q", 20, "Q")}.get(version)


def _has_tag(entries: bytes, form: _Form, code: int) -> bool:
    wanted = struct.pack(form.order + "H", code)
    return any(entries[at : at + 2] == wanted for at in range(0, len(entries), form.entry_bytes))
