"""The planes of images and sums over their blocks, in whole numbers: exact, and faster than averages of floats."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Planes = npt.NDArray[Any]
"""(3, B, h, w): red, green, blue of B images."""

_FIT_16_BITS = 16  # blocks of uint8 up to this side
_SHORT = 6  # a reduction along an axis up to this length is slower than additions of strided planes


class Blocks:
    """Sums over blocks of k × k px of images, uint8 (B, H, W, 3); incomplete blocks at right and bottom are dropped.

    Examples
    --------
    >>> image = np.full((1, 5, 7, 3), 255, np.uint8)
    >>> Blocks(image).sums(2)[0, 0].tolist()
    [[1020, 1020, 1020], [1020, 1020, 1020]]
    """

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        n, height, width = images.shape[:3]
        planes = np.empty((3, n, height, width), np.uint8)  # interleaved colours are slow to work on
        tall = planes.reshape(3, n * height, width)
        cv2.split(images.reshape(n * height, width, 3), (tall[0], tall[1], tall[2]))
        self._sums: dict[int, Planes] = {1: planes}

    def of(self, chosen: list[int]) -> Blocks:
        """Those of some of the images."""
        some = Blocks.__new__(Blocks)
        some._sums = {k: sums[:, chosen] for k, sums in self._sums.items()}
        return some

    @property
    def planes(self) -> npt.NDArray[np.uint8]:
        """The images themselves, uint8 (3, B, H, W)."""
        planes: npt.NDArray[np.uint8] = self._sums[1]
        return planes

    def sums(self, k: int) -> Planes:
        """Sums over blocks, (3, B, H // k, W // k): uint8 for k = 1, uint16 up to 16, int32 above. Made once per k."""
        found = self._sums.get(k)
        if found is None:
            part = max(j for j in self._sums if k % j == 0)  # the grid of larger blocks is that of blocks of blocks
            found = _block_sums(self._sums[part], k // part, np.uint16 if k <= _FIT_16_BITS else np.int32)
            self._sums[k] = found
        return found

    def means(self, k: int) -> npt.NDArray[np.uint8]:
        """Means over blocks, rounded half up, uint8 (3, B, H // k, W // k)."""
        if k == 1:
            return self.planes
        total = self.sums(k)
        total = total + total.dtype.type(k * k // 2)
        total //= total.dtype.type(k * k)
        return np.asarray(total, np.uint8)


def _block_sums(planes: Planes, k: int, kind: Any) -> Planes:
    if k % 2 == 0 and k <= _SHORT and planes.dtype != np.int32:
        halved = _pair_sums(planes)
        return halved.astype(kind, copy=False) if k == 2 else _block_sums(halved, k // 2, kind)
    n, height, width = planes.shape[1], planes.shape[2] // k, planes.shape[3] // k
    within = planes[:, :, : height * k].reshape(3, n, height, k, planes.shape[3])
    if k > _SHORT:
        rows = np.add.reduce(within, axis=3, dtype=kind)[..., : width * k]
        return np.asarray(np.add.reduce(rows.reshape(3, n, height, width, k), axis=4, dtype=kind))
    rows = np.add(within[:, :, :, 0], within[:, :, :, 1], dtype=kind)
    for place in range(2, k):
        rows += within[:, :, :, place]
    total = rows[..., 0 : width * k : k] + rows[..., 1 : width * k : k]
    for place in range(2, k):
        total += rows[..., place : width * k : k]
    return np.asarray(total)


def _pair_sums(planes: Planes) -> Planes:
    """Sums over blocks of 2 × 2 px: two neighbours are read as one number of twice as many bits, and parted."""
    height, width = planes.shape[2] // 2, planes.shape[3] // 2
    bits = 8 * planes.dtype.itemsize
    pairs = np.ascontiguousarray(planes[:, :, : 2 * height, : 2 * width]).view(f"u{bits // 4}")
    sums = pairs >> bits
    sums += pairs & ((1 << bits) - 1)
    return np.asarray(sums[:, :, 0::2] + sums[:, :, 1::2])
