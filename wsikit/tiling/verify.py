"""`verify`: check the integrity of a store. Every shard is read again, every passed tile compared with its source.

Read-only. All problems are collected, one line each, instead of raising the first one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError, StoreError, UnreachableError, WsikitError
from wsikit.progress import SILENT, Progress
from wsikit.slides.base import BaseSlide, Slide
from wsikit.slides.decode import ChunkError, decode_chunk, decode_planes
from wsikit.slides.encoded_tiles import EncodedTiles
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import PARTIAL_SUFFIX, is_remains
from wsikit.store.level_files import REMEDY
from wsikit.store.level_format import LevelFormat
from wsikit.store.shards import read_shard

SAMPLED_TILES = 16
"""Number of tiles per level whose pixels are compared."""

ENCODED_TOLERANCE = 6.0
"""Maximum mean difference within a tile, grey levels, after re-encoding at the store's quality."""

_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Verdict:
    """What was checked, and the problems found."""

    shards: int
    """Shards read, with the checksums of the index and of every chunk."""
    chunks: int
    """Chunks in them."""
    compared_bytes: int
    """Chunks compared with the source's bytes."""
    compared_pixels: int
    """Tiles whose pixels were compared with the source's."""
    problems: tuple[str, ...]
    """One line each; empty: no problem was found."""

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    store: SlideStore | str | os.PathLike[str],
    *,
    source: str | os.PathLike[str] | None = None,
    progress: Progress = SILENT,
) -> Verdict:
    """Read a store completely, check it, and compare it with its source if that is given.

    Parameters
    ----------
    source
        The slide that the store was made from: every passed tile's bytes are compared, and the pixels of a sample.

    Raises
    ------
    StoreError
        There is no complete store at `store`.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> folder = tempfile.mkdtemp()
    >>> made = wsikit.make_phantom(f"{folder}/slide.tif", size_px=(768, 512))
    >>> store = wsikit.tile(f"{folder}/slide.tif", f"{folder}/slide.zarr")
    >>> verify(store, source=f"{folder}/slide.tif").ok
    True
    """
    opened = store if isinstance(store, SlideStore) else SlideStore(store)
    slide = None if source is None else open_slide(source, scene=opened.record["source"].get("scene"))
    problems: list[str] = []
    if slide is not None and fingerprint(slide.path) != opened.record["source"]["fingerprint"]:
        problems.append(f"{slide.path}: not the file that {opened.folder} was made from, or it has changed since")
    counts = _Counts()
    n_levels = len(opened.level_dimensions) if opened.holds_pixels else 0
    levels = [_Level.read(opened, level) for level in range(n_levels)]
    progress.start("verify", sum(len(level.shards()) for level in levels), "shards")
    for level in levels:
        counts.without = 0
        for col, row in level.shards():
            problems.extend(_verify_shard(level, col, row, slide, counts))
            progress.advance()
        if counts.without != level.left_out and level.left_out:
            problems.append(
                f"{level.folder}: {counts.without} tiles are missing where {level.left_out} were left out. "
                "Tile the slide again."
            )
        if slide is not None and level.source_level is not None:
            problems.extend(_compare_pixels(opened, level, slide, counts))
    progress.finish()
    for path, fault in opened.damaged_files().items():
        if not any(path in problem for problem in problems):
            problems.append(f"{path}: {fault}. {REMEDY}")
    problems.extend(_verify_others(opened))
    problems.extend(_verify_tables(opened))
    problems.extend(
        f"{path}: left over from an interrupted write" for path in opened.folder.rglob(f"*{PARTIAL_SUFFIX}")
    )
    if len(problems) > _MOST_PROBLEMS:
        problems[_MOST_PROBLEMS:] = [f"… and {len(problems) - _MOST_PROBLEMS} more"]
    return Verdict(counts.shards, counts.chunks, counts.bytes, counts.pixels, tuple(problems))


@dataclass
class _Counts:
    shards: int = 0
    chunks: int = 0
    bytes: int = 0
    pixels: int = 0
    without: int = 0
    """Tiles of the current level that are missing and not recorded as unreadable."""


