"""Rosette-like rings: nuclei around a core of matrix whose fibrils point to the centre. Positions in µm from the
patch's top left corner.

A ring of nuclei alone is not specific: gaps in sheets of cells, glands and vessels have one as well. A Homer Wright
rosette differs in its core: no lumen and no mucin, but pink fibrils that point to the centre; and its nuclei are round,
those of columnar epithelium and of muscle long.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.colours import Colours
from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import cover, depth_below, halve, smooth
from wsikit.captions.texture import Gradient

Numbers = npt.NDArray[np.floating[Any]]

_CORE_UM = (7.0, 16.0)  # radius of the matrix inside
_BELT_UM = (-2.0, 7.0)  # distance of the ring's nuclei from the edge of the core
_SECTORS, _FILLED = 12, 6
_APART_UM = 5.0
_SHADE = 0.4  # maximum share of a core pixel that is covered by nuclei
_MIN_RADIAL = 0.10  # minimum excess of radial over tangential fibrils
_MIN_PINK = 0.85  # minimum share of a core that is eosin; mucin is bluish or pale, and a lumen is blank
_MIN_ASPECT = 0.65  # minimum of the median minor over major axis of the ring's nuclei
_NONE = np.zeros(0)
_CENTRE_UM = 2.0  # closer to the centre, the radial direction is undefined


def count_rings(
    nuclei: Nuclei, quarters: npt.NDArray[np.uint8], gradient: Gradient, colours: Colours, index: int
) -> int:
    """Number of rosette-like rings: at least 6 of 12 sectors around a core with radial fibrils contain a nucleus.

    Parameters
    ----------
    nuclei
        At `colours.mpp` / 2.
    quarters
        How many quarters of each pixel at `colours.mpp` lie on a nucleus, uint8 (h, w).
    gradient, index
        Of the density in green of patches, and the number of this patch among them.
    colours
        Of the same patch.
    """
    if len(nuclei) < _FILLED:
        return 0
    y, x, radius = _cores(quarters, colours, 2 * colours.mpp)
    if len(y) == 0:
        return 0
    ringed = _filled_sectors(nuclei, y, x, radius) >= _FILLED
    cores = zip(y[ringed].tolist(), x[ringed].tolist(), radius[ringed].tolist())
    return sum(
        _radial(gradient, index, colours.mpp, *core) > _MIN_RADIAL
        and _pink(colours, *core) >= _MIN_PINK
        and _aspect(nuclei, *core) >= _MIN_ASPECT
        for core in cores
    )


def _pink(colours: Colours, y: float, x: float, radius: float) -> float:
    """Share of a core that is eosin; its centre and radius are in µm."""
    mpp = colours.mpp
    height, width = colours.eosin.shape
    rows = np.arange(max(0, int((y - radius) / mpp)), min(height, int((y + radius) / mpp) + 1))
    columns = np.arange(max(0, int((x - radius) / mpp)), min(width, int((x + radius) / mpp) + 1))
    dy, dx = (rows + 0.5) * mpp - y, (columns + 0.5) * mpp - x
    core = (dy * dy)[:, None] + dx * dx <= radius**2
    eosin = colours.eosin[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return float(np.count_nonzero(eosin & core)) / max(1.0, float(np.count_nonzero(core)))


def _aspect(nuclei: Nuclei, y: float, x: float, radius: float) -> float:
    """Median minor over major axis of the nuclei of the ring around a core; its centre and radius are in µm."""
    beyond = np.hypot((nuclei.y + 0.5) * nuclei.mpp - y, (nuclei.x + 0.5) * nuclei.mpp - x) - radius
    return float(np.median(nuclei.aspect[(beyond > _BELT_UM[0]) & (beyond < _BELT_UM[1])]))


def _cores(quarters: npt.NDArray[np.uint8], colours: Colours, mpp: float) -> tuple[Numbers, Numbers, Numbers]:
    """Centres (y, x) and radii, µm, of the gaps between nuclei that have the size of a core and are stained.

    The search runs at `mpp`, about 2 µm: rings are some 30 µm wide.
    """
    free = halve(quarters.astype(np.float32)) <= 4 * _SHADE
    radius = smooth(depth_below(free, max(2, round(_CORE_UM[1] / mpp) + 2)), 1.5 / mpp) * mpp
    core = radius >= _CORE_UM[0]
    if not core.any():
        return _NONE, _NONE, _NONE
    core &= radius <= _CORE_UM[1]
    core &= cover(colours.blank | colours.red_cell) <= 1
    side = 2 * max(1, round(_APART_UM / mpp)) + 1
    order = radius + np.linspace(0, 1e-3, radius.size, dtype=np.float32).reshape(radius.shape)  # breaks ties
    y, x = np.nonzero(core & (cv2.dilate(order, np.ones((side, side), np.uint8)) == order))
    return (y + 0.5) * mpp, (x + 0.5) * mpp, radius[y, x]


def _filled_sectors(nuclei: Nuclei, y: Numbers, x: Numbers, radius: Numbers) -> npt.NDArray[np.int64]:
    """Number of sectors that contain a nucleus, for each of n rings with the given centres and core radii, µm."""
    dy = (nuclei.y + 0.5) * nuclei.mpp - y[:, None]  # (n, N)
    dx = (nuclei.x + 0.5) * nuclei.mpp - x[:, None]
    beyond = np.hypot(dy, dx) - radius[:, None]
    ring, nucleus = np.nonzero((beyond > _BELT_UM[0]) & (beyond < _BELT_UM[1]))
    turn = np.arctan2(dy[ring, nucleus], dx[ring, nucleus]) / (2 * np.pi) % 1.0
    filled = np.zeros((len(y), _SECTORS), bool)
    filled[ring, (turn * _SECTORS).astype(np.int64) % _SECTORS] = True
    return np.asarray(filled.sum(axis=1), np.int64)


def _radial(gradient: Gradient, index: int, mpp: float, y: float, x: float, radius: float) -> float:
    """Radial alignment of the fibrils of a core: 1 all radial, 0 as many radial as tangential, -1 all tangential.

    The core's centre and radius are in µm.
    """
    height, width = gradient.shape
    top, left = (max(0, int((centre - radius) / mpp)) for centre in (y, x))
    bottom, right = min(height, int((y + radius) / mpp) + 1), min(width, int((x + radius) / mpp) + 1)
    xx, yy, xy = gradient.within(index, slice(top, bottom), slice(left, right))
    dy = (np.arange(top, top + xx.shape[0])[:, None] + 0.5) * mpp - y
    dx = (np.arange(left, left + xx.shape[1])[None, :] + 0.5) * mpp - x
    dyy, dxx = dy * dy, dx * dx
    square = dyy + dxx
    core = (square <= radius**2) & (square > _CENTRE_UM**2)
    share = core / np.maximum(square, 1e-6)
    # the gradient is perpendicular to a fibril, so the minus below
    along = np.vdot(xx - yy, (dxx - dyy) * share) + 4 * np.vdot(xy, dx * dy * share)
    return float(-along / max(np.vdot(xx + yy, core), 4e-9))  # the differences are not halved: four times the products
