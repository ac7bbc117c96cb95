"""Empty spaces in the tissue: fat cells and lumens in the blank area. Masks at 1 µm per pixel or coarser.

A fat cell is a large rounded space, separated from the next by a thin wall. A lumen is a space surrounded by thick
tissue. All other blank area remains blank: glass, tears, clefts.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.pixels import Densities, Mask, erode

_LEAST_BLANK = 0.005  # share of the patch
_GAP_UM = 2.0  # walls of fat cells are often torn; gaps up to twice this width are closed
_WALL_UM = 9.0  # thickest wall between two fat cells
_FAT_CELL_UM2 = (350.0, 16_000.0)  # the patch's edge may cut off most of it
_WALLED_SHARE = 0.22  # minimum share of a fat cell's outline that is thin wall
_FAINT_WALL_MPP = 1.5  # from this pixel size on, walls are fainter than the limit for blank
_FAINT_WALL = 0.03  # sum of three densities
_ROUND = 0.35  # minimum 4π · area / perimeter² of a fat cell
_LUMEN_UM2 = (40.0, 30_000.0)
_LUMEN_EDGE_SHARE = 0.25  # maximum share of a lumen's outline that lies on the patch's edge


Labels = npt.NDArray[Any]
"""(h, w), uint16 or, in a large patch, float32: kinds of which OpenCV finds the largest in a window. 0 is none."""
_MANY = np.iinfo(np.uint16).max - 2
_SQUARE = np.ones((3, 3), np.uint8)


def find_spaces(od: Densities, blank: Mask) -> tuple[float, float]:
    """Fractions of a patch that are fat cells and that are lumens. Both lie within the blank mask.

    Parameters
    ----------
    od
        Densities at 1 to 5 µm per pixel.
    blank
        Bright pixels of the same patch, bool (h, w).
    """
    mpp = od.mpp
    blank_px = np.count_nonzero(blank)
    if blank_px < _LEAST_BLANK * blank.size or blank_px * mpp**2 < _LUMEN_UM2[0]:
        return 0.0, 0.0
    if mpp > _FAINT_WALL_MPP:
        blank = blank & ~_faint_walls(od)
    gap = int(_GAP_UM / mpp)
    many = blank.size > 2 * _MANY  # more than 16 bits can count
    kind = cv2.CV_32S if many else cv2.CV_16U
    n, labels = cv2.connectedComponents(erode(blank, gap).view(np.uint8), connectivity=4, ltype=kind)
    n -= 1
    if n == 0:
        return 0.0, 0.0
    labels = _regrow(labels.astype(np.float32) if many else labels, blank, gap)
    area_px = _counts(labels, n)
    area = area_px * mpp**2
    fat_sized = (area >= _FAT_CELL_UM2[0]) & (area <= _FAT_CELL_UM2[1])
    lumen_sized = (area >= _LUMEN_UM2[0]) & (area <= _LUMEN_UM2[1])
    fat_sized[0] = lumen_sized[0] = False
    if not (fat_sized.any() or lumen_sized.any()):
        return 0.0, 0.0
    outline, on_edge = _outlines(labels, n)
    fat = fat_sized
    if fat.any():
        fat &= 4 * np.pi * area / np.maximum(outline * mpp, mpp) ** 2 >= _ROUND
    if fat.any():
        fat &= _walled(labels, n, mpp) / np.maximum(outline - on_edge, 1) >= _WALLED_SHARE
    lumen = lumen_sized & ~fat & (on_edge <= _LUMEN_EDGE_SHARE * outline)
    return float(area_px[fat].sum() / blank.size), float(area_px[lumen].sum() / blank.size)


def _faint_walls(od: Densities) -> Mask:
    """Lines slightly darker than both of their sides: walls thinner than a pixel."""
    total = od.red + od.green
    total += od.blue
    window = np.ones((5, 5), np.uint8)
    total -= cv2.dilate(cv2.erode(total, window), window)
    return np.asarray(total > _FAINT_WALL)


def _regrow(labels: Labels, within: Mask, steps: int) -> Labels:
    """Extend labels by up to `steps` px within a mask; a pixel between two labels gets the higher one."""
    for _ in range(steps):
        grown = cv2.dilate(labels, _SQUARE)
        grown *= within
        labels = np.where(labels == 0, grown, labels)
    return labels


def _counts(labels: Labels, n: int) -> npt.NDArray[np.int64]:
    """How often each label from 0 to n occurs."""
    flat = labels.ravel()
    return np.bincount(flat.astype(np.intp) if labels.dtype.kind == "f" else flat, minlength=n + 1)


def _outlines(labels: Labels, n: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Perimeter of each label, and its length on the patch's edge, px, (n + 1,) each.

    Counting pixel sides overestimates the perimeter by 4 / π on average; the result is corrected for that.
    """
    parts = []
    for here, there in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        apart = here != there
        parts += [here[apart], there[apart]]
    sides = _counts(np.concatenate(parts), n)
    edge = _counts(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]), n)
    return sides * (np.pi / 4) + edge, edge.astype(np.float64)


def _walled(labels: Labels, n: int, mpp: float) -> npt.NDArray[np.float64]:
    """Length of each label's outline that is a thin wall, px, (n + 1,): another label lies within `_WALL_UM`."""
    side = 2 * max(1, round(_WALL_UM / mpp)) + 1
    window = np.ones((side, side), np.uint8)
    within = labels > 0
    highest = cv2.dilate(labels, window)
    lowest = cv2.erode(np.where(within, labels, labels.dtype.type(n + 1)), window)
    met = cv2.erode(labels, _SQUARE) != labels
    met &= within
    met &= highest != lowest
    return _counts(labels[met], n).astype(np.float64)
