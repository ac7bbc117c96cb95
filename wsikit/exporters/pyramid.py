"""The slide inside a page: a sparse pyramid of JPEG tiles, complete to some level and finer around example patches.

Frame of the page: square pixels with the finer µm/px of the two axes, from the slide's top-left corner. Level
`deepest` has these pixels; each lower level halves the size, down to one pixel, as in OpenSeadragon.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import simplejpeg

from wsikit.errors import ReadError
from wsikit.slides.base import Slide

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Place = tuple[int, int, int]
"""Level, column and row of a tile."""

TILE_PX = 256
QUALITY = 84
"""JPEG quality of the embedded tiles; they are for viewing only."""
WHOLE_BYTES = 6_000_000
DEEP_BYTES = 2_400_000
"""Maximum JPEG bytes of the whole slide, and of the surroundings of the shown patches. Base64 adds a third."""
FINEST_UM = 0.2
"""Finest embedded µm/px (above 40×)."""
ALL_TILES_PX = 2048
"""Levels up to this size are embedded completely; finer ones only where there is tissue."""
SURROUNDINGS = 0.6
"""Margin around a shown patch that is embedded, in patch sides."""
_LEAST_SIDE = 16


@dataclass(frozen=True)
class Frame:
    """Geometry of a page's pyramid."""

    slide_px: tuple[int, int]
    """Level-0 width and height of the slide."""
    mpp: tuple[float, float]
    """µm per level-0 px, (x, y)."""

    @cached_property
    def unit_um(self) -> float:
        """µm per px of the frame."""
        return min(self.mpp)

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Frame px per level-0 px, (x, y): 1, except for slides with non-square pixels."""
        return self.mpp[0] / self.unit_um, self.mpp[1] / self.unit_um

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height, frame px."""
        return max(1, round(self.slide_px[0] * self.scale[0])), max(1, round(self.slide_px[1] * self.scale[1]))

    @cached_property
    def deepest(self) -> int:
        return max(0, math.ceil(math.log2(max(self.size))))

    def level_size(self, level: int) -> tuple[int, int]:
        """Width and height of a level, px."""
        shrink = 2.0 ** (level - self.deepest)
        return math.ceil(self.size[0] * shrink), math.ceil(self.size[1] * shrink)

    def level_um(self, level: int) -> float:
        """µm per px of a level."""
        return float(self.unit_um * 2.0 ** (self.deepest - level))

    def n_tiles(self, level: int, tile_px: int = TILE_PX) -> tuple[int, int]:
        width, height = self.level_size(level)
        return math.ceil(width / tile_px), math.ceil(height / tile_px)

    def tile_box(self, place: Place, tile_px: int = TILE_PX) -> tuple[Box, tuple[int, int]]:
        """A tile's field, (x, y, width, height) in level-0 px, and its own width and height in px."""
        level, col, row = place
        width, height = self.level_size(level)
        size = min(tile_px, width - col * tile_px), min(tile_px, height - row * tile_px)
        step = tuple(2.0 ** (self.deepest - level) / scale for scale in self.scale)  # level-0 px per px of the level
        return (col * tile_px * step[0], row * tile_px * step[1], size[0] * step[0], size[1] * step[1]), size

    def tiles_over(self, level: int, box: Box, tile_px: int = TILE_PX) -> Iterator[Place]:
        """The tiles of a level that intersect a box in level-0 px."""
        shrink = 2.0 ** (level - self.deepest)
        cols, rows = self.n_tiles(level, tile_px)
        ranges = []
        for start, length, scale, count in (
            (box[0], box[2], self.scale[0], cols),
            (box[1], box[3], self.scale[1], rows),
        ):
            side = tile_px / (shrink * scale)
            ranges.append(range(max(0, int(start // side)), min(count, math.ceil((start + length) / side))))
        for row in ranges[1]:
            for col in ranges[0]:
                yield level, col, row


@dataclass(frozen=True)
class EmbeddedPyramid:
    """Tiles that are embedded in a page."""

    frame: Frame
    tiles: dict[Place, bytes] = field(default_factory=dict)
    """JPEG of each tile."""
    whole_level: int = 0
    """The finest level that is complete wherever there is tissue."""
    deep_level: int = 0
    """The finest level that is complete around the shown patches."""

    @property
    def n_bytes(self) -> int:
        return sum(map(len, self.tiles.values()))


@dataclass(frozen=True)
class ServedLevel:
    """One level whose tiles come from a server."""

    level: int
    """Number in the tile's address; consecutive from coarse to fine."""
    size: tuple[int, int]
    """Width and height, px."""
    tile_px: tuple[int, int]
    downsample: float
    """Frame px per px of the level."""


@dataclass(frozen=True)
class ServedPyramid:
    """Addresses of a page's tiles: `<tiles><level>/<column>_<row>.jpg`, and of patches: `<patches><row>.jpg`."""

    frame: Frame
    levels: tuple[ServedLevel, ...]
    """Coarsest first."""
    tiles: str
    """Relative address, ending in /."""
    patches: str


def frame_of(slide: Slide) -> Frame:
    return Frame(slide.dimensions, slide.mpp)


def embed(
    slide: Slide,
    tissue: Sequence[Box] | npt.NDArray[np.floating],
    shown: Sequence[Box] | npt.NDArray[np.floating],
    *,
    whole_bytes: int = WHOLE_BYTES,
    deep_bytes: int = DEEP_BYTES,
) -> EmbeddedPyramid:
    """Cut a slide into the tiles of a page.

    Parameters
    ----------
    tissue
        (N, 4) boxes (x, y, width, height), level-0 px, in which the finer levels are embedded.
    shown
        Boxes of the patches that the page shows, the most important first.
    whole_bytes, deep_bytes
        Maximum JPEG bytes for all tissue, and for the surroundings of the shown patches.

    Returns
    -------
    EmbeddedPyramid
        Complete to the finest level that `whole_bytes` allows; finer levels around the `shown` patches as far as
        `deep_bytes` allows. Unreadable parts are hatched in grey.
    """
    frame = frame_of(slide)
    pyramid = _Maker(slide, frame)
    boxes = np.asarray(tissue, dtype=np.float64).reshape(-1, 4)
    last = max((level for level in range(frame.deepest + 1) if frame.level_um(level) >= FINEST_UM), default=0)
    first = min(last, max(0, frame.deepest - math.ceil(math.log2(max(1.0, max(frame.size) / TILE_PX)))))
    whole, expected = first, 0.0
    for level in range(first, last + 1):
        if level > first and pyramid.n_bytes + expected > whole_bytes:
            break
        before = pyramid.n_bytes
        for place in _wanted(frame, level, boxes):
            pyramid.add(place)
        whole, expected = level, 3.2 * (pyramid.n_bytes - before)
    limit = pyramid.n_bytes + deep_bytes
    deep = whole
    for box in np.asarray(shown, dtype=np.float64).reshape(-1, 4).tolist():
        if whole == last or pyramid.n_bytes > limit:
            break
        deep = last
        for level in range(whole + 1, last + 1):
            for place in frame.tiles_over(level, _around((box[0], box[1], box[2], box[3]))):
                pyramid.add(place)
    return EmbeddedPyramid(frame, pyramid.tiles, whole, deep)


def read_tile(slide: Slide, box: Box, size: tuple[int, int]) -> Pixels:
    """Pixels of a field (x, y, width, height) in level-0 px, resampled to `size`, uint8 (h, w, 3).

    Unreadable parts are hatched in grey, never white; the rest of the field is shown.
    """
    x, y, width, height = box
    mpp = (width * slide.mpp[0] / size[0], height * slide.mpp[1] / size[1])
    try:
        return slide.read_region(x, y, *size, mpp=mpp)
    except ReadError:
        pass
    out = hatch(size)
    if max(size) <= _LEAST_SIDE:
        return out
    halves = [max(1, size[0] // 2), max(1, size[1] // 2)]
    for left, w in ((0, halves[0]), (halves[0], size[0] - halves[0])):
        for top, h in ((0, halves[1]), (halves[1], size[1] - halves[1])):
            if w and h:
                part = (
                    x + width * left / size[0],
                    y + height * top / size[1],
                    width * w / size[0],
                    height * h / size[1],
                )
                out[top : top + h, left : left + w] = read_tile(slide, part, (w, h))
    return out


def hatch(size: tuple[int, int]) -> Pixels:
    """Grey diagonals for unreadable parts, uint8 (h, w, 3), of `size` (width, height)."""
    rows, cols = np.indices((size[1], size[0]))
    return np.repeat(np.where((rows + cols) % 12 < 4, 90, 170).astype(np.uint8)[..., None], 3, axis=2)


def encode_jpeg(pixels: Pixels, quality: int = QUALITY, subsampling: str = "420") -> bytes:
    return bytes(
        simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=quality, colorspace="RGB", colorsubsampling=subsampling
        )
    )


def _around(box: Box) -> Box:
    x, y, width, height = box
    return (
        x - SURROUNDINGS * width,
        y - SURROUNDINGS * height,
        (1 + 2 * SURROUNDINGS) * width,
        (1 + 2 * SURROUNDINGS) * height,
    )


def _wanted(frame: Frame, level: int, tissue: npt.NDArray[np.float64]) -> list[Place]:
    """The tiles of a level to embed: all tiles of a coarse level; for a fine level those with tissue."""
    cols, rows = frame.n_tiles(level)
    if max(frame.level_size(level)) <= ALL_TILES_PX or not len(tissue):
        return [(level, col, row) for row in range(rows) for col in range(cols)]
    shrink = 2.0 ** (level - frame.deepest)
    side = [TILE_PX / (shrink * scale) for scale in frame.scale]  # level-0 px per tile
    first = np.floor(tissue[:, :2] / side).astype(int)
    last = np.floor((tissue[:, :2] + tissue[:, 2:] - 1e-6) / side).astype(int)
    wanted = np.zeros((rows, cols), dtype=bool)
    for dy in range(int((last - first)[:, 1].max()) + 1):
        for dx in range(int((last - first)[:, 0].max()) + 1):
            at = np.minimum(first + (dx, dy), last).clip(0, (cols - 1, rows - 1))
            wanted[at[:, 1], at[:, 0]] = True
    return [(level, int(col), int(row)) for row, col in zip(*np.nonzero(wanted))]


class _Maker:
    """Encodes tiles and counts their bytes."""

    def __init__(self, slide: Slide, frame: Frame) -> None:
        self._slide, self._frame = slide, frame
        self.tiles: dict[Place, bytes] = {}
        self.n_bytes = 0

    def add(self, place: Place) -> None:
        if place in self.tiles:
            return
        box, size = self._frame.tile_box(place)
        encoded = encode_jpeg(read_tile(self._slide, box, size))
        self.tiles[place] = encoded
        self.n_bytes += len(encoded)
