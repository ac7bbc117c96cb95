"""A store's pixels as a tiled pyramidal TIFF, from the very bytes it holds: nothing is decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

from wsikit.slides.store import SlideStore
from wsikit.store.atomic import atomic_write
from wsikit.store.place import bytes_below
from wsikit.tiling.framing import Head, read_head

BIGTIFF_BYTES = 3 << 30
"""Above this a classic TIFF may run out of its 4 GB."""


def write_tiff(store: SlideStore, path: str | os.PathLike[str]) -> None:
    """Write all levels of a store as a tiled TIFF that OpenSlide, QuPath and tifffile open, atomically.

    Each tile is the JPEG stream that the store holds, so that a slide whose bytes were passed through comes back
    bit by bit. µm/px is written as the resolution; label and macro image are not.

    Raises
    ------
    ReadError
        A tile could not be read from the source when the store was made, or is damaged: such a file would show
        something else there.
    """
    import tifffile

    big = bytes_below(store.folder) > BIGTIFF_BYTES
    with atomic_write(path) as partial, tifffile.TiffWriter(partial, bigtiff=big) as writer:
        for level, (width, height) in enumerate(store.level_dimensions):
            _write_level(writer, store, level, width, height)


def _write_level(writer: object, store: SlideStore, level: int, width: int, height: int) -> None:
    tile_w, tile_h = store.tile_px(level)
    head = _first_head(store, level)
    rgb = head is not None and head.rgb
    scale = store.info.mpp
    downsample = store.level_downsamples[level]
    writer.write(  # type: ignore[attr-defined]
        _tiles(store, level, math.ceil(width / tile_w), math.ceil(height / tile_h)),
        shape=(height, width, 3),
        dtype="uint8",
        tile=(tile_h, tile_w),
        compression="jpeg",
        # tifffile writes RGB JPEG as YCbCr unless told that the stream holds RGB
        compressionargs={"outcolorspace": "RGB"} if rgb else None,
        photometric="rgb" if rgb else "ycbcr",
        subsampling=None if rgb or head is None else head.subsampling,
        subfiletype=1 if level else 0,
        resolution=None
        if scale is None
        else tuple(1e4 / (mpp * ds) for mpp, ds in zip(scale, downsample, strict=True)),
        resolutionunit=None if scale is None else "CENTIMETER",
        metadata=None,
        software="wsikit",
    )


def _tiles(store: SlideStore, level: int, cols: int, rows: int) -> Iterator[bytes]:
    """The streams, row-major; no bytes where the store has no tile, which TIFF reads as an empty one."""
    for row in range(rows):
        for col in range(cols):
            yield store.chunk(level, col, row) or b""


def _first_head(store: SlideStore, level: int) -> Head | None:
    """Head of the level's first tile; None if it has none at all."""
    width, height = store.level_dimensions[level]
    tile_w, tile_h = store.tile_px(level)
    for chunk in _tiles(store, level, math.ceil(width / tile_w), math.ceil(height / tile_h)):
        if chunk:
            return read_head(chunk)
    return None
