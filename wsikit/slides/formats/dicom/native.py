"""Samples of frames that are not compressed, or by run lengths (RLE): their order in memory."""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt

from wsikit.slides.formats.dicom.header import Samples

Array = npt.NDArray[np.generic]
_RLE_HEADER = 64


@dataclass(frozen=True)
class Layout:
    """Order of the samples of a frame."""

    big_endian: bool = False
    swapped: bool = False
    """8-bit samples in words of 16 bits of big endian: the two bytes of each word are exchanged."""
    chroma_halved: bool = False
    """YBR_FULL_422: two px share Cb and Cr, stored as Y, Y, Cb, Cr."""


def frame_bytes(samples: Samples, tile_px: tuple[int, int], *, chroma_halved: bool = False) -> int:
    """Bytes of one frame."""
    width, height = tile_px
    if chroma_halved:
        return width * height * 2
    return width * height * max(1, samples.channels) * (samples.bits_allocated // 8)


def arrange(data: bytes, samples: Samples, tile_px: tuple[int, int], layout: Layout) -> Array:
    """(h, w, channels) of an uncompressed frame; ValueError if it is too short.

    >>> plain = Samples("RGB", 3, True, 8, 8, 7, False)
    >>> arrange(bytes(range(6)), plain, (2, 1), Layout()).tolist()
    [[[0, 2, 4], [1, 3, 5]]]
    """
    width, height = tile_px
    size = frame_bytes(samples, tile_px, chroma_halved=layout.chroma_halved)
    if len(data) < size:
        raise ValueError(f"the frame has {len(data)} bytes, where {size} are expected")
    if samples.bits_allocated == 8:
        flat: Array = np.frombuffer(data, np.uint8, size)
        if layout.swapped:
            flat = flat[: size // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
    else:
        flat = _significant(np.frombuffer(data, ">u2" if layout.big_endian else "<u2", size // 2), samples)
    if layout.chroma_halved:
        pairs = flat.reshape(height, -1, 4)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        return np.concatenate([pairs[..., :2].reshape(height, width, 1), chroma], axis=2)
    if samples.planar and samples.channels > 1:
        return np.moveaxis(flat.reshape(samples.channels, height, width), 0, 2)
    return flat.reshape(height, width, samples.channels)


def run_lengths(data: bytes, samples: Samples, tile_px: tuple[int, int]) -> Array:
    """(h, w, channels) of an RLE frame (DICOM PS3.5, annex G): one segment for each byte of each channel."""
    width, height = tile_px
    per_sample = samples.bits_allocated // 8
    count = int.from_bytes(data[:4], "little")
    if count != samples.channels * per_sample or len(data) < _RLE_HEADER:
        raise ValueError(f"an RLE frame of {count} segments, where {samples.channels * per_sample} are expected")
    starts = [int(start) for start in np.frombuffer(data, "<u4", count, 4)]
    planes = []
    for start, end in zip(starts, [*starts[1:], len(data)]):
        plane = imagecodecs.packbits_decode(data[start:end])
        if len(plane) < width * height:
            raise ValueError(f"a segment of {len(plane)} bytes, where {width * height} are expected")
        planes.append(np.frombuffer(plane, np.uint8, width * height).reshape(height, width))
    if per_sample == 1:
        return np.stack(planes, axis=2)
    pairs = [planes[i].astype(np.uint16) << 8 | planes[i + 1] for i in range(0, count, 2)]
    return _significant(np.stack(pairs, axis=2), samples)


def _significant(values: Array, samples: Samples) -> Array:
    """The stored bits of samples of 16, moved to the lowest bits."""
    shift = max(0, samples.high_bit + 1 - samples.bits_stored)
    found: Array = (values.astype(np.uint16) >> shift) & ((1 << samples.bits_stored) - 1)
    return found
