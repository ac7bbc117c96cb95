"""The region of one concept at a threshold, as a map of one class: what outlines and labels are made from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from wsikit.errors import RequestError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import CLASS_COLORS, RGB
from wsikit.exporters.quantity import Quantity

REGION_COLOR: RGB = CLASS_COLORS[2]


def concept_regions(
    class_map: ClassMap, quantity: Quantity, threshold: float, *, color: RGB = REGION_COLOR
) -> ClassMap:
    """A map on the patches of `class_map` whose only class is `quantity` at or above `threshold`.

    Its probabilities are the values, so that a region's mean probability is the mean of the values in it.
    """
    if not np.isfinite(threshold):
        raise RequestError(f"threshold {threshold}: expected a number")
    if quantity.limits is not None and not quantity.limits[0] <= threshold <= quantity.limits[1]:
        low, high = quantity.limits
        raise RequestError(f"threshold {threshold:g}: {quantity.title} lies between {low:g} and {high:g}")
    return replace(
        class_map,
        labels=np.where(np.nan_to_num(quantity.values, nan=-np.inf) >= threshold, 0, -1).astype(np.int64),
        probs=quantity.values[:, None],
        classes=(quantity.title,),
        class_names=(quantity.title,),
        colors=(color,),
        background=(),
        notice=quantity.notice or (class_map.notice if quantity.of_model else ""),
    )
