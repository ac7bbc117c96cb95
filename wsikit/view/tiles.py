"""A store's tiles for the viewer: the store's JPEG bytes where possible, otherwise encoded again.

Frame: px of the store's finest level. The store's levels are served with their own tiles; where the steps between them
are large, or the coarsest level is large, further levels are computed and cached.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

from wsikit.errors import ReadError
from wsikit.exporters.pyramid import Box, Frame, ServedLevel, ServedPyramid, encode_jpeg, frame_of, hatch, read_tile
from wsikit.slides.store import SlideStore

QUALITY = 90
TILE_PX = 256
STEP = 4.5
"""Largest step between served levels; the usual step of 4 of scanners is accepted."""
COARSE_PX = 2048
"""Maximum longer side of the coarsest served level."""
CACHE_BYTES = 64 * 2**20
NON_SQUARE = 0.01
"""Pixels whose x and y size differ by more than this (relative) are resampled to squares."""


@dataclass(frozen=True)
class Tile:
    """One tile, ready to send."""

    jpeg: bytes
    own: bool
    """Whether these are the bytes in the store."""


class TileSet:
    """The tiles of one store. Thread-safe."""

    def __init__(self, store: SlideStore) -> None:
        self._store = store
        self.frame: Frame = frame_of(store)
        self._plan = _plan(store, self.frame)
        self._cache = _Cache()

    @cached_property
    def levels(self) -> tuple[ServedLevel, ...]:
        """Coarsest first; `tile` takes `ServedLevel.level`."""
        return tuple(level for level, _ in self._plan)

    def pyramid(self, tiles: str, patches: str) -> ServedPyramid:
        """The data that a page needs to request tiles at these addresses."""
        return ServedPyramid(self.frame, self.levels, tiles, patches)

    def tile(self, level: int, col: int, row: int) -> Tile | None:
        """A tile; None if there is no such tile."""
        if not 0 <= level < len(self._plan):
            return None
        served, own = self._plan[level]
        cols, rows = (math.ceil(size / side) for size, side in zip(served.size, served.tile_px))
        if not (0 <= col < cols and 0 <= row < rows):
            return None
        if own is not None and self._passes(own):
            jpeg = self._own(own, col, row)
            if jpeg is not None:
                return Tile(jpeg, own=True)
        return Tile(self._cache.get((level, col, row), lambda: self._encode(served, own, col, row)), own=False)

    def _passes(self, own: int) -> bool:
        """Whether a browser can read the chunks of a level."""
        return self._store.holds_pixels and self._store.level_format(own).codec == "jpeg"

    def _own(self, own: int, col: int, row: int) -> bytes | None:
        """A chunk as it is in the store; None if it is missing or damaged."""
        try:
            return self._store.chunk(own, col, row)
        except ReadError:
            return None

    def _encode(self, served: ServedLevel, own: int | None, col: int, row: int) -> bytes:
        if own is not None:
            try:
                return encode_jpeg(self._store.tile(own, col, row), QUALITY, "444")
            except ReadError:
                return encode_jpeg(hatch(served.tile_px), QUALITY, "444")
        width, height = served.tile_px
        size = min(width, served.size[0] - col * width), min(height, served.size[1] - row * height)
        step = tuple(served.downsample / scale for scale in self.frame.scale)  # level-0 px per px
        box: Box = (col * width * step[0], row * height * step[1], size[0] * step[0], size[1] * step[1])
        return encode_jpeg(read_tile(self._store, box, size), QUALITY, "444")


def _plan(store: SlideStore, frame: Frame) -> list[tuple[ServedLevel, int | None]]:
    """Levels, coarsest first, and for each the level of the store whose tiles it serves, or None."""
    finest_first: list[tuple[float, int | None]] = []
    if abs(store.mpp[0] / store.mpp[1] - 1) <= NON_SQUARE:
        finest_first = [(max(1.0, ds[0]), level) for level, ds in enumerate(store.level_downsamples)]
    if not finest_first:
        finest_first = [(1.0, None)]
    filled: list[tuple[float, int | None]] = []
    for downsample, own in finest_first:
        while filled and downsample / filled[-1][0] > STEP:
            filled.append((filled[-1][0] * 2, None))
        filled.append((downsample, own))
    while max(frame.size) / filled[-1][0] > COARSE_PX:
        filled.append((filled[-1][0] * 2, None))
    levels = []
    for number, (downsample, own) in enumerate(reversed(filled)):
        if own is None:
            size, tile_px = tuple(math.ceil(px / downsample) for px in frame.size), (TILE_PX, TILE_PX)
        else:
            size, tile_px = store.level_dimensions[own], store.tile_px(own)
        levels.append((ServedLevel(number, (size[0], size[1]), tile_px, downsample), own))
    return levels


class _Cache:
    """Cache of the last encoded tiles, up to `CACHE_BYTES`."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: tuple[int, int, int], make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        made = make()  # outside of the lock: other threads can continue
        with self._lock:
            if key not in self._known:
                self._known[key] = made
                self._bytes += len(made)
                while self._bytes > CACHE_BYTES and len(self._known) > 1:
                    self._bytes -= len(self._known.popitem(last=False)[1])
        return made
