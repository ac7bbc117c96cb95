"""A store's pixels as a tiled pyramidal TIFF; tiles are copied without decoding where TIFF has their codec.

JPEG and JPEG 2000 are passed through; lossless Zstandard chunks are re-encoded as Deflate, which is also lossless.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.exporters.channels_tiff import write_channels
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import atomic_write
from wsikit.store.level_format import EXACT_CODECS
from wsikit.tiling.jpeg_headers import JpegHeader, read_header

BIGTIFF_BYTES = 3 << 30
"""Above this size BigTIFF is written: a classic TIFF is limited to 4 GB."""

_JPEG, _JPEG_2000, _DEFLATE = 7, 34712, 8


def write_tiff(store: SlideStore, path: str | os.PathLike[str]) -> None:
    """Write all levels of a store as a tiled TIFF that OpenSlide, QuPath and tifffile open, atomically.

    Each tile is the stream in the store, so a slide that was stored by pass-through is restored bit by bit. µm/px is
    written as the resolution; label and macro image are not written. The channels of a fluorescence slide are written
    as OME-TIFF, without loss.

    Raises
    ------
    ReadError
        A tile could not be read from the source when the store was made, or is damaged.
    StoreError
        The store holds no pixels, or its tile size is not possible in TIFF.
    """
    if store.info.channels:
        write_channels(store, path)
        return
    import tifffile

    for level in range(len(store.level_dimensions)):
        width, height = store.level_format(level).tile_px
        if width % 16 or height % 16:
            raise StoreError(
                f"{store.folder}: tiles of {width}×{height} px at level {level}; TIFF needs multiples of 16. Tile "
                "the slide again with --codec zstd --profile portable to write it as TIFF."
            )
    stored = sum(file.stat().st_size for level in store.folder.glob("[0-9]*") for file in level.rglob("*"))
    with atomic_write(path) as partial, tifffile.TiffWriter(partial, bigtiff=stored > BIGTIFF_BYTES) as writer:
        for level in range(len(store.level_dimensions)):
            writer.write(**_level(store, level))


def _level(store: SlideStore, level: int) -> dict[str, Any]:
    """Arguments of tifffile for one level."""
    form = store.level_format(level)
    grey = form.channels == 1
    shape = (form.height, form.width) if grey else (form.height, form.width, 3)
    common = {
        "shape": shape,
        "dtype": "uint8",
        "tile": (form.tile_px[1], form.tile_px[0]),
        "photometric": "minisblack" if grey else "rgb",
        "subfiletype": 1 if level else 0,
        "metadata": None,
        "software": "wsikit",
    } | _resolution(store, level)
    if form.codec in EXACT_CODECS:
        return common | {"data": _pixels(store, level), "compression": _DEFLATE}
    common["data"] = _streams(store, level)
    if form.codec == "jpeg2k":
        return common | {"compression": _JPEG_2000}
    return common | {"compression": _JPEG} | ({} if grey else _colour(_first_head(store, level)))


def _resolution(store: SlideStore, level: int) -> dict[str, Any]:
    scale, downsample = store.info.mpp, store.level_downsamples[level]
    if scale is None:
        return {}
    per_cm = tuple(1e4 / (mpp * ds) for mpp, ds in zip(scale, downsample, strict=True))
    return {"resolution": per_cm, "resolutionunit": "CENTIMETER"}


def _colour(head: JpegHeader | None) -> dict[str, Any]:
    """How JPEG tiles code colour, which TIFF says once for a level."""
    if head is not None and head.rgb:
        # tifffile labels RGB JPEG as YCbCr unless outcolorspace is given
        return {"compressionargs": {"outcolorspace": "RGB"}}
    return {"photometric": "ycbcr", "subsampling": head.subsampling if head else None}


def _streams(store: SlideStore, level: int) -> Iterator[bytes]:
    """The streams, row-major; empty where the store has no tile, which TIFF reads as an empty tile."""
    cols, rows = store.level_format(level).n_tiles
    for row in range(rows):
        for col in range(cols):
            yield store.chunk(level, col, row) or b""


def _pixels(store: SlideStore, level: int) -> Iterator[npt.NDArray[np.uint8] | None]:
    """Pixels of the tiles, row-major; None where the store has no tile."""
    cols, rows = store.level_format(level).n_tiles
    for row in range(rows):
        for col in range(cols):
            present = store.chunk(level, col, row) is not None
            yield store.tile(level, col, row, keep=False) if present else None


def _first_head(store: SlideStore, level: int) -> JpegHeader | None:
    """Header of the level's first tile; None if it stores no tile."""
    return next((read_header(stream) for stream in _streams(store, level) if stream), None)
