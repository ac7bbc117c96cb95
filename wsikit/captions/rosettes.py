"""Rosette-like rings: nuclei around a core of matrix whose fibrils run inwards. Centres in µm from the patch's corner.

A ring of nuclei alone is no rosette: gaps in a sheet of cells, glands and vessels have one too. What tells a Homer
Wright rosette is its core: no lumen, and fibrils that point to the middle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from wsikit.captions.colours import Colours
from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import depth_below, halve, halve_mask, smooth
from wsikit.captions.texture import Texture

Numbers = npt.NDArray[np.floating[Any]]

_CORE_UM = (7.0, 16.0)  # radius of the matrix inside
_BELT_UM = (-2.0, 7.0)  # where the nuclei of the ring lie, from the core's radius
_SECTORS, _FILLED = 12, 6
_APART_UM = 5.0
_SHADE = 0.4  # most share of a pixel of the core that nuclei cover
_INWARDS = 0.10  # least excess of fibrils that point to the middle over fibrils that run round it
_MIDDLE_UM = 2.0  # nearer than that to the middle there is no inwards


def count_rings(nuclei: Nuclei, texture: Texture, colours: Colours) -> int:
    """Number of rosette-like rings: 6 of 12 sectors around a core of inward fibrils hold a nucleus.

    Parameters
    ----------
    nuclei
        At `texture.mpp` / 2.
    texture
        Of the matrix.
    colours
        At `texture.mpp`.
    """
    if len(nuclei) < _FILLED:
        return 0
    y, x, radius = _cores(nuclei, colours, 2 * texture.mpp)
    ringed = _filled_sectors(nuclei, y, x, radius) >= _FILLED
    cores = zip(y[ringed], x[ringed], radius[ringed])
    return sum(_inward(texture, *core) > _INWARDS for core in cores)


def _cores(nuclei: Nuclei, colours: Colours, mpp: float) -> tuple[Numbers, Numbers, Numbers]:
    """Middles (y, x) and radii, µm, of the gaps between nuclei that are of a core's size and not empty.

    Looked for at `mpp`, about 2 µm: rings are some 30 µm wide.
    """
    free = halve(halve((nuclei.labels > 0).astype(np.float32))) <= _SHADE
    radius = smooth(depth_below(free, max(2, round(_CORE_UM[1] / mpp) + 2)), 1.5 / mpp) * mpp
    filled = ~halve_mask(colours.blank | colours.red_cell, 0.25)
    core = (radius >= _CORE_UM[0]) & (radius <= _CORE_UM[1]) & filled
    side = 2 * max(1, round(_APART_UM / mpp)) + 1
    order = radius + np.linspace(0, 1e-3, radius.size, dtype=np.float32).reshape(radius.shape)  # no two are equal
    y, x = np.nonzero(core & (ndi.maximum_filter(order, side) == order))
    return (y + 0.5) * mpp, (x + 0.5) * mpp, radius[y, x]


def _filled_sectors(nuclei: Nuclei, y: Numbers, x: Numbers, radius: Numbers) -> npt.NDArray[np.int64]:
    """Number of sectors that hold a nucleus, for each of n rings of the given middles and core radii, µm."""
    dy = (nuclei.y + 0.5) * nuclei.mpp - y[:, None]  # (n, N)
    dx = (nuclei.x + 0.5) * nuclei.mpp - x[:, None]
    beyond = np.hypot(dy, dx) - radius[:, None]
    ring, nucleus = np.nonzero((beyond > _BELT_UM[0]) & (beyond < _BELT_UM[1]))
    turn = np.arctan2(dy[ring, nucleus], dx[ring, nucleus]) / (2 * np.pi) % 1.0
    filled = np.zeros((len(y), _SECTORS), bool)
    filled[ring, (turn * _SECTORS).astype(np.int64) % _SECTORS] = True
    return filled.sum(axis=1)


def _inward(texture: Texture, y: float, x: float, radius: float) -> float:
    """How much the fibrils of a core point to its middle: 1 all do, 0 as many as not, -1 all run round it."""
    height, width = texture.matrix.shape
    top, left = (max(0, int((place - radius) / texture.mpp)) for place in (y, x))
    bottom = min(height, int((y + radius) / texture.mpp) + 1)
    right = min(width, int((x + radius) / texture.mpp) + 1)
    dy = (np.arange(top, bottom)[:, None] + 0.5) * texture.mpp - y
    dx = (np.arange(left, right)[None, :] + 0.5) * texture.mpp - x
    square = dy * dy + dx * dx
    xx, yy, xy = texture.tensor[:, top:bottom, left:right] * ((square <= radius**2) & (square > _MIDDLE_UM**2))
    # the gradient lies across a fibril: along the radius it speaks against
    along = ((xx - yy) * (dx * dx - dy * dy) + 4 * xy * dx * dy) / np.maximum(square, 1e-6)
    return float(-along.sum() / max(float((xx + yy).sum()), 1e-9))
