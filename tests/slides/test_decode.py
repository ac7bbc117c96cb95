"""Chunks of a store that do not fit what they state."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest

from wsikit.slides.decode import ChunkError, decode_chunk
from wsikit.store.level_format import LevelFormat

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)


def test_a_blosc_chunk_that_was_cut_short_is_damaged():
    """The decoder does not look: it returns what is in memory after the chunk."""
    form, chunk = LevelFormat(32, 32, (32, 32), "zstd"), imagecodecs.blosc_encode(PIXELS.tobytes())
    np.testing.assert_array_equal(decode_chunk(chunk, form), PIXELS.transpose(1, 2, 0))
    for damaged in (chunk[:-1], chunk[:10], chunk + b"a"):
        with pytest.raises(ChunkError, match="a Blosc chunk of"):
            decode_chunk(damaged, form)


def test_a_jpeg_2000_chunk_that_cannot_be_is_damaged():
    form = LevelFormat(32, 32, (32, 32), "jpeg2k")
    chunk = imagecodecs.jpeg2k_encode(np.ascontiguousarray(PIXELS.transpose(1, 2, 0)), level=0, codecformat="j2k")
    np.testing.assert_array_equal(decode_chunk(chunk, form), PIXELS.transpose(1, 2, 0))
    with pytest.raises(ChunkError, match="coded data cannot have"):
        decode_chunk(chunk[:400] + b"\xff\xb0" + chunk[402:], form)