@dataclass(frozen=True)
class _Level:
    """One level of the store, from its metadata."""

    folder: Path
    level: int
    form: LevelFormat
    record: dict[str, Any]
    of_channels: bool
    """Whether the samples are those of fluorescence channels."""

    @classmethod
    def read(cls, store: SlideStore, level: int) -> _Level:
        return cls(
            store.folder / str(level),
            level,
            store.level_format(level),
            store.level_record(level),
            bool(store.info.channels),
        )

    @property
    def passed(self) -> bool:
        return self.record["fidelity"] in ("bytes", "coefficients")

    @property
    def source_level(self) -> int | None:
        found: int | None = self.record["source_level"]
        return found

    @property
    def unreadable(self) -> frozenset[tuple[int, int]]:
        return frozenset((col, row) for col, row in self.record["unreadable_tiles"])

    @property
    def left_out(self) -> int:
        """Tiles that are not there, and need not be: the source has none, or they are background."""
        return int(self.record["missing_tiles"]) + int(self.record.get("dropped_tiles", 0))

    def shards(self) -> list[tuple[int, int]]:
        cols, rows = (math.ceil(count / self.form.shard_side) for count in self.form.n_tiles)
        return [(col, row) for row in range(rows) for col in range(cols)]

    def tiles(self, col: int, row: int) -> Iterator[tuple[int, int, int]]:
        """Position in the shard, column and row of its tiles within the level."""
        side = self.form.shard_side
        for position in range(side**2):
            tile_col, tile_row = col * side + position % side, row * side + position // side
            if tile_col < self.form.n_tiles[0] and tile_row < self.form.n_tiles[1]:
                yield position, tile_col, tile_row

    def read_object(self, col: int, row: int) -> list[bytes | None] | None:
        """The chunks of one shard; None if there is none; StoreError if it is damaged."""
        path = self.folder / self.form.object_key(col, row)
        if self.form.chunks_per_shard:
            return read_shard(path, self.form.chunks_per_shard, self.form.planes)
        try:
            chunk = path.read_bytes()
        except FileNotFoundError:
            return None
        decode = decode_planes if self.of_channels else decode_chunk
        try:
            decode(chunk, self.form)  # without a checksum, decoding is the only check there is
        except ChunkError as error:
            raise StoreError(f"{path}: the chunk is damaged ({error}). Delete this file and tile again.") from error
        return [chunk]


def _verify_shard(level: _Level, col: int, row: int, slide: Slide | None, counts: _Counts) -> Iterator[str]:
    path = level.folder / level.form.object_key(col, row)
    try:
        chunks = level.read_object(col, row)
    except StoreError as error:
        yield str(error)
        return
    absent = chunks is None
    counts.shards += not absent
    n_tiles = level.form.shard_side**2
    held: list[bytes | None] = [None] * (n_tiles * level.form.planes) if chunks is None else chunks
    counts.chunks += sum(chunk is not None for chunk in held)
    without = [(c, r) for position, c, r in level.tiles(col, row) if None in held[position::n_tiles]]
    lost = [tile for tile in without if tile not in level.unreadable]
    counts.without += len(lost)
    if lost and not level.left_out:
        what = "the shard is missing" if absent else f"{len(lost)} tiles are missing, the first at {lost[0]}"
        yield f"{path}: {what}. Tile the slide again."
    if slide is not None and level.passed and isinstance(slide, EncodedTiles):
        yield from _compare_bytes(level, path, list(level.tiles(col, row)), held, slide, counts)


def _compare_bytes(
    level: _Level,
    path: Path,
    tiles: list[tuple[int, int, int]],
    held: list[bytes | None],
    slide: Slide,
    counts: _Counts,
) -> Iterator[str]:
    """Compare every stored tile with the source's bytes; tiles left out as background are skipped."""
    assert isinstance(slide, EncodedTiles)
    assert level.source_level is not None
    differing = 0
    for position, tile_col, tile_row in tiles:
        if held[position] is None and level.record.get("dropped_tiles"):
            continue
        try:
            stored = slide.encoded_tile(level.source_level, tile_col, tile_row)
        except ReadError as error:
            if (tile_col, tile_row) not in level.unreadable:
                yield f"{error}"
            continue
        counts.bytes += 1
        differing += not _same_bytes(stored, held[position])
    if differing > level.record["recoded_tiles"]:
        yield f"{path}: {differing} tiles differ from the bytes of {slide.path}"


