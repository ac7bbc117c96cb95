"""Empty spaces in the tissue: fat cells and lumens in the blank area. Masks at 1 µm per pixel or coarser.

A fat cell is a large rounded space, separated from the next by a thin wall. A lumen is a space surrounded by thick
tissue. All other blank area remains blank: glass, tears, clefts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage as ndi

from wsikit.captions.colours import Colours
from wsikit.captions.pixels import Densities, Mask, dilate

_GAP_UM = 2.0  # walls of fat cells are often torn; gaps up to twice this width are closed
_WALL_UM = 9.0  # thickest wall between two fat cells
_FAT_CELL_UM2 = (350.0, 16_000.0)  # the patch's edge may cut off most of it
_WALLED_SHARE = 0.22  # minimum share of a fat cell's outline that is thin wall
_FAINT_WALL_MPP = 1.5  # from this pixel size on, walls are fainter than the limit for blank
_FAINT_WALL = 0.03  # sum of three densities
_ROUND = 0.35  # minimum 4π · area / perimeter² of a fat cell
_LUMEN_UM2 = (40.0, 30_000.0)
_LUMEN_EDGE_SHARE = 0.25  # maximum share of a lumen's outline that lies on the patch's edge


@dataclass(frozen=True, slots=True)
class Spaces:
    """bool (h, w) each, both within the blank mask."""

    fat: Mask
    lumen: Mask


def find_spaces(od: Densities, colours: Colours) -> Spaces:
    """Find fat cells and lumens.

    Parameters
    ----------
    od, colours
        Densities at 1 to 5 µm per pixel, and their colours.
    """
    blank, mpp = colours.blank, od.mpp
    none = np.zeros(blank.shape, bool)
    if blank.mean() < 0.005:
        return Spaces(none, none)
    if mpp > _FAINT_WALL_MPP:
        blank = blank & ~_faint_walls(od)
    gap = int(_GAP_UM / mpp)
    cores = ~dilate(~blank, gap) if gap else blank
    labels, n = ndi.label(cores)
    if n == 0:
        return Spaces(none, none)
    if gap:
        labels = _regrow(labels, blank, gap)
    area = np.bincount(labels.ravel(), minlength=n + 1) * mpp**2
    outline, on_edge = _outlines(labels, n)
    within = outline - on_edge
    walled = _walled(labels, n, mpp) / np.maximum(within, 1)
    compact = 4 * np.pi * area / np.maximum(outline * mpp, mpp) ** 2
    sized = (area >= _FAT_CELL_UM2[0]) & (area <= _FAT_CELL_UM2[1])
    fat = sized & (walled >= _WALLED_SHARE) & (compact >= _ROUND)
    lumen = ~fat & (area >= _LUMEN_UM2[0]) & (area <= _LUMEN_UM2[1]) & (on_edge <= _LUMEN_EDGE_SHARE * outline)
    fat[0] = lumen[0] = False
    return Spaces(fat[labels], lumen[labels])


def _faint_walls(od: Densities) -> Mask:
    """Lines slightly darker than both of their sides: walls thinner than a pixel."""
    total = od.red + od.green + od.blue
    opened = ndi.maximum_filter(ndi.minimum_filter(total, 5), 5)
    return np.asarray(total - opened > _FAINT_WALL)


def _regrow(labels: npt.NDArray[np.int32], within: Mask, steps: int) -> npt.NDArray[np.int32]:
    """Extend labels by up to `steps` px within a mask; a pixel between two labels gets the higher one."""
    for _ in range(steps):
        labels = np.where(within & (labels == 0), ndi.maximum_filter(labels, 3), labels)
    return labels


def _outlines(labels: npt.NDArray[np.int32], n: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Perimeter of each label, and its length on the patch's edge, px, (n + 1,) each.

    Counting pixel sides overestimates the perimeter by 4 / π on average; the result is corrected for that.
    """
    sides = np.zeros(n + 1)
    for here, there in (
        (labels[1:], labels[:-1]),
        (labels[:-1], labels[1:]),
        (labels[:, 1:], labels[:, :-1]),
        (labels[:, :-1], labels[:, 1:]),
    ):
        sides += np.bincount(here[here != there], minlength=n + 1)
    edge = sum(np.bincount(line, minlength=n + 1) for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]))
    return sides * (np.pi / 4) + edge, np.asarray(edge, np.float64)


def _walled(labels: npt.NDArray[np.int32], n: int, mpp: float) -> npt.NDArray[np.float64]:
    """Length of each label's outline that is a thin wall, px, (n + 1,): another label lies within `_WALL_UM`."""
    side = 2 * max(1, round(_WALL_UM / mpp)) + 1
    highest = ndi.maximum_filter(labels, side)
    lowest = ndi.minimum_filter(np.where(labels > 0, labels, n + 1), side)
    rim = (labels > 0) & (ndi.minimum_filter(labels, 3) != labels)
    met = rim & (highest != lowest)
    return np.bincount(labels[met], minlength=n + 1).astype(np.float64)
