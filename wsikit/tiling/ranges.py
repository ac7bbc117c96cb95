"""Pass-through of the tiles of a file whose tiles are byte ranges: a whole shard is fetched into one buffer, and its
chunks are slices of it. The coded data are not copied, and Python does not look at them.

Buffers are used again: memory that is new to the process costs as much time as reading the tiles into it.

A tile goes this way if its first bytes are a header that was checked before, and its last ones the end marker. Every
other tile is left to `passthrough`, one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np

from wsikit.slides.encoded_tiles import EncodedRanges
from wsikit.slides.jpeg import JpegError
from wsikit.store.shards import Chunks
from wsikit.tiling.jpeg_headers import EOI, ChunkConverter
from wsikit.tiling.plan import Places

logger = logging.getLogger(__name__)

_GAP_BYTES = 1 << 13
"""Largest gap between two tiles that are fetched with one read; another read costs as much as this many bytes."""

_BLOCK_BYTES = 32 << 20
"""Size of a buffer, beyond which another one is begun: tiles of an uncommon size."""

_MOST_KEPT = 16
"""Buffers that are kept for the next shards: one per thread that writes shards."""


class _Block(NamedTuple):
    """Tiles that are fetched into one buffer, by ascending offset. Lists, not arrays: there are some hundred tiles."""

    numbers: list[int]
    """Of each tile among the requested ones."""
    starts: list[int]
    """Its first byte in the buffer."""
    stops: list[int]
    buffer: bytearray


class Buffers:
    """The buffers of one shard, given back on leaving the context. Its chunks must have been written by then."""

    _kept: ClassVar[list[bytearray]] = []

    def __init__(self) -> None:
        self._used: list[bytearray] = []

    def __enter__(self) -> Buffers:
        return self

    def __exit__(self, *_: object) -> None:
        while self._used and len(self._kept) < _MOST_KEPT:
            self._kept.append(self._used.pop())

    def of(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes, with any content."""
        try:
            buffer = self._kept.pop()
        except IndexError:
            buffer = bytearray()
        if len(buffer) < size:
            buffer = bytearray(1 << (size - 1).bit_length())  # many shards are a little larger than the one before
        self._used.append(buffer)
        return buffer

    @classmethod
    def free(cls) -> None:
        """Release the memory of those that are not in use."""
        cls._kept.clear()


def pass_ranges(
    slide: EncodedRanges, level: int, converter: ChunkConverter, places: Places, chunks: Chunks, buffers: Buffers
) -> Places:
    """Put the tiles that can be passed this way into `chunks`; return the places of the others, for whatever reason."""
    left = [True] * len(places.positions)
    positions = places.positions.tolist()
    for block in _blocks(slide, level, places, buffers):
        buffer, view = block.buffer, np.frombuffer(block.buffer, np.uint8)
        stored, head = converter.latest
        length = len(stored)
        for number, start, stop in zip(block.numbers, block.starts, block.stops, strict=True):
            if (
                head is not None
                and stop - start >= length + 2
                and buffer.startswith(stored, start)
                and buffer.startswith(EOI, stop - 2)
            ):
                chunks.put(positions[number], head, view[start + length : stop])
            else:  # another header, which is checked before others with it can follow
                try:
                    chunks.put(positions[number], *converter.convert(bytes(view[start:stop])))
                except JpegError:
                    continue  # converted again, with its reason
                stored, head = converter.latest
                length = len(stored)
            left[number] = False
    return Places(*(part[left] for part in places)) if any(left) else Places(*(part[:0] for part in places))


def _blocks(slide: EncodedRanges, level: int, places: Places, buffers: Buffers) -> Iterator[_Block]:
    """The tiles that the file stores, fetched a buffer at a time. Tiles that cannot be fetched are left out."""
    ranges = slide.tile_ranges(level)
    offsets, counts = (part[places.rows, places.cols].tolist() for part in (ranges.offsets, ranges.counts))
    numbers: list[int] = []
    runs: list[tuple[int, int, int]] = []
    size = 0
    for number in sorted(range(len(offsets)), key=offsets.__getitem__):
        # a damaged count can be 4 GB; such a tile is refused by the other way, as the file has not so many bytes
        if not len(EOI) < counts[number] <= _BLOCK_BYTES or offsets[number] < 0:
            continue
        offset, end = offsets[number], offsets[number] + counts[number]
        if runs and size + end - runs[-1][1] > _BLOCK_BYTES:
            yield _fetched(slide, numbers, runs, size, offsets, counts, buffers)
            numbers, runs, size = [], [], 0
        if runs and offset <= runs[-1][1] + _GAP_BYTES:
            begin, last, first = runs[-1]
            if end > last:
                runs[-1] = begin, end, first
                size += end - last
        else:
            runs.append((offset, end, len(numbers)))
            size += end - offset
        numbers.append(number)
    if runs:
        yield _fetched(slide, numbers, runs, size, offsets, counts, buffers)


def _fetched(
    slide: EncodedRanges,
    numbers: list[int],
    runs: list[tuple[int, int, int]],
    size: int,
    offsets: list[int],
    counts: list[int],
    buffers: Buffers,
) -> _Block:
    """Tiles in a buffer, without those of a read that failed. `runs`: first byte, end and first tile of each read."""
    buffer = buffers.of(size)
    into, at = memoryview(buffer), 0
    fetched: list[int] = []
    starts: list[int] = []
    members = [first for _, _, first in runs[1:]] + [len(numbers)]
    for (begin, end, first), last in zip(runs, members, strict=True):
        try:
            whole = slide.read_into(into[at : at + end - begin], begin) == end - begin
        except OSError as error:
            logger.debug("%s", error)
            whole = False
        if whole:
            of_run = numbers[first:last]
            fetched += of_run
            starts += [at + offsets[number] - begin for number in of_run]
        at += end - begin
    stops = [start + counts[number] for start, number in zip(starts, fetched, strict=True)]
    return _Block(fetched, starts, stops, buffer)
