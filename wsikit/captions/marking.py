"""Granules of marking ink: teal or green pigment, as of surgical margins, in clumps between and on the tissue.

They are no film (`wsikit.tissue.film`), but their colour is that of no stain: red is absorbed most, and blue nearly as
much as green, or more. The nuclei of strongly basophilic stains absorb less blue.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wsikit.captions.colours import share
from wsikit.captions.nuclei import Nuclei
from wsikit.captions.pixels import Densities, Mask, dilate

_RED, _BLUE, _GREEN_BLUE = 1.6, 0.7, 0.9  # over green; of blue nuclei, red is 1.4 times green, and blue 0.65 times
_LEAST = 0.002  # share of the patch
_AROUND_UM = 4.0
_NUCLEUS_RED = 1.5  # over green, mean of a nucleus


def ink_granules(od: Densities, ink: Mask) -> float:
    """Fraction of a patch within 4 µm of granules of ink; 0 if there are hardly any.

    `od` are densities (h, w) at about 1 µm/px, and `ink` is `Colours.ink` of the same pixels.
    """
    if np.count_nonzero(ink) < _LEAST * ink.size:
        return 0.0
    granules = (od.red > np.float32(_RED) * od.green) & (od.blue > np.float32(_BLUE) * od.green)
    granules |= od.blue > np.float32(_GREEN_BLUE) * od.green
    granules &= ink
    if np.count_nonzero(granules) < _LEAST * ink.size:
        return 0.0
    return share(dilate(granules, max(1, int(_AROUND_UM / od.mpp))))


def without_ink(nuclei: Nuclei, od: Densities) -> Nuclei:
    """The nuclei that do not have the colour of ink. `od` are the densities that they were found in."""
    n = len(nuclei)
    labels = nuclei.labels[::2, ::2].ravel()  # a quarter of the pixels has the same colour
    red, green = (np.bincount(labels, plane[::2, ::2].ravel(), n + 1)[1:] for plane in (od.red, od.green))
    kept = red <= _NUCLEUS_RED * green
    if kept.all():
        return nuclei
    number = np.zeros(n + 1, np.int32)
    number[1:][kept] = np.arange(1, np.count_nonzero(kept) + 1)
    fields = ("x", "y", "area_um2", "aspect", "fill", "density", "cut")
    return replace(nuclei, labels=number[nuclei.labels], **{name: getattr(nuclei, name)[kept] for name in fields})
