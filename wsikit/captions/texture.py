"""Direction and roughness of the matrix between the nuclei, from the structure tensor. Planes at half the densities'
size.

Neurites are fine and change direction within tens of µm; the fibres of spindle stroma and muscle run in parallel. So
both have a direction within 2 µm, only the latter within 12 µm, and structureless matrix at neither distance.

What is needed last is measured last: most patches have no area that could be fibrils or necrosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from wsikit.captions.pixels import Densities, Mask, Plane, box_count, box_mean, box_side, cover, dilate, halve

_NEAR_UM = 1.5
_FAR_UM = 10.0
_AROUND_NUCLEI_UM = 1.25  # the edge of a nucleus is the strongest gradient, but no fibre
_SUPPORT_UM, _SUPPORT = 4.0, 0.5  # minimum share of matrix within this distance
_EPSILON = 1e-7
_BLANK = 0.2  # sum of the three densities
_FIBRIL_NEAR, _FIBRIL_ROUGHNESS = 0.45, 0.11
_SMOOTH_NEAR_UM = 4.0


@dataclass(frozen=True, slots=True)
class Matrix:
    """The area of patches that is neither nucleus nor blank, bool (B, h // 2, w // 2) each."""

    stained: Mask | None
    """Not blank; None: everywhere."""
    free: Mask
    """Stained, and at some distance from the nuclei."""
    matrix: Mask
    """Free, and not just a strip between nuclei."""
    mpp: float


def matrix_of(od: Densities, on_nuclei: Mask) -> Matrix:
    """Find the area whose texture is that of the matrix.

    Parameters
    ----------
    od
        Optical densities of B patches, (B, h, w).
    on_nuclei
        bool (B, h // 2, w // 2): blocks of 2 × 2 px that a nucleus covers, if only in part.
    """
    mpp = 2 * od.mpp
    total = od.red + od.green
    total += od.blue
    blank = total < _BLANK
    covered, stained = on_nuclei, None
    if blank.any():
        open_space = cover(blank) > 0
        stained = ~dilate(open_space, 1)
        covered = covered | open_space
    free = ~dilate(covered, max(1, round(_AROUND_NUCLEI_UM / mpp)))
    count, window = box_count(free, _SUPPORT_UM / mpp)
    matrix = count > np.float32(_SUPPORT * window)
    matrix &= free
    return Matrix(stained, free, matrix, mpp)


def runs_parallel(green: Plane, matrix: Matrix, least: float) -> Mask:
    """Where the coherence within 10 µm is above `least`, including nuclei: in spindle stroma they are aligned with the
    fibres. `green` is the halved density.
    """
    planes = tensor_of(green)
    if matrix.stained is not None:
        weight = matrix.stained.astype(np.float32)
        for plane in planes:
            plane *= weight
    xx, yy, xy = (box_mean(plane, _FAR_UM / matrix.mpp) for plane in planes)
    # the coherence is a quotient of roots; compared as squares, it needs neither
    apart = xx - yy
    apart *= apart
    xy *= xy
    xy *= np.float32(4)
    apart += xy
    xx += yy
    np.maximum(xx, 0, out=xx)
    xx += np.float32(4 * _EPSILON)  # the differences are not halved: four times the products
    xx *= np.float32(least)
    xx *= xx
    return np.asarray(apart > xx)


def is_fibrillary(gradient: Gradient, green: Plane, matrix: Matrix, within: Mask, *, sparse: bool) -> Mask:
    """Which pixels of `within` are rough and have a direction within 1.5 µm, averaged over 4 µm: bool (B, h, w).

    Parameters
    ----------
    gradient
        Of the density in green of B patches.
    green
        That density, halved, (B, h, w).
    matrix
        Of the same patches.
    within
        bool (B, h, w).
    sparse
        Whether it is few pixels: then only their surroundings are measured, patch by patch.
    """
    found = np.zeros(within.shape, bool)
    chosen = [index for index, one in enumerate(within) if one.any()]
    if not sparse and chosen:
        near, roughness = _near(gradient.whole(), green, matrix.free, matrix.mpp)
        found = box_mean(near, _SMOOTH_NEAR_UM / matrix.mpp) > _FIBRIL_NEAR
        found &= roughness > _FIBRIL_ROUGHNESS
        found &= within
    elif chosen:
        reach = box_side(_SMOOTH_NEAR_UM / matrix.mpp) // 2 + box_side(_NEAR_UM / matrix.mpp) // 2
        for index in chosen:
            rows, columns = (_reached(within[index].any(axis=axis), reach) for axis in (1, 0))
            box = np.s_[index, rows, columns]
            near, roughness = _near(gradient.within(*box), green[box], matrix.free[box], matrix.mpp)
            fibrillary = box_mean(near, _SMOOTH_NEAR_UM / matrix.mpp) > _FIBRIL_NEAR
            fibrillary &= roughness > _FIBRIL_ROUGHNESS
            np.logical_and(fibrillary, within[box], out=found[box])
    return found


def _reached(line: Mask, reach: int) -> slice:
    """From the first to the last place of a line that is set, and `reach` px more at both ends."""
    places = np.flatnonzero(line)
    return slice(max(0, int(places[0]) - reach), min(len(line), int(places[-1]) + reach + 1))


def _near(tensor: Sequence[Plane], green: Plane, free: Mask, mpp: float) -> tuple[Plane, Plane]:
    """Coherence within 1.5 µm, 0 no direction and 1 a single one, and root mean square gradient over mean density."""
    sigma = _NEAR_UM / mpp
    weight = free.astype(np.float32)
    xx, yy, xy, density = (box_mean(plane * weight, sigma) for plane in (*tensor, green))
    support = box_mean(weight, sigma)
    np.maximum(support, np.float32(_EPSILON), out=support)
    energy = xx + yy
    np.maximum(energy, 0, out=energy)
    density /= support
    np.maximum(density, 0, out=density)
    density += np.float32(0.02)
    roughness = np.divide(energy, support, out=support)
    np.sqrt(roughness, out=roughness)
    roughness *= np.float32(0.5)  # the differences are not halved
    roughness /= density
    xx -= yy
    xx *= xx
    xy *= xy
    xy *= np.float32(4)
    xx += xy
    near = np.sqrt(xx, out=xx)
    energy += np.float32(4 * _EPSILON)
    near /= energy
    return near, roughness


class Gradient:
    """Products xx, yy, xy of the differences of planes (B, h, w), averaged over 2 × 2 px, once they are asked for.

    Examples
    --------
    >>> ramp = np.tile(np.arange(8, dtype=np.float32), (1, 8, 1))  # 2 from the left to the right of each pixel
    >>> xx, yy, xy = Gradient(ramp).within(0, slice(1, 3), slice(1, 3))
    >>> xx.tolist(), float(yy.max()), float(xy.max())
    ([[4.0, 4.0], [4.0, 4.0]], 0.0, 0.0)
    """

    def __init__(self, planes: Plane) -> None:
        self._planes = planes
        self._whole: list[Plane] = []

    @property
    def shape(self) -> tuple[int, int]:
        """(h // 2, w // 2)."""
        height, width = (max(1, side // 2) for side in self._planes.shape[1:])
        return height, width

    def whole(self) -> list[Plane]:
        """The three products, (B, h // 2, w // 2) each."""
        if not self._whole:
            self._whole = [halve(product) for product in tensor_of(self._planes)]
        return self._whole

    def within(self, index: int, rows: slice, columns: slice) -> list[Plane]:
        """The products of a box of one halved plane; the box lies in it."""
        if self._whole:
            return [product[index, rows, columns] for product in self._whole]
        plane = self._planes[index]
        # one more pixel of the halved plane around it, so that differences at its edges are those of the plane
        top, left = max(0, rows.start - 1), max(0, columns.start - 1)
        bottom, right = (_end(end + 1, side) for end, side in zip((rows.stop, columns.stop), plane.shape))
        inner = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        return [halve(product)[inner] for product in tensor_of(plane[2 * top : bottom, 2 * left : right])]


def _end(halved: int, side: int) -> int:
    """End of the part of a plane that has `halved` px when halved; all of the plane, an odd px included, at its end."""
    return side if halved >= max(1, side // 2) else 2 * halved


def tensor_of(planes: Plane) -> tuple[Plane, Plane, Plane]:
    """Products of the differences of the pixels on both sides, (..., h, w): xx, yy, xy; zero at the edges."""
    height, width = planes.shape[-2:]
    dy, dx = np.empty(planes.shape, np.float32), np.empty(planes.shape, np.float32)
    tall, tall_dy, tall_dx = (array.reshape(-1, width) if array.ndim > 2 else array for array in (planes, dy, dx))
    if len(tall) > 2:  # across the edges between planes as well: set to zero below
        cv2.subtract(tall[2:], tall[:-2], dst=tall_dy[1:-1])
    if width > 2:
        cv2.subtract(tall[:, 2:], tall[:, :-2], dst=tall_dx[:, 1:-1])
    dy[..., 0, :] = dy[..., -1, :] = 0
    dx[..., 0] = dx[..., -1] = 0
    xy = dx * dy
    dx *= dx
    dy *= dy
    return dx, dy, xy
