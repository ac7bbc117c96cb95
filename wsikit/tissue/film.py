"""Marker ink on single patches: a film that absorbs light wherever one looks, in colours that stain does not have.

A slide's mask (`pen`) also sees what surrounds a stroke; a patch often lies within it. Under ink, even the palest place
of each neighbourhood absorbs what the ink absorbs, while tissue has gaps, cytoplasm and pale matrix everywhere. So the
hue of a film is that of the least density around each pixel, channel by channel, whatever cells lie below it. Mixtures
of haematoxylin and eosin are never there: they absorb red less than green, and blue at most 0.8 times as much as green
where they absorb red at all.

Red ink has the hue of bone, colloid and blood: it is named only where it is denser than any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Density = npt.NDArray[np.float32]

_REACH = 2  # px on each side: windows of 40 µm at 8 µm/px
_LEAST_RED, _BLUE_RED = 0.5, 1.2  # blue ink: natural OD in red, and its ratio to green; tissue has at most 1.1
_DARK_RED, _DARK_BLUE, _DARK_GREEN = 1.2, 0.5, 0.8  # violet and dark blue ink: blue over red, red over green
_OPAQUE = 2.2  # OD in green from which on the hue is no longer known: dark field
_GREEN_RED, _GREEN_BLUE, _LEAST_GREEN_RED = 0.7, 0.8, 0.4  # green and black ink: red and blue over green
_RED_GREEN, _RED_RED, _RED_BLUE = 2.2, 0.3, 0.65  # OD in green of red ink, red and blue over green; bone has up to 1.9


def find_film(od: Density) -> Mask:
    """Pixels under a film of ink, bool (B, h, w), from natural optical densities (3, B, h, w) ≥ 0 at 8 µm/px.

    Each patch by itself; strokes narrower than 40 µm are not found.

    Examples
    --------
    >>> green = np.full((3, 1, 8, 8), [[[[1.6]]], [[[0.5]]], [[[1.2]]]], np.float32)
    >>> bool(find_film(green).all()), bool(find_film(green * [[[[0.2]]], [[[2]]], [[[0.5]]]]).any())
    (True, False)
    """
    red, green, blue = _extreme(od, np.minimum)
    hit = (red > _LEAST_RED) & (red > _BLUE_RED * green)
    hit |= (red > _DARK_RED) & (blue < _DARK_BLUE * red) & (red > _DARK_GREEN * green)
    hit &= green < _OPAQUE
    hit |= (red > _LEAST_GREEN_RED) & (red > _GREEN_RED * green) & (blue > _GREEN_BLUE * green)
    hit |= (green > _RED_GREEN) & (red < _RED_RED * green) & (blue > _RED_BLUE * green)
    # every pixel of a window whose least density is that of ink is at least as dense
    return np.asarray(_extreme(hit, np.logical_or) if hit.any() else hit)


def _extreme(planes: npt.NDArray[Any], of: np.ufunc) -> npt.NDArray[Any]:
    """Minimum, or another extreme, of planes (..., h, w) over windows of 5 × 5 px; beyond the edge there is nothing."""
    for axis in (-1, -2):
        out = planes.copy()
        inner, others = np.moveaxis(out, axis, -1), np.moveaxis(planes, axis, -1)
        for step in range(1, min(_REACH, planes.shape[axis] - 1) + 1):
            of(inner[..., step:], others[..., :-step], out=inner[..., step:])
            of(inner[..., :-step], others[..., step:], out=inner[..., :-step])
        planes = out
    return planes
