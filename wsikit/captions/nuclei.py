"""Nuclear segmentation of one patch: thresholded haematoxylin, split by the distance transform, measured in µm.

Positions are in px of the densities given. Thresholds adapt to the patch's staining, with lower bounds. The parameters
in `NucleusRule` were tuned on four images with annotated nuclei (listed in `benchmarks/captions.py`) and tested on four
others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.captions.nuclei_mask import (
    Bits,
    Indices,
    box_mean,
    edges_of,
    fill_holes,
    haematoxylin_of,
    halve,
    is_above,
    otsu_of,
    smooth,
)
from wsikit.captions.nuclei_split import split
from wsikit.captions.pixels import Densities, Mask, Plane

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int32]


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
    fill: Floats
    """Area over that of this ellipse, (N,): 1 for ellipses, less the more ragged the outline."""
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
    mpp = od.mpp
    haematoxylin = haematoxylin_of(od, rule.green_weight, rule.blue_weight)
    mask = _mask_of(haematoxylin, od, rule)
    pixels = np.flatnonzero(mask.view(bool))
    if len(pixels) == 0:
        none = np.zeros(0)
        return Nuclei(np.zeros(od.shape, np.int32), none, none, none, none, none, none, np.zeros(0, bool), mpp)
    member, n = split(mask, pixels, rule.depth_blur_um / mpp, max(2.0, rule.apart_um / mpp))
    shape = _shapes(pixels, member, n, mask)
    area = shape.size_px * mpp**2
    least_px = np.maximum(shape.size_px, 1)
    contrast = np.bincount(member, haematoxylin.ravel().take(pixels), n) / least_px
    haematoxylin.ravel()[pixels] = 0
    contrast -= _around(haematoxylin, mask, shape, rule.around_um / mpp)
    kept = np.flatnonzero((area >= rule.least_um2) & (area <= rule.most_um2) & (contrast >= rule.least_contrast))
    number = np.zeros(n, np.int32)
    number[kept] = np.arange(1, len(kept) + 1)
    labels = np.zeros(od.shape, np.int32)
    labels.ravel()[pixels] = number.take(member)
    cut = np.zeros(len(kept) + 1, bool)
    cut[edges_of(labels)] = True
    return Nuclei(
        labels=labels,
        x=shape.x[kept],
        y=shape.y[kept],
        area_um2=area[kept],
        aspect=shape.aspect[kept],
        fill=shape.fill[kept],
        density=(np.bincount(member, od.red.ravel().take(pixels), n) / least_px)[kept],
        cut=cut[1:],
        mpp=mpp,
    )


def _mask_of(haematoxylin: Plane, od: Densities, rule: NucleusRule) -> Bits:
    """Haematoxylin above the threshold of the patch and above its surroundings, with pale chromatin filled."""
    blurred = smooth(haematoxylin, rule.blur_um / od.mpp)
    threshold = rule.otsu_share * otsu_of(blurred, od)
    limit = box_mean(halve(haematoxylin), rule.local_um / (2 * od.mpp))
    limit *= np.float32(rule.local_weight * rule.local_factor)
    limit += np.float32((1 - rule.local_weight) * threshold)
    np.maximum(limit, np.float32(rule.least_density), out=limit)
    mask = is_above(blurred, limit)
    fill_holes(mask, rule.hole_um2 / od.mpp**2, blurred, rule.hole_share * threshold)
    return mask


class _Shapes(NamedTuple):
    """Of n sets of pixels; those without pixels have size 0."""

    size_px: Floats
    x: Floats
    y: Floats
    aspect: Floats
    fill: Floats


def _shapes(pixels: Indices, member: Indices, n: int, mask: Bits) -> _Shapes:
    """Size, centroid and aspect from the runs of each set along the rows: sums over a run have a closed form."""
    starts = np.empty(len(pixels), bool)
    starts[0] = True
    np.not_equal(pixels[1:] - pixels[:-1], 1, out=starts[1:])
    starts[1:] |= member[1:] != member[:-1]
    width = mask.shape[1]
    both_ends = np.flatnonzero(mask[:-1, -1] & mask[1:, 0]) + 1  # rows that would else continue the one above
    starts[pixels.searchsorted(both_ends * width)] = True
    first = np.flatnonzero(starts)
    owner = member.take(first)
    length = np.empty(len(first))
    length[:-1], length[-1] = first[1:], len(pixels)
    length -= first
    start = pixels.take(first)
    row = start // width
    middle = (start - row * width) + (length - 1) / 2
    y = row.astype(np.float64)

    def total(values: Floats) -> Floats:
        return np.asarray(np.bincount(owner, values, n), np.float64)

    size = total(length)
    least = np.maximum(size, 1)
    sum_x, sum_y = length * middle, length * y
    cx, cy = total(sum_x) / least, total(sum_y) / least
    # 1/12 px²: a pixel is a square, not a point
    xx = total(sum_x * middle + length * (length * length - 1) / 12) / least - cx * cx + 1 / 12
    yy = total(sum_y * y) / least - cy * cy + 1 / 12
    xy = total(sum_x * y) / least - cx * cy
    mean, apart = (xx + yy) / 2, np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    minor, major = np.maximum(mean - apart, 0), np.maximum(mean + apart, 1e-9)
    fill = size / np.maximum(4 * np.pi * np.sqrt(minor * major), 1e-9)
    return _Shapes(size, cx, cy, np.sqrt(minor / major), fill)


def _around(outside: Plane, mask: Bits, at: _Shapes, sigma_px: float) -> Floats:
    """Mean outside the mask around each centre, of a plane that is 0 inside; 0 far from the outside."""
    full = 252  # a multiple of 4, so that means of 2 × 2 blocks are exact
    weight = box_mean(halve((mask ^ 1) * np.uint8(full)), sigma_px / 2)
    total = box_mean(halve(outside), sigma_px / 2)
    row = np.minimum(at.y / 2, total.shape[0] - 1).astype(np.intp)
    column = np.minimum(at.x / 2, total.shape[1] - 1).astype(np.intp)
    place = row * total.shape[1] + column
    return np.asarray(np.maximum(total.ravel().take(place), 0) / np.maximum(weight.ravel().take(place) / full, 0.02))