def _same_bytes(stored: bytes | None, chunk: bytes | None) -> bool:
    """Whether a chunk is the source's tile, up to segments inserted after its start marker."""
    if stored is None or chunk is None:
        return stored is chunk
    return chunk[:2] == stored[:2] and chunk.endswith(stored[2:].rstrip(b"\0"))


def _compare_pixels(store: SlideStore, level: _Level, slide: Slide, counts: _Counts) -> Iterator[str]:
    """Compare the pixels of some tiles: equal after pass-through or lossless encoding, else within the tolerance."""
    assert level.source_level is not None
    form = level.form
    width, height = form.width, form.height
    rng = np.random.default_rng(level.level)
    for number in rng.permutation(form.n_tiles[0] * form.n_tiles[1])[:SAMPLED_TILES]:
        row, col = divmod(int(number), form.n_tiles[0])
        x, y = col * form.tile_px[0], row * form.tile_px[1]
        box = (x, y, min(form.tile_px[0], width - x), min(form.tile_px[1], height - y))
        try:
            if level.record.get("dropped_tiles") and store.chunk(level.level, col, row) is None:
                continue
            ours, theirs = _pixels_of(store, level.level, box), _pixels_of(slide, level.source_level, box)
        except ReadError as error:
            if not level.unreadable:
                yield str(error)
            continue
        counts.pixels += 1
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
        difference[np.isnan(difference) & (np.isnan(ours) == np.isnan(theirs))] = 0  # float samples
        exact = level.record["fidelity"] != "encoded" and not level.record["recoded_tiles"]
        if (exact and difference.any()) or difference.mean() > ENCODED_TOLERANCE:
            yield (
                f"{level.folder}: the pixels at x={x} y={y} differ from {slide.path} by {difference.mean():.1f} grey "
                f"levels on average, {difference.max()} at most"
            )


def _pixels_of(slide: Slide, level: int, box: tuple[int, int, int, int]) -> npt.NDArray[np.generic]:
    """What a slide holds: the samples of its channels, otherwise RGB pixels."""
    if slide.info.channels and isinstance(slide, BaseSlide):
        return slide.read_channel_box(level, box, range(len(slide.info.channels)))
    return slide.read_box(level, box)


def _verify_others(store: SlideStore) -> Iterator[str]:
    """The tissue label must have its area at every level, and the associated images must be complete."""
    label = store.folder / "labels" / "tissue"
    if label.is_dir():
        try:
            store.check_tissue()
        except UnreachableError:
            raise
        except StoreError as error:
            yield str(error)
    for name in store.info.associated:
        try:
            store.associated(name)
        except (ReadError, StoreError) as error:
            yield str(error)


def _verify_tables(store: SlideStore) -> Iterator[str]:
    """Patch tables must open, and each column must be complete."""
    for folder in (store.folder / "patches").glob("*"):
        if is_remains(folder):
            yield f"{folder}: the table has lost its metadata (zarr.json). Run wsikit tile or wsikit run again."
    for name in store.grids():
        try:
            table = store.patches(name)
            complete = set(table.columns())
            for column in sorted(set(table.stored_columns()) - complete):
                yield f"{table.folder}: column {column} is incomplete. Run the stage that writes it again."
            for column in table.lost_columns():
                yield (
                    f"{table.folder}: column {column} has lost its metadata (zarr.json). Run the stage that writes it "
                    "again."
                )
            for column in sorted(complete - set(table.lost_columns())):
                if len(table.read(column)) != len(table):
                    yield f"{table.folder}: column {column} has another number of rows than the table"
        except UnreachableError:
            raise
        except WsikitError as error:
            yield str(error)
        except (OSError, ValueError, RuntimeError) as error:  # what zarr and its codecs raise for damaged chunks
            yield f"{store.folder}/patches/{name}: cannot be read ({error}). Run the stage that writes it again."
