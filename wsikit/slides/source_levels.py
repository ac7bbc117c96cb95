"""The pixels of a store that holds none: read from its source slide, which is found again and checked by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsikit.errors import PluginError, SlideError, StoreError
from wsikit.slides.base import BaseSlide, Pixels, Size
from wsikit.slides.file_state import FileState
from wsikit.slides.fingerprint import fingerprint
from wsikit.slides.tile_reader import TileReader
from wsikit.store.paths import is_local, place

VIRTUAL_TILE_PX = 512
"""Side of the squares in which a source without tiles of its own is read."""


class VirtualTiles(TileReader):
    """Squares of a slide whose reader gives no access to tiles."""

    def __init__(self, slide: BaseSlide) -> None:
        super().__init__()
        self._slide = slide

    @property
    def path(self) -> str:
        return self._slide.path

    @property
    def level_dimensions(self) -> tuple[Size, ...]:
        """Width and height of each level, px, finest first."""
        return self._slide.level_dimensions

    def tile_px(self, level: int) -> Size:
        """Width and height of the squares, px."""
        return VIRTUAL_TILE_PX, VIRTUAL_TILE_PX

    def _decode_tile(self, level: int, column: int, row: int) -> Pixels:
        side = VIRTUAL_TILE_PX
        return self._slide.read_box(level, (column * side, row * side, side, side))


def tiles_of(slide: BaseSlide) -> TileReader:
    """The tiles of `slide`: its own if its reader decodes tiles, otherwise squares."""
    return slide if isinstance(slide, TileReader) else VirtualTiles(slide)


def open_source(folder: Path, record: dict[str, Any]) -> tuple[BaseSlide, FileState]:
    """The source of the store at `folder`, and the state of its file; `record` is the store's root metadata.

    Raises
    ------
    StoreError
        The source is neither at its recorded path nor next to the store, it has changed, or it cannot be opened.
    """
    from wsikit.slides.registry import reader_class

    source = record["source"]
    stated = place(source["path"])
    neighbour = [folder.parent / source["name"]] if is_local(folder) else []
    path = next((path for path in (stated, *neighbour) if path.exists()), None)
    how = f"Copy it back, or give its new path: wsikit tile NEW_PLACE --pixels none -o {folder}"
    if path is None:
        raise StoreError(f"{folder}: holds no pixels, and its slide {stated} is not there. {how}")
    state = FileState.of(path)  # before the fingerprint: a change from here on is noticed later
    if fingerprint(path) != source["fingerprint"]:
        raise StoreError(f"{folder}: holds no pixels, and its slide {path} has changed. Tile it again.")
    try:
        scene = {"scene": source["scene"]} if "scene" in source else {}
        return reader_class(source["reader"])(str(path), **scene), state
    except (SlideError, PluginError) as error:
        raise StoreError(f"{folder}: holds no pixels, and its slide cannot be opened: {error}") from error
