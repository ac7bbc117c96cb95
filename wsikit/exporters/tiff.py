"""A store's pixels as a tiled pyramidal TIFF; tiles are copied without decoding where TIFF has their codec.

JPEG and JPEG 2000 are passed through; lossless Zstandard chunks are re-encoded as Deflate, which is also lossless.
Which common readers cannot open a codec is stated when it is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError, StoreError
from wsikit.exporters.channels_tiff import write_channels
from wsikit.slides.store import SlideStore
from wsikit.store.atomic import atomic_write
from wsikit.store.level_format import EXACT_CODECS
from wsikit.tiling.encode import encode
from wsikit.tiling.jpeg_headers import JpegHeader, read_header

BIGTIFF_BYTES = 3 << 30
"""Above this size BigTIFF is written: a classic TIFF is limited to 4 GB."""

_JPEG, _JPEG_2000, _DEFLATE = 7, 34712, 8

NOT_READ: dict[str, str] = {
    "jpeg2k": "JPEG 2000 (TIFF code 34712), which OpenSlide refuses and libvips without JPEG 2000 shows as black; "
    "QuPath with Bio-Formats, tifffile and wsikit read it"
}
"""By codec of the store: what the tiles of the TIFF are, and which common readers do not read them. JPEG and Deflate
are read by all of them."""

ENCODED_QUALITY = 90
"""JPEG quality of tiles that are encoded on request."""


def write_tiff(
    store: SlideStore,
    path: str | os.PathLike[str],
    *,
    codec: Literal["keep", "jpeg"] = "keep",
    on_note: Callable[[str], None] | None = None,
) -> None:
    """Write all levels of a store as a tiled TIFF, atomically. OpenSlide, QuPath, libvips and tifffile open it, except
    for JPEG 2000 tiles that are kept (`NOT_READ`).

    Parameters
    ----------
    codec
        keep: each tile is the stream in the store, so a slide that was stored by pass-through is restored bit by bit.
        jpeg: tiles of other codecs are encoded again as JPEG, quality 90, 4:4:4; JPEG tiles are kept.
    on_note
        Called with a remark for each codec that common readers do not open.

    µm/px is written as the resolution; label and macro image are not written. The channels of a fluorescence slide are
    written as OME-TIFF, without loss.

    Raises
    ------
    RequestError
        `codec` is neither of the two.
    ReadError
        A tile could not be read from the source when the store was made, or is damaged.
    StoreError
        The store holds no pixels, or its tile size is not possible in TIFF.
    """
    if store.info.channels:
        write_channels(store, path)
        return
    import tifffile

    if codec not in ("keep", "jpeg"):
        raise RequestError(f"codec {codec!r} for a TIFF: choose keep or jpeg")
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
            writer.write(**_level(store, level, codec))
    if codec == "keep" and on_note is not None:
        for note in _notes(store, path):
            on_note(note)


def _notes(store: SlideStore, path: str | os.PathLike[str]) -> Iterator[str]:
    """For each codec that some readers do not open: the levels, the readers, and what to do."""
    found: dict[str, list[int]] = {}
    for level in range(len(store.level_dimensions)):
        found.setdefault(store.level_format(level).codec, []).append(level)
    for codec, levels in found.items():
        if codec in NOT_READ:
            which = f"level {levels[0]} is" if len(levels) == 1 else f"levels {', '.join(map(str, levels))} are"
            yield f"{os.fspath(path)}: {which} {NOT_READ[codec]}. For the others, export with --codec jpeg (with loss)."


def _level(store: SlideStore, level: int, codec: Literal["keep", "jpeg"]) -> dict[str, Any]:
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
    if codec == "jpeg" and form.codec != "jpeg":
        colour = {} if grey else {"photometric": "ycbcr", "subsampling": (1, 1)}
        return common | {"data": _encoded(store, level), "compression": _JPEG} | colour
    if form.codec in EXACT_CODECS:
        pixels = _pixels(store, level)
        data = (tile if tile is None else tile[..., 0] for tile in pixels) if grey else pixels
        return common | {"data": data, "compression": _DEFLATE}
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
    """Pixels of the tiles, uint8 (h, w, 3), row-major; None where the store has no tile."""
    cols, rows = store.level_format(level).n_tiles
    for row in range(rows):
        for col in range(cols):
            present = store.chunk(level, col, row) is not None
            yield store.tile(level, col, row, keep=False) if present else None


def _encoded(store: SlideStore, level: int) -> Iterator[bytes]:
    """The tiles as JPEG, row-major; empty where the store has no tile."""
    form = replace(store.level_format(level), codec="jpeg")
    for pixels in _pixels(store, level):
        yield b"" if pixels is None else encode(pixels, form, quality=ENCODED_QUALITY)


def _first_head(store: SlideStore, level: int) -> JpegHeader | None:
    """Header of the level's first tile; None if it stores no tile."""
    return next((read_header(stream) for stream in _streams(store, level) if stream), None)
