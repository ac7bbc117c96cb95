"""Nuclear segmentation of one patch: thresholded haematoxylin, split by the distance transform, measured in µm.

Positions are in px of the densities given. Thresholds adapt to the patch's staining, with lower bounds. The parameters
in `NucleusRule` were tuned on four images with annotated nuclei (listed in `benchmarks/captions.py`) and tested on four
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from wsikit.captions.pixels import (
    Densities,
    Mask,
    Plane,
    box_mean,
    depth_below,
    double,
    fill_holes,
    halve,
    otsu,
    smooth,
)

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]

_PREVIOUS, _NEXT, _STAY = 1, 2, 3  # directions along one axis
_DEPTH_STEPS = 4096  # per px of depth


@dataclass(frozen=True, slots=True)
class NucleusRule:
    """Parameters of the nuclear segmentation. Lengths in µm, areas in µm², densities in optical density (OD)."""

    green_weight: float = 0.05
    """Fraction of the OD in green that is subtracted from red: absorption of eosin in red."""
    blue_weight: float = 0.4
    """Fraction of the OD in blue that is subtracted from red: red blood cells and brown chromogen."""
    blur_um: float = 0.35
    least_density: float = 0.06
    """Lower bound of the threshold, for pale patches."""
    otsu_share: float = 0.9
    """Factor on the Otsu threshold of the patch."""
    local_weight: float = 0.8
    """Weight of the local mean relative to the threshold of the patch."""
    local_factor: float = 1.2
    local_um: float = 6.0
    hole_um2: float = 20.0
    """Holes up to this area are filled …"""
    hole_share: float = 0.67
    """… if their mean density is at least this share of the threshold: pale chromatin, not a gap between nuclei."""
    depth_blur_um: float = 0.7
    apart_um: float = 2.0
    """Distance maxima nearer than this belong to one nucleus."""
    least_contrast: float = 0.05
    """Lower bound of the haematoxylin density above the surroundings: less is mucus, cytoplasm, or out of focus."""
    around_um: float = 2.0
    least_um2: float = 12.0
    most_um2: float = 400.0


@dataclass(frozen=True, slots=True)
class Nuclei:
    """N nuclei of a patch."""

    labels: Labels
    """(h, w); 0 is no nucleus, nucleus i is i + 1."""
    x: Floats
    """Centroid, px, (N,)."""
    y: Floats
    area_um2: Floats
    """(N,)."""
    aspect: Floats
    """Minor over major axis of the ellipse with the same second moments, (N,)."""
    density: Floats
    """Mean optical density in red, where haematoxylin absorbs and eosin hardly does, (N,)."""
    cut: Mask
    """Whether it touches the edge of the patch, (N,)."""
    mpp: float

    def __len__(self) -> int:
        return len(self.x)

    @property
    def diameter_um(self) -> Floats:
        """Diameter of the circle with the same area, (N,)."""
        return np.sqrt(self.area_um2 * (4 / np.pi))

    @property
    def number(self) -> float:
        """Number of nuclei; those cut by the edge count half, so that counts of neighbouring patches add up."""
        return float(len(self) - 0.5 * np.count_nonzero(self.cut))


def find_nuclei(od: Densities, rule: NucleusRule = NucleusRule()) -> Nuclei:
    """Segment the nuclei of a patch.

    Parameters
    ----------
    od
        Optical densities, 0.25 to 1.5 µm per pixel.
    rule
        Parameters.

    Examples
    --------
    >>> from wsikit.captions.pixels import densities
    >>> y, x = np.mgrid[:64, :64]
    >>> disc = np.hypot(y - 32, x - 32) < 8  # diameter 8 µm
    >>> image = np.where(disc[..., None], (80, 50, 130), (235, 190, 215)).astype(np.uint8)
    >>> nuclei = find_nuclei(densities(image, 0.5))
    >>> len(nuclei), float(nuclei.diameter_um[0].round(1))
    (1, 8.1)
    """
    # in place, here and below: staying in the CPU cache saves a third of the time
    haematoxylin = od.blue * np.float32(-rule.blue_weight)
    haematoxylin -= np.float32(rule.green_weight) * od.green
    haematoxylin += od.red
    np.maximum(haematoxylin, 0, out=haematoxylin)
    blurred = smooth(haematoxylin, rule.blur_um / od.mpp)
    sample = np.s_[::2, ::2]  # a quarter of the pixels gives the same threshold
    stained = od.red[sample] + od.green[sample] + od.blue[sample] > 0.24
    threshold = rule.otsu_share * otsu(blurred[sample][stained], highest=1.5)
    local = box_mean(halve(haematoxylin), rule.local_um / (2 * od.mpp))
    limit = (1 - rule.local_weight) * threshold + rule.local_weight * rule.local_factor * local
    mask = blurred > double(np.maximum(limit, np.float32(rule.least_density)), od.shape)
    mask = fill_holes(mask, rule.hole_um2 / od.mpp**2, blurred, rule.hole_share * threshold)
    labels = _split(mask, od.mpp, rule)
    return _measure(labels, od.red, haematoxylin, od.mpp, rule)


def _split(mask: Mask, mpp: float, rule: NucleusRule) -> Labels:
    """Separate touching nuclei: each pixel belongs to the distance maximum that steepest ascent leads to."""
    depth = smooth(depth_below(mask), rule.depth_blur_um / mpp)
    pixels, tops = _climb(depth, mask)
    labels = np.zeros(mask.shape, np.int32)
    if pixels.size:
        is_peak = np.zeros(mask.size, bool)
        is_peak[tops] = True
        peaks = np.flatnonzero(is_peak)
        label_of = np.zeros(mask.size, np.int32)
        label_of[peaks] = _merge_near(peaks, depth.ravel()[peaks], mask.shape[1], max(2.0, rule.apart_um / mpp)) + 1
        labels.ravel()[pixels] = label_of[tops]
    return labels


def _climb(depth: Plane, mask: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Flat indices of the mask's pixels, and of the local maximum above each."""
    height, width = mask.shape
    # The four low bits encode the direction, two for the column and two for the row, so that a maximum gives height and
    # direction at once; staying has the highest code, and so is preferred among equal heights
    keys = np.zeros((height + 2, width + 2), np.int32)
    np.copyto(keys[1:-1, 1:-1], (depth * _DEPTH_STEPS).astype(np.int32) << 4, where=mask)
    across = np.maximum(keys[:, :-2] + (_PREVIOUS << 2), keys[:, 2:] + (_NEXT << 2))
    np.maximum(across, keys[:, 1:-1] + (_STAY << 2), out=across)
    best = np.maximum(across[:-2] + _PREVIOUS, across[2:] + _NEXT)
    np.maximum(best, across[1:-1] + _STAY, out=best)
    step = np.array([0, -1, 1, 0])  # by direction code
    offsets = (step[None, :] * width + step[:, None]).ravel()
    pixels = np.flatnonzero(mask)
    tops = pixels + offsets[best.ravel()[pixels] & 15]
    jump = np.zeros(mask.size, np.int64)
    while True:
        jump[pixels] = tops
        onward = jump[tops]
        if np.array_equal(onward, tops):
            return pixels, tops
        tops = onward


