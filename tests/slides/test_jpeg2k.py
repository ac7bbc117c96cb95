"""Damage to JPEG 2000 that the format itself shows: decoders conceal it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from wsikit.slides import jpeg2k

PIXELS = np.random.default_rng(3).integers(0, 256, (96, 96, 3), np.uint8)


def by_openjpeg(**options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(PIXELS, **options))


def by_pillow(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "JPEG2000", **options)
    return stream.getvalue()


WHOLE: dict[str, Callable[[], bytes]] = {
    "lossless": lambda: by_openjpeg(level=0, codecformat="j2k"),
    "lossy": lambda: by_openjpeg(level=40, codecformat="j2k"),
    "in a JP2 file": lambda: by_openjpeg(level=0, codecformat="jp2"),
    "in tiles": lambda: by_pillow(tile_size=(32, 32), no_jp2=True),
    "in quality layers": lambda: by_pillow(quality_layers=[20, 5], irreversible=True),
    "with lengths of packets": lambda: by_pillow(plt=True),
    "padded": lambda: by_openjpeg(level=0, codecformat="j2k") + b"\0\0\0",
}


@pytest.mark.parametrize("kind", WHOLE)
def test_nothing_is_found_in_whole_streams(kind):
    assert jpeg2k.damage(WHOLE[kind]()) is None


def without(stream: bytes, start: int, count: int) -> bytes:
    return stream[:start] + stream[start + count :]


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut short": (lambda stream: stream[:-200], "ends too early"),
    "an end mark after the cut": (lambda stream: stream[:-200] + stream[-2:], "other lengths"),
    "bytes left out, zeros at the end": (
        lambda stream: without(stream, len(stream) // 2, 8) + bytes(8),
        "coded data cannot have",
    ),
    "bytes put in": (lambda stream: stream[:900] + b"abc" + stream[900:], "other lengths"),
    "a marker in coded data": (lambda stream: stream[:900] + b"\xff\xa0" + stream[902:], "coded data cannot have"),
    "a damaged header": (lambda stream: stream[:2] + b"\0" + stream[3:], "header of the JPEG 2000 stream"),
    "no begin": (lambda stream: b"\0\0" + stream[2:], "no begin"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_the_format_forbids_is_found(kind):
    change, words = DAMAGED[kind]
    assert words in (jpeg2k.damage(change(WHOLE["lossless"]())) or "")


def test_any_prefix_of_a_stream_is_damaged_and_ends_the_search():
    stream = WHOLE["in tiles"]()
    for size in range(0, len(stream) - 1, 61):
        assert jpeg2k.damage(stream[:size]) is not None
        assert jpeg2k.damage(stream[:size] + b"\xff\xd9") is not None


def test_a_run_of_noise_is_mostly_found():
    """512 bytes of noise hold a pair that coded data cannot have with a probability of 58 %."""
    stream, rng = WHOLE["lossless"](), np.random.default_rng(0)
    places = rng.integers(200, len(stream) - 800, 40)
    damaged = [stream[:at] + rng.bytes(512) + stream[at + 512 :] for at in places]
    assert sum(jpeg2k.damage(one) is not None for one in damaged) > 12
