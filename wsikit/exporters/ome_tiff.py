"""The class map as a pyramidal OME-TIFF, over the slide or alone, to open next to the slide. Written tile by tile.

Pixels are square in µm; the frame is the slide's, from its level-0 corner.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError, RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.overlay import UNREAD_TONES, hatch, paint_of_cells, tint, to_grey
from wsikit.exporters.palette import UNPREDICTED_COLOR, UNPREDICTED_NAME
from wsikit.exporters.summary_text import MUTED_NOTE, RESEARCH_USE
from wsikit.slides.base import Slide
from wsikit.store.atomic import atomic_write

TILE_PX = 512
SMALLEST_PX = 1024
JPEG_QUALITY = 90
BIGTIFF_BYTES = 3 << 30
DEFAULT_MPP = 2.0

_NAMESPACE = uuid.UUID("0d3ad0f4-52d9-5c7e-8d0e-6b7f2f0c1a55")
"""Namespace of the file's UUID; tifffile's default would contain the MAC address of the machine."""

Style = Literal["over", "map"]
Pixels = npt.NDArray[np.uint8]


def write_ome_tiff(
    path: str | os.PathLike[str],
    class_map: ClassMap,
    slide: Slide,
    *,
    mpp: float = DEFAULT_MPP,
    style: Style = "over",
) -> None:
    """Write the map as a tiled pyramid (levels as SubIFDs, each half the one before), atomically.

    Parameters
    ----------
    slide
        The slide of the map; read tile by tile, so that memory use is constant.
    mpp
        µm/px of the finest level; written as physical size (OME-XML) and as resolution (TIFF).
    style
        "over": classes over the grey slide, JPEG 4:4:4. "map": classes alone on white, exact colours (Deflate).

    Raises
    ------
    RequestError
        `mpp` is not a positive number, or there is no such style.
    ScaleError
        `mpp` is more than twice finer than the slide.
    """
    import tifffile

    if style not in ("over", "map"):
        raise RequestError(f'style {style!r}: use "over" or "map"')
    if not (math.isfinite(mpp) and mpp > 0):
        raise RequestError(f"an overlay of {mpp} µm/px: give a positive number")
    painter = _Painter(class_map, slide, style)
    levels = _levels(class_map, mpp)
    n_bytes = sum(3 * level.width * level.height for level in levels)
    with (
        atomic_write(path) as partial,
        tifffile.TiffWriter(partial, bigtiff=n_bytes > BIGTIFF_BYTES, ome=True) as writer,
    ):
        for number, level in enumerate(levels):
            options = _options(level, style)
            if number == 0:
                options |= {"subifds": len(levels) - 1, "metadata": _metadata(class_map, mpp)}
            else:
                options |= {"subfiletype": 1, "metadata": None}
            writer.write(painter.tiles(level), shape=(level.height, level.width, 3), dtype="uint8", **options)


@dataclass(frozen=True)
class _Level:
    mpp: float
    width: int
    height: int


def _levels(class_map: ClassMap, mpp: float) -> list[_Level]:
    grid = class_map.grid
    width_um, height_um = (px * scale for px, scale in zip(grid.slide_px, grid.slide_mpp, strict=True))
    levels = [_Level(mpp, max(1, math.ceil(width_um / mpp - 1e-6)), max(1, math.ceil(height_um / mpp - 1e-6)))]
    while max(levels[-1].width, levels[-1].height) > SMALLEST_PX:
        above = levels[-1]
        levels.append(_Level(above.mpp * 2, math.ceil(above.width / 2), math.ceil(above.height / 2)))
    return levels


def _options(level: _Level, style: Style) -> dict[str, Any]:
    per_cm = 1e4 / level.mpp
    common = {
        "tile": (TILE_PX, TILE_PX),
        "resolution": (per_cm, per_cm),
        "resolutionunit": "CENTIMETER",
        "software": "wsikit",
    }
    if style == "map":
        return common | {"photometric": "rgb", "compression": "deflate", "predictor": True}
    jpeg = {"compression": "jpeg", "compressionargs": {"level": JPEG_QUALITY}, "subsampling": (1, 1)}
    # tifffile converts RGB to YCbCr itself and records it in the file
    return common | {"photometric": "rgb"} | jpeg


def _metadata(class_map: ClassMap, mpp: float) -> dict[str, Any]:
    """Metadata that tifffile writes as OME-XML; it escapes the slide's name."""
    entries = [
        f"{code} {name}: rgb{color}"
        for code, name, color in zip(class_map.classes, class_map.class_names, class_map.colors, strict=True)
    ]
    if (class_map.labels < 0).any():
        entries.append(f"{UNPREDICTED_NAME} (hatched): rgb{UNPREDICTED_COLOR}")
    muted = MUTED_NOTE if class_map.muted else ""
    described = [f"Classes of patches. {'; '.join(entries)}.", muted, RESEARCH_USE, class_map.notice]
    return {
        "axes": "YXS",
        "UUID": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{class_map.slide_id}/{class_map.grid.name}/{mpp:g}')}",
        "Name": f"{class_map.slide_id} classes",
        "Description": " ".join(part for part in described if part),
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
    }


