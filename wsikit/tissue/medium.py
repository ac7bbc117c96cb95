"""Stained mounting medium on the glass around a section: eosin that bled, smooth and light. It is not tissue.

Some smooth, lightly stained fields are tissue: colloid, mucin, keratin, serum in vessels. They have an edge, or lie
within a section. Dye in the medium fades into the clear glass over a distance that no edge of a section has. So a field
is taken for medium only if it is smooth, light, and fades into smooth glass along a good part of its border.
"""

from __future__ import annotations

import numpy as np

from wsikit.tissue.regions import Mask, choose, count, dilate, erode, label

LIGHTEST_OD = 0.5
"""Optical density above which a smooth field is not medium: blood and keratin are as dark."""

FADING_SD = 0.01
"""Largest deviation of density within 40 µm where dye fades into glass: an edge of a section has more, also blurred."""

_CONTACT_UM = 500.0
"""Minimum length of border where a field fades into glass."""

_CONTACT_SHARE = 0.2
"""And its minimum share of the whole border: a leak at one place does not make a smooth field medium."""

_NECK_UM = 32.0
"""Connections narrower than twice this are cut: smooth tissue that touches medium at one place is not part of it."""


def find_medium(smooth: Mask, even: Mask, fading: Mask, light: Mask, empty: Mask, mpp: float, rim_px: int) -> Mask:
    """Pixels of stained medium, bool (h, w).

    Parameters
    ----------
    smooth
        Pixels of which some window that holds them is without texture, bool (h, w) at `mpp` µm/px.
    even
        Pixels whose own window, centred on them, is without texture: they are not at an edge.
    fading
        Pixels whose own window varies by at most `FADING_SD`.
    light
        Pixels that are stained, and not darker than `LIGHTEST_OD`.
    empty
        Pixels without stain.
    rim_px
        Half a window: at an edge, windows of this many pixels on either side hold the edge.
    """
    none = np.zeros_like(smooth)
    contact = fading & light & dilate(empty & fading, 1)
    if np.count_nonzero(contact) * mpp < _CONTACT_UM:
        return none
    # fields end at edges, so that colloid of another density is not part of the dye next to it
    field = even & light
    neck = round(_NECK_UM / mpp)
    labels, areas = label(erode(field, neck))
    border = (labels > 0) & dilate(labels == 0, 1)
    length = count(labels, len(areas), border)
    # the border of a core is within the neck of that of its field
    touching = count(labels, len(areas), border & dilate(contact, neck + 1))
    is_medium = (touching * mpp >= _CONTACT_UM) & (touching >= _CONTACT_SHARE * length)
    is_medium[0] = False
    if not is_medium.any():
        return none
    whole = dilate(choose(labels, is_medium), 2 * neck, within=field)
    return dilate(whole, rim_px, within=smooth & light)
