"""Stain normalisation of labelled patches, slide by slide, before training. At prediction: `wsikit.inference.stain`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wsikit.inference.stain import StainColours
from wsikit.training.data import PatchSet


def normalise_stain(data: PatchSet, reference: StainColours) -> PatchSet:
    """The patches with the tissue of each slide brought to the stain of `reference`.

    The stain of a slide is estimated from its own patches only, so nothing passes from one slide to another. Where
    slides are not named, a group counts as a slide.

    Parameters
    ----------
    reference
        `Macenko.fit` or `Reinhard.fit` of training patches, never of test patches.

    Raises
    ------
    RequestError
        If a slide holds too little tissue, or for Macenko's method one stain only.
    """
    names = data.groups if data.slides is None else data.slides
    images = np.empty_like(data.images)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        own = reference.fit(data.images[rows])
        for row in rows:
            images[row] = reference.recolour(data.images[row], own)
    return replace(data, images=images)
