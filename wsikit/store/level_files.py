"""Which files an image level of a store must have, and which of them are lost or cut. Nothing is decoded here.

A level records the objects (shards, or chunk files) that were left out when it was written, and the length of all
others together. What is not there, and was not left out, is lost: its pixels are unknown, not white. Stores of earlier
versions record only how many tiles were left out; there the tiles that are not there are counted.

Objects and tiles are named by column and row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wsikit.errors import StoreError
from wsikit.store.level_format import LevelFormat
from wsikit.store.paths import sizes_below
from wsikit.store.shards import MISSING, index_bytes, read_index

Place = tuple[int, int]
"""Column and row."""

NO_OBJECTS, BYTES, REWRITING = "objects_left_out", "bytes", "rewriting"
"""Attributes of a level: runs (row, first column, last column) of objects that are not stored; length of all objects,
bytes; runs of objects that a repair writes again, as long as it lasts."""

REMEDY = "Run wsikit tile or wsikit run again with the slide: it writes the file again."


def runs_of(places: Iterable[Place]) -> list[list[int]]:
    """Places as runs [row, first column, last column], row-major.

    >>> runs_of([(3, 0), (0, 1), (2, 0), (1, 1)])
    [[0, 2, 3], [1, 0, 1]]
    """
    runs: list[list[int]] = []
    for row, col in sorted((row, col) for col, row in places):
        if runs and runs[-1][0] == row and runs[-1][2] == col - 1:
            runs[-1][2] = col
        else:
            runs.append([row, col, col])
    return runs


def places_of(runs: Iterable[Iterable[int]]) -> frozenset[Place]:
    """The places of such runs.

    >>> sorted(places_of([[0, 2, 3]]))
    [(2, 0), (3, 0)]
    """
    return frozenset((col, row) for row, first, last in runs for col in range(first, last + 1))


class LevelFiles:
    """The objects of one level, compared with what its attributes state.

    Parameters
    ----------
    folder
        The level's array in a store.
    form
        How it is stored.
    record
        Its attributes (`attributes.wsikit`).
    """

    def __init__(self, folder: Path, form: LevelFormat, record: Mapping[str, Any]) -> None:
        self.folder, self.form = folder, form
        self.unreadable = places_of([row, col, col] for col, row in record["unreadable_tiles"])
        self.rewriting = places_of(record.get(REWRITING, ()))
        self.n_left_out = int(record.get("missing_tiles", 0)) + int(record.get("dropped_tiles", 0))
        """Tiles that need not be there: the source has none, or they are background."""
        runs = record.get(NO_OBJECTS)
        self._left_out = None if runs is None else places_of(runs)
        stated = record.get(BYTES)
        self._bytes = None if stated is None else int(stated)
        self._lost: frozenset[Place] | None = None

    def objects(self) -> Iterator[Place]:
        """All objects that a complete level could have, row-major."""
        cols, rows = (math.ceil(count / self.form.shard_side) for count in self.form.n_tiles)
        return ((col, row) for row in range(rows) for col in range(cols))

    def object_of(self, col: int, row: int) -> Place:
        """The object of a tile."""
        return col // self.form.shard_side, row // self.form.shard_side

    def path(self, place: Place) -> Path:
        """File of an object."""
        return self.folder / self.form.object_key(*place)

    def tiles(self, place: Place) -> Iterator[tuple[int, Place]]:
        """Position in the object, and column and row, of its tiles within the level."""
        side = self.form.shard_side
        for position in range(side**2):
            col, row = place[0] * side + position % side, place[1] * side + position // side
            if col < self.form.n_tiles[0] and row < self.form.n_tiles[1]:
                yield position, (col, row)

    def sizes(self) -> dict[Place, int]:
        """Length of each object that is there, bytes, by one listing."""
        prefix = f"{self.form.key_prefix}0/"
        found: dict[Place, int] = {}
        for name, size in sizes_below(self.folder / prefix.rstrip("/")).items():
            row, _, col = name.partition("/")
            if row.isdigit() and col.isdigit():
                found[int(col), int(row)] = size
        return found

    def check_left_out(self, col: int, row: int, *, object_there: bool) -> None:
        """Check that a tile that is not stored need not be: StoreError, with the file, if it is lost.

        `object_there` is whether the file of its object is there and intact.
        """
        place = self.object_of(col, row)
        if self._left_out is not None and place in self._left_out and place not in self.rewriting:
            return
        if object_there and place not in self.rewriting:
            if self.n_left_out:
                return
            raise StoreError(f"{self.path(place)}: this tile is not in it, though none was left out. {REMEDY}")
        if self._left_out is None and self.n_left_out:
            if place not in self.lost():
                return
            raise StoreError(
                f"{self.path(place)}: the file is missing, and more tiles are missing than were left out. {REMEDY}"
            )
        raise StoreError(f"{self.path(place)}: the file is missing. {REMEDY}")

    def lost(self) -> frozenset[Place]:
        """Objects that are not there, and are not known to be left out. By one listing, made once."""
        if self._lost is None:
            self._lost = self._missing_of(self.sizes())
        return self._lost

    def lost_tiles(self) -> frozenset[Place]:
        """The tiles of these objects."""
        return frozenset(tile for place in self.lost() for _, tile in self.tiles(place))

    def damaged(self, fault_of: Callable[[Path], str | None] | None = None) -> dict[Place, str]:
        """Objects that are missing or cut off, with the fault in words.

        The content is not read. Only where the length of all objects differs from what the level states, each object
        is examined: a shard by its index, a chunk file by `fault_of`.
        """
        sizes = self.sizes()
        self._lost = self._missing_of(sizes)
        faults = dict.fromkeys(sorted(self._lost), "the file is missing")
        faults |= dict.fromkeys(sorted(self.rewriting), "an interrupted run did not finish it")
        if faults or self._bytes is None or sum(sizes.values()) != self._bytes:
            examined = self._bytes is not None and not self.form.chunks_per_shard
            for place in sorted(set(sizes) - set(faults)):
                fault = self._fault(place, sizes[place])
                if fault is None and fault_of is not None and examined:
                    fault = fault_of(self.path(place))
                if fault:
                    faults[place] = fault
        return faults

    def _missing_of(self, sizes: Mapping[Place, int]) -> frozenset[Place]:
        absent = frozenset(self.objects()) - frozenset(sizes)
        if not self.form.chunks_per_shard:
            absent -= self.unreadable  # a chunk file of its own, that could not be made
        if self._left_out is not None:
            return absent - self._left_out
        if not absent or not self.n_left_out:
            return absent
        # an earlier version states only the number: if more is missing, any of these files may be the lost one
        return absent if self._count_missing(sizes, absent) > self.n_left_out else frozenset()

    def _count_missing(self, sizes: Mapping[Place, int], absent: Iterable[Place]) -> int:
        """Tiles that are not stored, without those recorded as unreadable."""
        count = sum(tile not in self.unreadable for place in absent for _, tile in self.tiles(place))
        if self.form.chunks_per_shard:
            for place in sizes:
                try:
                    index = read_index(self.path(place), self.form.chunks_per_shard, self.form.planes)
                except StoreError:
                    continue  # a damaged shard raises its own error
                if index is not None:
                    count += sum(
                        int(index[position, 0]) == MISSING and tile not in self.unreadable
                        for position, tile in self.tiles(place)
                    )
        return count

    def _fault(self, place: Place, size: int) -> str | None:
        """What is wrong with an object's file, from its length, and of a shard its index; None if it is as it was."""
        side = self.form.chunks_per_shard
        if side is None:
            return None if size else "the file is empty"
        try:
            index = read_index(self.path(place), side, self.form.planes)
        except StoreError:
            return "the file is cut off, or its index is damaged"
        if index is None:
            return "the file is missing"
        there = index[index[:, 0] != MISSING]
        expected = index_bytes(side, self.form.planes) + int(there.sum(axis=1).max(initial=0))
        return None if size == expected else f"the file has {size:,} bytes, its index states {expected:,}"
