"""Empty spaces in the tissue: fat cells and lumens in the blank area. Masks at 1 µm per pixel or coarser.

A fat cell is a large rounded space, separated from the next one by a thin wall. A lumen is a space surrounded by thick
tissue. All other blank area remains blank: glass, tears, clefts.

Glass that the patch's edge cuts off has the size of a fat cell, and shreds of tissue in it look like thin walls. It is
recognised by its long straight cut, by its ragged outline, and because beyond a shred there is no other rounded space.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsikit.captions.pixels import Densities, Mask, erode, in_one_call
from wsikit.facts import FACTS

_LEAST_BLANK = 0.005  # share of the patch
_GAP_UM = 2.0  # walls of fat cells are often torn; gaps up to twice this width are closed
_WALL_UM = 9.0  # thickest wall between two fat cells
_FAT_CELL_UM2 = (350.0, 16_000.0)  # the patch's edge may cut off most of it
_WALLED_SHARE = 0.22  # minimum share of a fat cell's outline that is thin wall
_FAINT_WALL_MPP = 1.5  # from this pixel size on, walls are fainter than the limit for blank
_FAINT_WALL = 0.03  # sum of three densities
_ROUND = 0.35  # minimum 4π · area / perimeter² of a space that is not a lumen, as its walls are thin
# Up to 2 µm per pixel, where lumens are stated as well, outlines are fine enough to tell a fat cell from glass:
_CELL_ROUND = 0.5  # minimum 4π · area / perimeter² of a fat cell; cut by an edge, real ones have 0.5 to 0.85
_SHARED_WALL = 0.1  # minimum share of its outline that is a thin wall to another fat cell …
_ALONE_ROUND, _ALONE_WALL, _ALONE_EDGE = 0.6, 0.5, 0.5  # … or a rounder one inside the patch, thin-walled by half
_GLASS_SHARE, _GLASS_EDGE = 0.25, 0.57  # this much of a patch, cut off along more of its outline than this: glass
_LUMEN_UM2 = (40.0, 30_000.0)
_LUMEN_MPP = FACTS["lumen_share"].coarsest_mpp
_LUMEN_EDGE_SHARE = 0.25  # maximum share of a lumen's outline that lies on the patch's edge


Labels = npt.NDArray[Any]
"""(B, h, w), uint16 or, in large patches, float32: kinds of which OpenCV finds the largest in a window. 0 is none."""
_MANY = np.iinfo(np.uint16).max - 2
_SQUARE = np.ones((3, 3), np.uint8)


def find_spaces(od: Densities, blank: Mask) -> list[tuple[float, float]]:
    """Fractions of patches that are fat cells and that are lumens. Both lie within the blank mask.

    Parameters
    ----------
    od
        Densities of B patches, (B, h, w), at 1 to 5 µm per pixel.
    blank
        Bright pixels of the same patches, bool (B, h, w).
    """
    mpp, size = od.mpp, blank[0].size
    least = max(_LEAST_BLANK * size, _LUMEN_UM2[0] / mpp**2)
    chosen = [index for index, one in enumerate(blank) if np.count_nonzero(one) >= least]
    shares = [(0.0, 0.0)] * len(blank)
    if chosen:
        if mpp > _FAINT_WALL_MPP:
            blank = blank & ~_faint_walls(od)
        fat, lumen = _find(blank[chosen], mpp)
        for index, *found in zip(chosen, fat.tolist(), lumen.tolist()):
            shares[index] = (found[0] / size, found[1] / size)
    return shares


def _find(blank: Mask, mpp: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pixels of fat cells and of lumens of B patches, (B,) each."""
    nothing = np.zeros(len(blank), np.int64)
    gap = int(_GAP_UM / mpp)
    many = blank.size > 2 * _MANY  # more than 16 bits can count
    cores = erode(blank, gap)
    n, labels = _label(cores, cv2.CV_32S if many else cv2.CV_16U)
    if n == 0:
        return nothing, nothing
    labels = _regrow(labels.astype(np.float32) if many else labels, blank, gap)
    area_px = _counts(labels, n)
    area = area_px * mpp**2
    fat = (area >= _FAT_CELL_UM2[0]) & (area <= _FAT_CELL_UM2[1])
    lumen = (area >= _LUMEN_UM2[0]) & (area <= _LUMEN_UM2[1])
    fat[0] = lumen[0] = False
    if not (fat.any() or lumen.any()):
        return nothing, nothing
    outline, on_edge = _outlines(labels, n)
    roundness = 4 * np.pi * area / np.maximum(outline * mpp, mpp) ** 2
    fat &= roundness >= _ROUND
    if fat.any():
        inside = np.maximum(outline - on_edge, 1)
        walled = _walled(labels, n, mpp) / inside
        fat &= walled >= _WALLED_SHARE
    lumen &= ~fat & (on_edge <= _LUMEN_EDGE_SHARE * outline)
    if mpp <= _LUMEN_MPP and fat.any():
        cut_off = on_edge / np.maximum(outline, 1)
        fat &= roundness >= _CELL_ROUND
        fat &= (area_px <= _GLASS_SHARE * blank[0].size) | (cut_off <= _GLASS_EDGE)
        if fat.any():
            alone = (roundness >= _ALONE_ROUND) & (walled >= _ALONE_WALL) & (cut_off <= _ALONE_EDGE)
            cells = np.where(fat, np.arange(n + 1), 0).astype(labels.dtype)[labels.astype(np.intp)]
            fat &= alone | (_walled(cells, n, mpp) >= _SHARED_WALL * inside)
    patch_of = _patch_of(labels, n)
    per_patch = (np.bincount(patch_of[kept], area_px[kept], len(blank)) for kept in (fat, lumen))
    fat_px, lumen_px = (total.astype(np.int64) for total in per_patch)
    return fat_px, lumen_px


