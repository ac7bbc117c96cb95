"""Direction and roughness of the matrix between the nuclei, from the structure tensor. Planes at half the densities'
size.

Neurites are fine and change direction within tens of µm; the fibres of spindle stroma and muscle run in parallel. So
both have a direction within 2 µm, only the latter within 12 µm, and structureless matrix at neither distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wsikit.captions.pixels import Densities, Mask, Plane, box_mean, dilate, halve, halve_mask

_NEAR_UM = 1.5
_FAR_UM = 10.0
_AROUND_NUCLEI_UM = 1.25  # the edge of a nucleus is the strongest gradient, but no fibre
_SUPPORT_UM, _SUPPORT = 4.0, 0.5  # minimum share of matrix within this distance
_EPSILON = 1e-7


@dataclass(frozen=True, slots=True)
class Texture:
    """(h // 2, w // 2) float32 each."""

    near: Plane
    """Coherence within 1.5 µm: 0 no direction, 1 a single direction."""
    far: Plane
    """Coherence within 10 µm, including nuclei: in spindle stroma they are aligned with the fibres."""
    roughness: Plane
    """Root mean square gradient per pixel over the mean density."""
    stained: Mask
    """Not blank."""
    matrix: Mask
    """Stained, not a nucleus, and not just a strip between nuclei."""
    tensor: Plane
    """Products xx, yy, xy of the components of the gradient, (3, h // 2, w // 2)."""
    mpp: float


def texture_of(od: Densities, nuclei: Mask, blank: Mask) -> Texture:
    """Measure the texture of the area that is neither nucleus nor blank.

    Parameters
    ----------
    od
        Optical densities.
    nuclei, blank
        bool (h, w).
    """
    mpp = 2 * od.mpp
    open_space = halve_mask(blank, 0)
    stained = ~dilate(open_space, 1)
    covered = dilate(halve_mask(nuclei, 0) | open_space, max(1, round(_AROUND_NUCLEI_UM / mpp)))
    weight = (~covered).astype(np.float32)
    green = halve(od.green)
    planes = np.stack([*(halve(product) for product in _tensor(od.green)), green])
    xx, yy, xy, density = box_mean(planes * weight, _NEAR_UM / mpp)
    support = np.maximum(box_mean(weight, _NEAR_UM / mpp), _EPSILON)
    roughness = np.sqrt(np.maximum(xx + yy, 0) / support) / (np.maximum(density, 0) / support + 0.02)
    matrix = (weight > 0) & (box_mean(weight, _SUPPORT_UM / mpp) > _SUPPORT)
    far = box_mean(np.stack(list(_tensor(green))) * stained, _FAR_UM / mpp)
    return Texture(_coherence(xx, yy, xy), _coherence(*far), roughness, stained, matrix, planes[:3], mpp)


def _tensor(plane: Plane) -> Iterator[Plane]:
    """Products of the central differences, in turn: xx, yy, xy; zero at the edges of the patch."""
    half = plane * np.float32(0.5)
    dy, dx = np.zeros_like(plane), np.zeros_like(plane)
    np.subtract(half[2:], half[:-2], out=dy[1:-1])
    np.subtract(half[:, 2:], half[:, :-2], out=dx[:, 1:-1])
    yield dx * dx
    yield dy * dy
    dx *= dy
    yield dx


def _coherence(xx: Plane, yy: Plane, xy: Plane) -> Plane:
    """Difference over sum of the eigenvalues of the structure tensor."""
    return np.asarray(np.sqrt((xx - yy) ** 2 + 4 * xy * xy) / (np.maximum(xx + yy, 0) + _EPSILON))
