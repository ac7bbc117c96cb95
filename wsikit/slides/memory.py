"""Memory for pixels that is used again.

The system hands out new memory page by page, and clears each page at its first use: 2.5 µs per page of 4 kB were
measured, 90 µs for a patch of 224 px, about as long as decoding it takes. Memory of tiles and batches is therefore kept
when the last array that refers to it is gone, and lent again.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST_BYTES = 1 << 16
"""The C library keeps smaller memory itself."""

KEPT_BYTES = 24 << 20
"""Kept of each size."""

KEPT_SIZES = 4
"""Number of sizes that are kept; those that were kept before are released when there are more."""

_ALIGNED, _SHIFTED = 64, 8
"""libjpeg-turbo writes rows that begin at a multiple of 16 or 32 bytes past the cache, straight to memory. They are
read again at once, and would have to come back from there: decoding a tile of 256 px and copying a patch from it took
119 µs in place of 88."""

_kept: dict[int, deque[npt.NDArray[np.uint8]]] = {}
"""Free memory by size. Only operations that are atomic are used, as memory may become free within any of them."""


class _Loan:
    """Memory that is lent: NumPy keeps this object as long as any array, or view of one, refers to the memory."""

    __slots__ = ("__array_interface__", "_raw")

    def __init__(self, raw: npt.NDArray[np.uint8], shape: tuple[int, ...], shift: int) -> None:
        self._raw = raw
        address: int = raw.__array_interface__["data"][0]
        place = (address + _ALIGNED - 1) // _ALIGNED * _ALIGNED + shift
        self.__array_interface__: dict[str, Any] = {
            "shape": shape,
            "typestr": "|u1",
            "data": (place, False),
            "version": 3,
        }

    def __del__(self, kept: dict[int, deque[npt.NDArray[np.uint8]]] = _kept) -> None:
        free = kept.get(self._raw.size)
        if free is not None:
            free.append(self._raw)


def borrowed(shape: tuple[int, ...], *, for_jpeg: bool = False) -> npt.NDArray[np.uint8]:
    """A new uint8 array of `shape`, C-contiguous, of undefined content, as `np.empty` makes it.

    `for_jpeg`: a JPEG is decoded to it; it then begins between the places that the decoder writes past the cache.

    >>> one = borrowed((512, 512, 3))
    >>> place = one.ctypes.data
    >>> part = one[:10]
    >>> del one  # `part` still refers to the memory
    >>> borrowed((512, 512, 3)).ctypes.data == place
    False
    >>> del part
    >>> borrowed((512, 512, 3)).ctypes.data == place
    True
    """
    if math.prod(shape) < LEAST_BYTES:
        return np.empty(shape, dtype=np.uint8)
    size = math.prod(shape) + _ALIGNED + _SHIFTED
    free = _kept.get(size)
    if free is None:
        if len(_kept) >= KEPT_SIZES:
            _kept.clear()
        free = _kept.setdefault(size, deque(maxlen=max(1, KEPT_BYTES // size)))
    try:
        raw = free.pop()
    except IndexError:
        raw = np.empty(size, dtype=np.uint8)
    return np.asarray(_Loan(raw, shape, _SHIFTED if for_jpeg else 0))