def _label(cores: Mask, kind: int) -> tuple[int, Labels]:
    """Number and labels, (B, h, w), of the regions of B masks; no label occurs in two of them."""
    n = 0

    def components(mask: Mask) -> Labels:
        nonlocal n
        n, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=4, ltype=kind)
        return labels

    labels = in_one_call(cores, 1, False, components)
    return n - 1, labels


def _patch_of(labels: Labels, n: int) -> npt.NDArray[np.intp]:
    """The patch in which each label lies, (n + 1,)."""
    patch = np.zeros(n + 1, np.intp)
    if len(labels) > 1:
        flat = labels.ravel()
        starts = (
            np.flatnonzero(flat[1:] != flat[:-1]) + 1
        )  # every label begins somewhere, be it only at the first pixel
        patch[flat[starts].astype(np.intp)] = starts // labels[0].size
    return patch


def _faint_walls(od: Densities) -> Mask:
    """Lines slightly darker than both of their sides: walls thinner than a pixel."""
    total = od.red + od.green
    total += od.blue
    window = np.ones((5, 5), np.uint8)
    least = in_one_call(total, 2, np.inf, lambda tall: cv2.erode(tall, window))
    total -= in_one_call(least, 2, -np.inf, lambda tall: cv2.dilate(tall, window))
    return np.asarray(total > _FAINT_WALL)


def _regrow(labels: Labels, within: Mask, steps: int) -> Labels:
    """Extend labels by up to `steps` px within masks; a pixel between two labels gets the higher one."""
    for _ in range(steps):
        grown = in_one_call(labels, 1, 0, lambda tall: cv2.dilate(tall, _SQUARE))
        labels = np.where(labels == 0, grown * within, labels)
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
    for here, there in ((labels[:, 1:], labels[:, :-1]), (labels[:, :, 1:], labels[:, :, :-1])):
        apart = here != there
        parts += [here[apart], there[apart]]
    sides = _counts(np.concatenate(parts), n)
    edges = (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1])
    edge = _counts(np.concatenate([line.ravel() for line in edges]), n).astype(np.float64)
    return np.asarray(sides * (np.pi / 4) + edge), edge


def _walled(labels: Labels, n: int, mpp: float) -> npt.NDArray[np.float64]:
    """Length of each label's outline that is a thin wall, px, (n + 1,): another label lies within `_WALL_UM`."""
    reach = max(1, round(_WALL_UM / mpp))
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    within, highest_of_all = labels > 0, labels.dtype.type(n + 1)
    highest = in_one_call(labels, reach, 0, lambda tall: cv2.dilate(tall, window))
    only_labels = np.where(within, labels, highest_of_all)
    lowest = in_one_call(only_labels, reach, highest_of_all, lambda tall: cv2.erode(tall, window))
    met = in_one_call(labels, 1, highest_of_all, lambda tall: cv2.erode(tall, _SQUARE)) != labels
    met &= within
    met &= highest != lowest
    return _counts(labels[met], n).astype(np.float64)
