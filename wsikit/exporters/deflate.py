"""zlib and gzip streams by libdeflate, several times as fast as zlib; by zlib where imagecodecs lacks libdeflate."""

from __future__ import annotations

import gzip
import zlib
from typing import Any


def deflate(data: Any, level: int) -> bytes:
    """`data`, bytes or a flat array of them, as a zlib stream.

    >>> zlib.decompress(deflate(b"abc" * 9, 3)) == b"abc" * 9
    True
    """
    from imagecodecs import DEFLATE, deflate_encode

    if DEFLATE.available:
        return bytes(deflate_encode(data, level=level))
    return zlib.compress(bytes(data), min(level, 9))


def gzipped(data: bytes, level: int) -> bytes:
    """`data` as a gzip file without a time stamp: equal data give equal bytes.

    >>> gzip.decompress(gzipped(b"abc" * 9, 3)) == b"abc" * 9
    True
    """
    from imagecodecs import GZIP, gzip_encode

    if GZIP.available:
        return bytes(gzip_encode(data, level=level))
    return gzip.compress(data, compresslevel=min(level, 9), mtime=0)
