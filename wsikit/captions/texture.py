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
    """The area that is neither nucleus nor blank, bool (h // 2, w // 2) each."""

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
        Optical densities, (h, w).
    on_nuclei
        bool (h // 2, w // 2): blocks of 2 × 2 px that a nucleus covers, if only in part.
    """
    mpp = 2 * od.mpp
    total = od.red + od.green
    total += od.blue
    blank = total < _BLANK
    covered, stained = on_nuclei, None
    if cv2.countNonZero(blank.view(np.uint8)):
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


def is_fibrillary(gradient: Gradient, green: Plane, matrix: Matrix, within: Mask) -> Mask:
    """Which pixels of `within` are rough and have a direction within 1.5 µm, averaged over 4 µm: bool (h // 2, w // 2).

    Parameters
    ----------
    gradient
        Of the density in green, (h, w).
    green
        The density in green, halved.
    matrix
        Of the same densities.
    within
        bool (h // 2, w // 2): only its surroundings are measured.
    """
    found = np.zeros(within.shape, bool)
    rows, columns = np.flatnonzero(within.any(axis=1)), np.flatnonzero(within.any(axis=0))
    if len(rows) == 0:
        return found
    reach = box_side(_SMOOTH_NEAR_UM / matrix.mpp) // 2 + box_side(_NEAR_UM / matrix.mpp) // 2
    top, bottom = max(0, int(rows[0]) - reach), int(rows[-1]) + reach + 1
    left, right = max(0, int(columns[0]) - reach), int(columns[-1]) + reach + 1
    box = np.s_[top:bottom, left:right]
    near, roughness = _near(gradient.within(top, bottom, left, right), green[box], matrix.free[box], matrix.mpp)
    fibrillary = box_mean(near, _SMOOTH_NEAR_UM / matrix.mpp) > _FIBRIL_NEAR
    fibrillary &= roughness > _FIBRIL_ROUGHNESS
    np.logical_and(fibrillary, within[box], out=found[box])
    return found


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
    xy *= np.float32(2)
    near: Plane = cv2.magnitude(xx, xy)  # type: ignore[assignment]  # float32, as its arguments
    energy += np.float32(4 * _EPSILON)
    near /= energy
    return near, roughness


class Gradient:
    """Products xx, yy, xy of the differences of a plane (h, w), averaged over 2 × 2 px. Only what is asked for is computed.

    Examples
    --------
    >>> ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))  # 2 from the left to the right of each pixel
    >>> xx, yy, xy = Gradient(ramp).within(1, 3, 1, 3)
    >>> xx.tolist(), float(yy.max()), float(xy.max())
    ([[4.0, 4.0], [4.0, 4.0]], 0.0, 0.0)
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._whole: list[Plane] = []

    def within(self, top: int, bottom: int, left: int, right: int) -> list[Plane]:
        """Three planes of a box of the halved plane, px; the box may end beyond it."""
        height, width = (max(1, side // 2) for side in self._plane.shape)
        bottom, right = min(bottom, height), min(right, width)
        if not self._whole and (bottom - top) * (right - left) > height * width // 2:
            self._whole = [halve(product) for product in tensor_of(self._plane)]
        if self._whole:
            return [product[top:bottom, left:right] for product in self._whole]
        # one more pixel of the halved plane around it, so that differences at its edges are those of the plane
        first_row, first_column = max(0, top - 1), max(0, left - 1)
        end_row = _end(min(height, bottom + 1), self._plane.shape[0])
        end_column = _end(min(width, right + 1), self._plane.shape[1])
        part = self._plane[2 * first_row : end_row, 2 * first_column : end_column]
        rows, columns = slice(top - first_row, bottom - first_row), slice(left - first_column, right - first_column)
        return [halve(product)[rows, columns] for product in tensor_of(part)]


def _end(halved: int, side: int) -> int:
    """End of the part of a plane that has `halved` px when halved; the plane's own end, and its odd px, if that is it."""
    return side if halved >= max(1, side // 2) else 2 * halved


def tensor_of(plane: Plane) -> tuple[Plane, Plane, Plane]:
    """Products of the differences of the pixels on both sides, (h, w): xx, yy, xy; zero at the edges of the plane."""
    dy, dx = np.empty(plane.shape, np.float32), np.empty(plane.shape, np.float32)
    if plane.shape[0] > 2:
        cv2.subtract(plane[2:], plane[:-2], dst=dy[1:-1])
    if plane.shape[1] > 2:
        cv2.subtract(plane[:, 2:], plane[:, :-2], dst=dx[:, 1:-1])
    dy[0] = dy[-1] = 0
    dx[:, 0] = dx[:, -1] = 0
    xy = dx * dy
    dx *= dx
    dy *= dy
    return dx, dy, xy
