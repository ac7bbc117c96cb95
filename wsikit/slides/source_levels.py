"""The pixels of a store that holds none: those of the slide it was made from, found again and known by its content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import SlideError, StoreError
from wsikit.slides.base import BaseSlide
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.tile_cache import DecodedTiles, SlideTiles
from wsikit.store.paths import is_local, place

Pixels = npt.NDArray[np.uint8]

VIRTUAL_TILE_PX = 512
"""Side of the squares in which a source is read that has no tiles of its own to give."""


class SourceLevels:
    """Levels of the source of the store at `folder`, whose root metadata hold `record`.

    Raises
    ------
    StoreError
        The source is not where it was, nor beside the store; or it is another file by now.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self._source = _open_source(folder, record)
        self.dimensions = list(self._source.level_dimensions)
        self._own = self._source if isinstance(self._source, DecodedTiles) else None
        virtual = (VIRTUAL_TILE_PX, VIRTUAL_TILE_PX)
        self.tile_px = [self._own.tile_px(level) if self._own else virtual for level in range(len(self.dimensions))]
        self.unreadable: list[frozenset[tuple[int, int]]] = [frozenset() for _ in self.dimensions]
        self._cache = SlideTiles()

    @property
    def downsamples(self) -> list[tuple[float, float]]:
        """Level-0 px per px of each level, (x, y)."""
        return list(self._source.level_downsamples)

    def tile(self, level: int, col: int, row: int, *, keep: bool = True) -> Pixels:
        """One whole tile, uint8 (h, w, 3), not to be written to; ReadError where it is not to be had."""
        if self._own is not None:
            return self._own.tile(level, col, row, keep=keep)
        return self._cache.get_or_make((level, col, row), lambda: self._read(level, col, row), keep=keep)

    def close(self) -> None:
        self._source.close()

    def _read(self, level: int, col: int, row: int) -> Pixels:
        side = VIRTUAL_TILE_PX
        tile = self._source.read_box(level, (col * side, row * side, side, side))
        tile.flags.writeable = False
        return tile


def _open_source(folder: Path, record: dict[str, Any]) -> BaseSlide:
    from wsikit.slides.registry import reader_class

    source = record["source"]
    stated = place(source["path"])
    beside = [folder.parent / source["name"]] if is_local(folder) else []
    path = next((path for path in (stated, *beside) if path.exists()), None)
    how = f"Bring it back, or tell where it is: wsikit tile NEW_PLACE --pixels none -o {folder}"
    if path is None:
        raise StoreError(f"{folder}: holds no pixels, and its slide {stated} is not there. {how}")
    if fingerprint(path) != source["fingerprint"]:
        raise StoreError(f"{folder}: holds no pixels, and its slide {path} has changed. Tile it again.")
    try:
        return reader_class(source["reader"])(str(path))
    except SlideError as error:
        raise StoreError(f"{folder}: holds no pixels, and its slide cannot be opened: {error}") from error