def _merge_near(peaks: npt.NDArray[np.int64], height: Plane, width: int, apart_px: float) -> npt.NDArray[np.int64]:
    """For each of n peaks the peak it is merged into: the end of a chain of near, ever higher peaks."""
    into = np.arange(len(peaks))
    points = np.stack([peaks // width, peaks % width], axis=1).astype(np.float64)
    pairs = cKDTree(points).query_pairs(apart_px, output_type="ndarray")
    if len(pairs) == 0:
        return into
    rank = np.empty(len(peaks), np.int64)
    rank[np.lexsort((-peaks, height))] = np.arange(len(peaks))
    pairs = np.take_along_axis(pairs, np.argsort(rank[pairs], axis=1), axis=1)
    pairs = pairs[np.argsort(rank[pairs[:, 1]])]  # the last assignment is kept: the highest neighbour
    into[pairs[:, 0]] = pairs[:, 1]
    while not np.array_equal(onward := into[into], into):
        into = onward
    return into


def _measure(labels: Labels, red: Plane, haematoxylin: Plane, mpp: float, rule: NucleusRule) -> Nuclei:
    """Measure every label; drop those that are too small, too large or too pale for a nucleus."""
    pixels = np.flatnonzero(labels).astype(np.int32)
    member = labels.ravel()[pixels].astype(np.intp) - 1
    n = int(labels.max(initial=0))
    size_px = np.bincount(member, minlength=n)
    area: Floats = size_px * np.float64(mpp**2)

    def mean(values: npt.NDArray[Any]) -> Floats:
        return np.bincount(member, values, n) / np.maximum(size_px, 1)

    row = pixels // labels.shape[1]
    y, x = row.astype(np.float64), (pixels - row * labels.shape[1]).astype(np.float64)
    cx, cy = mean(x), mean(y)
    # 1/12 px²: a pixel is a square, not a point
    xx, yy = mean(x * x) - cx * cx + 1 / 12, mean(y * y) - cy * cy + 1 / 12
    xy = mean(x * y) - cx * cy
    middle, apart = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    aspect = np.sqrt(np.maximum(middle - apart, 0) / np.maximum(middle + apart, 1e-9))
    cut = np.zeros(n + 1, bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        cut[edge] = True
    around = _around(haematoxylin, labels > 0, rule.around_um / mpp)
    half_y, half_x = (np.minimum(axis / 2, n_half - 1).astype(np.intp) for axis, n_half in zip((cy, cx), around.shape))
    contrast = mean(haematoxylin.ravel()[pixels]) - around[half_y, half_x]
    kept = (area >= rule.least_um2) & (area <= rule.most_um2) & (contrast >= rule.least_contrast)
    number = np.concatenate([[0], np.where(kept, np.cumsum(kept), 0)]).astype(np.int32)
    return Nuclei(
        labels=number[labels],
        x=cx[kept],
        y=cy[kept],
        area_um2=area[kept],
        aspect=aspect[kept],
        density=mean(red.ravel()[pixels])[kept],
        cut=cut[1:][kept],
        mpp=mpp,
    )


def _around(plane: Plane, mask: Mask, sigma_px: float) -> Plane:
    """Mean of `plane` outside the mask around each pixel, (h // 2, w // 2); 0 far from the outside."""
    outside = (~mask).astype(np.float32)
    total, weight = box_mean(np.stack([halve(plane * outside), halve(outside)]), sigma_px / 2)
    return np.asarray(np.maximum(total, 0) / np.maximum(weight, 0.02))
