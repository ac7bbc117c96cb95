"""Decodes one chunk of a store's level to RGB, by the format of the level."""

from __future__ import annotations

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsikit.slides import jpeg, jpeg2k
from wsikit.store.level_format import LevelFormat

_BLOSC_BYTES = slice(12, 16)
"""Where the header of a Blosc chunk states the length of the chunk, header included, uint32."""


class ChunkError(ValueError):
    """The bytes of a chunk do not fit the format of its level."""


def decode_chunk(chunk: bytes, form: LevelFormat) -> npt.NDArray[np.uint8]:
    """Pixels of a whole tile, uint8 (tile height, tile width, 3); ChunkError if the bytes do not decode to one."""
    width, height = form.tile_px
    try:
        if form.codec == "jpeg":
            samples = jpeg.decode(chunk, form.tile_px, grey=form.channels == 1)
        elif form.codec == "jpeg2k":
            fault = jpeg2k.damage(chunk)
            if fault is not None:
                raise ValueError(fault)
            samples = imagecodecs.jpeg2k_decode(chunk)
        else:
            planes = np.frombuffer(_decompressed(chunk, form), dtype=np.uint8)
            samples = planes.reshape(form.channels, height, width).transpose(1, 2, 0)
        samples = samples.reshape(height, width, form.channels)
    except Exception as error:  # each decoder raises its own errors
        words = " ".join(str(error).split()) or type(error).__name__
        raise ChunkError(words) from error
    return np.repeat(samples, 3, axis=2) if form.channels == 1 else np.ascontiguousarray(samples)


def decode_planes(chunk: bytes, form: LevelFormat) -> npt.NDArray[np.generic]:
    """Samples of a chunk of a fluorescence slide, (channels in the chunk, tile height, tile width), read-only;
    ChunkError if the bytes do not decode to them."""
    width, height = form.tile_px
    try:
        samples = np.frombuffer(_decompressed(chunk, form), np.dtype(form.dtype).newbyteorder("<"))
        planes = samples.reshape(form.channels // form.planes, height, width)
    except Exception as error:  # each decoder raises its own errors
        words = " ".join(str(error).split()) or type(error).__name__
        raise ChunkError(words) from error
    return planes.astype(form.dtype, copy=False)


def check_blosc(head: bytes, size: int) -> None:
    """ValueError if a Blosc chunk of `size` bytes that begins with `head`, 16 bytes or more, has another size than it
    states. Blosc itself does not look: it reads what is in memory after a chunk that was cut short."""
    stated = int.from_bytes(head[_BLOSC_BYTES], "little")
    if stated != size:
        raise ValueError(f"a Blosc chunk of {size} bytes, where its header states {stated}")


def _decompressed(chunk: bytes, form: LevelFormat) -> bytes:
    if form.codec != "zstd":
        return bytes(imagecodecs.zstd_decode(chunk))
    check_blosc(chunk[: _BLOSC_BYTES.stop], len(chunk))
    return bytes(imagecodecs.blosc_decode(chunk))
