"""Where the samples of one channel are in a TIFF: its tiles or strips at one level. Structure only, no pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from wsikit.slides.formats.tiff.codecs import codec_fault

DTYPES = ("uint8", "uint16", "float32")
"""Types of samples that are read."""

_STRIP_ROWS = 64
"""Strips are read as tiles of about so many rows: some writers store each row as a strip."""
_RAW_BYTES = 1 << 20
"""Largest tile of a plane that is stored uncompressed in one piece, bytes."""

Decoder = Callable[..., tuple[npt.NDArray[Any] | None, Any, Any]]


@dataclass(frozen=True)
class Plane:
    """One channel at one level. A tile consists of one or more segments (TIFF tiles or strips), one below the other."""

    width: int
    height: int
    tile_px: tuple[int, int]
    segment_rows: int
    """Rows of one segment, which is as wide as a tile."""
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    """Bytes of each segment of this plane; 0 if it is not stored: its samples are 0."""
    lost: npt.NDArray[np.bool_]
    """Whether a segment has a place in the file but no bytes there, or bytes but no place."""
    first: int
    """Number of the plane's first segment within its directory, as the decoder counts."""
    sample: int | None
    """Index among the interleaved samples of a pixel; None if the segments hold this channel alone."""
    directory: int
    """Equal for channels whose samples are interleaved in the same segments."""
    dtype: np.dtype[Any]
    """As stored, with byte order."""
    compression: int
    jpeg_tables: bytes | None
    decode: Decoder | None
    """tifffile's decoder of a segment; None if the bytes are the samples."""

    @property
    def columns(self) -> int:
        return math.ceil(self.width / self.tile_px[0])

    def segments(self, column: int, row: int) -> list[int]:
        """Numbers of the segments of a tile, within this plane."""
        stacked = self.tile_px[1] // self.segment_rows
        rows = math.ceil(self.height / self.segment_rows)
        return [r * self.columns + column for r in range(row * stacked, min((row + 1) * stacked, rows))]

    def rows_of(self, row: int, index: int) -> int:
        """Rows that the segment `index` of a tile in `row` has within the level."""
        top = row * self.tile_px[1] + index * self.segment_rows
        return min(self.segment_rows, self.height - top)


def plane_of(page: tifffile.TiffPage, sample: int, *, start: int | None = None) -> Plane:
    """The plane of channel `sample` of a directory; 0 if the directory holds one channel.

    `start` is the byte offset of the plane where one directory describes several, uncompressed and one after the other
    (large ImageJ files).
    """
    raw = _raw_start(page) if start is None else start
    separate = int(page.planarconfig) == 2 and page.samplesperpixel > 1
    interleaved = page.samplesperpixel > 1 and not separate
    assert page.dtype is not None
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    common: dict[str, Any] = {
        "width": page.imagewidth,
        "height": page.imagelength,
        "sample": sample if interleaved else None,
        "directory": page.offset,
        "dtype": dtype,
        "compression": int(page.compression),
        "jpeg_tables": page.jpegtables,
    }
    row_bytes = page.imagewidth * dtype.itemsize
    if raw is not None and not interleaved:
        start = raw + (sample * page.imagelength * row_bytes if separate else 0)
        rows = min(page.imagelength, max(1, _RAW_BYTES // row_bytes))
        tops = np.arange(0, page.imagelength, rows)
        counts = (np.minimum(tops + rows, page.imagelength) - tops) * row_bytes
        offsets = start + tops * row_bytes
        tile_px = (page.imagewidth, rows)
        lost = np.zeros(len(tops), bool)
        places: dict[str, Any] = {"offsets": offsets, "counts": counts, "lost": lost, "first": 0, "decode": None}
        return Plane(**common, tile_px=tile_px, segment_rows=rows, **places)
    if page.is_tiled:
        tile_px, segment_rows = (page.tilewidth, page.tilelength), page.tilelength
    else:
        segment_rows = min(page.rowsperstrip, page.imagelength)
        stacked = max(1, min(_STRIP_ROWS // segment_rows, math.ceil(page.imagelength / segment_rows)))
        tile_px = (page.imagewidth, segment_rows * stacked)
    n = math.ceil(page.imagewidth / tile_px[0]) * math.ceil(page.imagelength / segment_rows)
    first = sample * n if separate else 0
    offsets = np.asarray(page.dataoffsets, dtype=np.int64)
    counts = np.asarray(page.databytecounts, dtype=np.int64)
    expected = n * (page.samplesperpixel if separate else 1)
    if len(offsets) != expected or len(counts) != expected:
        raise ValueError(f"{len(offsets)} tiles or strips listed where {expected} are needed")
    lost = (offsets == 0) != (counts == 0)
    part = slice(first, first + n)
    return Plane(
        **common,
        tile_px=tile_px,
        segment_rows=segment_rows,
        offsets=offsets[part],
        counts=np.where(offsets == 0, 0, counts)[part],
        lost=lost[part],
        first=first,
        decode=page.decode,
    )


def unfit_plane(page: tifffile.TiffPage) -> str | None:
    """Why the samples of a directory cannot be read as channels, as text; or None."""
    fault = codec_fault(int(page.compression))
    if fault is not None:
        return fault.rstrip(".")
    if page.dtype is None or page.dtype.name not in DTYPES:
        return f"channels of type {page.dtype}, where uint8, uint16 or float32 is expected"
    if page.dtype.itemsize * 8 != page.bitspersample:
        return f"channels of {page.bitspersample} bits, where 8, 16 or 32 are expected"
    if int(page.photometric) != 1:
        return f"channels with colours of TIFF type {int(page.photometric)}, where 0 as black is expected"
    if page.imagedepth != 1:
        return f"a volume of {page.imagedepth} planes in one directory, where one plane is expected"
    return None


def _raw_start(page: tifffile.TiffPage) -> int | None:
    """Byte offset of a directory's samples, if they are stored uncompressed in one piece and not in tiles."""
    if page.is_tiled or int(page.compression) != 1 or page.predictor != 1 or page.fillorder != 1:
        return None
    offsets = np.asarray(page.dataoffsets, dtype=np.int64)
    counts = np.asarray(page.databytecounts, dtype=np.int64)
    in_one_piece = bool((offsets[:-1] + counts[:-1] == offsets[1:]).all()) and bool((offsets > 0).all())
    return int(offsets[0]) if in_one_piece and int(counts.sum()) == page.nbytes else None
