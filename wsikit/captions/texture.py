"""Direction and roughness of the matrix between the nuclei, from the structure tensor. Planes at half the densities'
size.

Neurites are fine and change direction within tens of µm; the fibres of spindle stroma and muscle run in parallel. So
both have a direction within 2 µm, only the latter within 12 µm, and structureless matrix at neither distance.

What is needed last is measured last: most patches have no area that could be fibrils or necrosis.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from wsikit.captions.pixels import Densities, Mask, Plane, box_count, box_mean, cover, dilate, halve

_NEAR_UM = 1.5
_FAR_UM = 10.0
_AROUND_NUCLEI_UM = 1.25  # the edge of a nucleus is the strongest gradient, but no fibre
_SUPPORT_UM, _SUPPORT = 4.0, 0.5  # minimum share of matrix within this distance
_EPSILON = 1e-7
_BLANK = 0.2  # sum of the three densities


@dataclass(frozen=True, slots=True)
class Matrix:
    """The area that is neither nucleus nor blank, bool (h // 2, w // 2) each."""

    stained: Mask
    """Not blank."""
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
    covered, stained = on_nuclei, np.ones(on_nuclei.shape, bool)
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
    if not matrix.stained.all():
        planes *= matrix.stained
    xx, yy, xy = box_mean(planes, _FAR_UM / matrix.mpp)
    # the coherence is a quotient of roots; compared as squares, it needs neither
    apart = xx - yy
    apart *= apart
    xy *= np.float32(2)
    xy *= xy
    apart += xy
    xx += yy
    np.maximum(xx, 0, out=xx)
    xx += np.float32(_EPSILON)
    xx *= np.float32(least)
    xx *= xx
    return np.asarray(apart > xx)


@dataclass(frozen=True, slots=True)
class Texture:
    """(h // 2, w // 2) float32 each."""

    near: Plane
    """Coherence within 1.5 µm: 0 no direction, 1 a single direction."""
    roughness: Plane
    """Root mean square gradient per pixel over the mean density."""
    tensor: Plane
    """Products xx, yy, xy of the components of the gradient, (3, h // 2, w // 2)."""
    mpp: float


def texture_of(od: Densities, green: Plane, matrix: Matrix) -> Texture:
    """Measure the texture of the matrix near each pixel.

    Parameters
    ----------
    od
        Optical densities, (h, w).
    green
        The density in green, halved.
    matrix
        Of the same densities.
    """
    mpp = matrix.mpp
    tensor = halve(tensor_of(od.green))
    weight = matrix.free.astype(np.float32)
    xx, yy, xy, density = (box_mean(plane * weight, _NEAR_UM / mpp) for plane in (*tensor, green))
    support = np.maximum(box_mean(weight, _NEAR_UM / mpp), np.float32(_EPSILON))
    energy = np.maximum(xx + yy, 0)
    density /= support
    np.maximum(density, 0, out=density)
    density += np.float32(0.02)
    roughness = np.sqrt(energy / support)
    roughness /= density
    xx -= yy
    xy *= np.float32(2)
    near = np.asarray(cv2.magnitude(xx, xy))
    energy += np.float32(_EPSILON)
    near /= energy
    return Texture(near, roughness, tensor, mpp)


def tensor_of(plane: Plane) -> Plane:
    """Products of the central differences of (h, w): xx, yy, xy, float32 (3, h, w); zero at the edges of the patch."""
    half = plane * np.float32(0.5)
    dy, dx = np.zeros_like(plane), np.zeros_like(plane)
    if len(half) > 2:
        cv2.subtract(half[2:], half[:-2], dst=dy[1:-1])
    if half.shape[1] > 2:
        cv2.subtract(half[:, 2:], half[:, :-2], dst=dx[:, 1:-1])
    planes = np.empty((3, *plane.shape), np.float32)
    np.multiply(dx, dx, out=planes[0])
    np.multiply(dy, dy, out=planes[1])
    np.multiply(dx, dy, out=planes[2])
    return planes