class _Painter:
    """Paints tiles of any scale."""

    def __init__(self, class_map: ClassMap, slide: Slide, style: Style) -> None:
        self._map = class_map
        self._slide = slide
        self._style = style
        self._colors, self._opacity = paint_of_cells(class_map)

    def tiles(self, level: _Level) -> Iterator[Pixels]:
        """All tiles of a level, row-major, each uint8 (TILE_PX, TILE_PX, 3)."""
        for top in range(0, level.height, TILE_PX):
            for left in range(0, level.width, TILE_PX):
                yield self._tile(level, left, top)

    def _tile(self, level: _Level, left: int, top: int) -> Pixels:
        row_index, col_index, inside = self._cells(level, left, top)
        base = self._base(level, left, top)
        if not inside.any():
            return base.round().astype(np.uint8)
        cells = np.ix_(row_index, col_index)
        labels = np.where(inside, self._map.cell_labels[cells], -2)
        alpha = np.where(inside, self._opacity[cells], 0.0).astype(np.float32)[..., None]
        color = self._colors[labels]  # -1 and -2 pick the last two rows
        if self._style == "map":
            painted = np.where(alpha > 0, color, base).astype(np.float32)
        else:
            painted = tint(base, color, alpha)
        return hatch(painted, labels, left + top).round().astype(np.uint8)

    def _cells(
        self, level: _Level, left: int, top: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Partition row per tile row, column per tile column, and which pixels lie on the partition."""
        partition = self._map.partition
        indices, within = [], []
        for edges, first, axis in ((partition.y_edges, top, 1), (partition.x_edges, left, 0)):
            place = (first + np.arange(TILE_PX) + 0.5) * (level.mpp / self._map.grid.slide_mpp[axis])
            index = np.searchsorted(edges, place, side="right") - 1
            within.append((index >= 0) & (index < len(edges) - 1))
            indices.append(np.clip(index, 0, max(0, len(edges) - 2)))
        return indices[0], indices[1], within[0][:, None] & within[1][None, :]

    def _base(self, level: _Level, left: int, top: int) -> npt.NDArray[np.float32]:
        """(TILE_PX, TILE_PX, 3): the grey slide, or white; unreadable parts are striped."""
        if self._style == "map":
            return np.full((TILE_PX, TILE_PX, 3), 255.0, dtype=np.float32)
        x, y = (first * level.mpp / scale for first, scale in zip((left, top), self._map.grid.slide_mpp, strict=True))
        try:
            return to_grey(self._slide.read_region(x, y, TILE_PX, TILE_PX, mpp=level.mpp))
        except ReadError:
            diagonal = (left + top + np.arange(TILE_PX)[:, None] + np.arange(TILE_PX)[None, :]) % 12
            tones = np.where(diagonal < 4, *UNREAD_TONES)
            return np.repeat(tones[..., None], 3, axis=2).astype(np.float32)
