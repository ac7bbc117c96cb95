"""Streaming writer of a tiled JPEG pyramid: blocks of level 0 arrive row by row; memory does not grow with height.

Levels halve; each is the average of 2 × 2 pixels of the one before. Level 0 is streamed into the file; coarser
levels are kept, compressed, in a temporary file until level 0 is complete.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

Rgb = npt.NDArray[np.uint8]
TILE_PX = 256
BLOCK_PX = 1024
BLOCK_LEVELS = 3
"""Levels 0 to 2 of a block consist of whole tiles; from level 3 on, blocks are joined first."""
SMALLEST_PX = 1024
"""Maximum width and height of the last level."""


@dataclass(frozen=True)
class EncodedBlock:
    """One block of the slide, compressed."""

    tiles: tuple[tuple[tuple[bytes, ...], ...], ...]
    """Per level, per tile row, the JPEG tiles from left to right."""
    rest: Rgb
    """The block at level `BLOCK_LEVELS`, uncompressed."""


def level_sizes(size_px: tuple[int, int]) -> list[tuple[int, int]]:
    """Width and height of each level, finest first."""
    sizes = [size_px]
    while max(sizes[-1]) > SMALLEST_PX:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def encode_block(rgb: Rgb, quality: int) -> EncodedBlock:
    """Compress a block (height and width multiples of 256 px) and its coarser levels."""
    tiles = []
    for _ in range(BLOCK_LEVELS):
        tiles.append(tuple(encode_row(rgb[y : y + TILE_PX], quality) for y in range(0, rgb.shape[0], TILE_PX)))
        rgb = halve(rgb)
    return EncodedBlock(tuple(tiles), rgb)


def encode_row(rgb: Rgb, quality: int) -> tuple[bytes, ...]:
    """Compress up to 256 rows of pixels into tiles; the edge is padded with its last pixel."""
    height, width = rgb.shape[:2]
    padding = ((0, TILE_PX - height), (0, -width % TILE_PX), (0, 0))
    if padding[0][1] or padding[1][1]:
        rgb = np.pad(rgb, padding, mode="edge")
    return tuple(
        bytes(imagecodecs.jpeg_encode(np.ascontiguousarray(rgb[:, x : x + TILE_PX]), level=quality, subsampling="420"))
        for x in range(0, rgb.shape[1], TILE_PX)
    )


def halve(rgb: Rgb) -> Rgb:
    """Average 2 × 2 pixels, rounded; an odd edge repeats its last pixel."""
    if rgb.shape[0] % 2 or rgb.shape[1] % 2:
        rgb = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
    total = rgb[::2, ::2].astype(np.uint16)
    for part in (rgb[1::2, ::2], rgb[::2, 1::2], rgb[1::2, 1::2]):
        total += part
    return ((total + 2) >> 2).astype(np.uint8)


class _Spill:
    """Compressed tiles of one level, in order, in a temporary file."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self._sizes: list[int] = []

    def extend(self, tiles: Iterable[bytes]) -> None:
        for tile in tiles:
            self._file.write(tile)
            self._sizes.append(len(tile))

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        for size in self._sizes:
            yield self._file.read(size)

    def close(self) -> None:
        self._file.close()


class _Joined:
    """Levels from `BLOCK_LEVELS` on: strips of pixels are tiled into the spill file and halved for the next level."""

    def __init__(self, spills: list[_Spill], quality: int) -> None:
        self._spill, self._quality = spills[0], quality
        self._next = _Joined(spills[1:], quality) if len(spills) > 1 else None
        self._strip: Rgb | None = None

    def push(self, strip: Rgb) -> None:
        self._strip = strip if self._strip is None else np.concatenate([self._strip, strip])
        while self._strip.shape[0] >= TILE_PX:
            self._emit(self._strip[:TILE_PX])
            self._strip = self._strip[TILE_PX:]

    def finish(self) -> None:
        if self._strip is not None and self._strip.shape[0]:
            self._emit(self._strip)
        if self._next:
            self._next.finish()

    def _emit(self, rows: Rgb) -> None:
        self._spill.extend(encode_row(rows, self._quality))
        if self._next:
            self._next.push(halve(rows))


def write_pyramid(
    path: Path,
    block_rows: Iterable[list[EncodedBlock]],
    *,
    size_px: tuple[int, int],
    mpp: float,
    quality: int,
    description: str,
    big: bool,
) -> None:
    """Write the file at `path` from rows of blocks, top to bottom."""
    sizes = level_sizes(size_px)
    spills = [_Spill(path.parent) for _ in sizes[1:]]
    joined = _Joined(spills[BLOCK_LEVELS - 1 :], quality) if len(sizes) > BLOCK_LEVELS else None

    def finest() -> Iterator[bytes]:
        for row in block_rows:
            for level, spill in enumerate(spills[: BLOCK_LEVELS - 1], start=1):
                for tile_row in range(len(row[0].tiles[level])):
                    spill.extend(_cropped_row(row, level, tile_row, sizes[level][0]))
            if joined:
                strip = np.concatenate([block.rest for block in row], axis=1)
                joined.push(strip[:, : sizes[BLOCK_LEVELS][0]])
            for tile_row in range(len(row[0].tiles[0])):
                yield from _cropped_row(row, 0, tile_row, sizes[0][0])

    try:
        with tifffile.TiffWriter(path, bigtiff=big) as tiff:
            for level, (width, height) in enumerate(sizes):
                if level == 1 and joined:
                    joined.finish()
                per_cm = 1e4 / (mpp * 2**level)
                tiff.write(
                    finest() if level == 0 else iter(spills[level - 1]),
                    shape=(height, width, 3),
                    dtype=np.uint8,
                    tile=(TILE_PX, TILE_PX),
                    photometric="ycbcr",
                    subsampling=(2, 2),
                    compression="jpeg",
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=0 if level == 0 else 1,
                    description=description if level == 0 else None,
                    software="wsikit",
                    metadata=None,
                )
    finally:
        for spill in spills:
            spill.close()


def _cropped_row(row: list[EncodedBlock], level: int, tile_row: int, width: int) -> list[bytes]:
    """One row of tiles across all blocks, without tiles beyond the level's right edge."""
    tiles = [tile for block in row for tile in block.tiles[level][tile_row]]
    return tiles[: -(-width // TILE_PX)]
