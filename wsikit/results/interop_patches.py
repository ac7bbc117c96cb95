"""A slide's patches as another tool's file states them. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.geometry import PatchGrid


@dataclass(frozen=True, eq=False)
class ExternalPatches:
    """A slide's patches as another tool's file states them."""

    layout: str
    path: str
    coords: npt.NDArray[np.float64]
    """(N, 2) top-left corners, x then y, level-0 px; not rounded."""
    side_px: float | None
    """Side of a patch, level-0 px; None: not stated."""
    patch_px: int | None
    """Side of a patch in px as the encoder read it; None: not stated."""
    overlap_px: int | None
    """Overlap of neighbours, px as in `patch_px`; None: not stated."""
    features: npt.NDArray[Any] | None = None
    """(N, D) float16 or float32."""
    encoder: str = ""
    """Name of the encoder of the features."""
    probs: npt.NDArray[np.float32] | None = None
    """(N, C), wsinfer only."""
    classes: tuple[str, ...] = ()
    """C class names of `probs`."""
    slide_px: tuple[int, int] | None = None
    """Width and height of level 0, as stated in the file."""
    magnification: tuple[float, float] | None = None
    """Magnifications of slide and patches, as stated in the file."""
    unit: str | None = None
    """Unit of the coordinates in the file."""
    missing: tuple[str, ...] = ()
    """Attributes of the layout that the file lacks."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """All attributes of the file."""
    notes: tuple[str, ...] = ()
    """What was concluded from the file, and why."""
    unreadable: npt.NDArray[np.bool_] | None = None
    """(N,): rows whose features are NaN because the patch, the file says, could not be read."""
    grid: PatchGrid | None = None
    """The patch grid, where the file states it (files of wsikit's own)."""
    column: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the column of features in the store that the file was made from."""


def usual_step(coords: npt.NDArray[np.float64]) -> float | None:
    """The most frequent distance of neighbours in a row; None if no two patches are in one row."""
    rounded = np.round(coords, 1)
    order = np.lexsort((rounded[:, 0], rounded[:, 1]))
    step = np.diff(rounded[order], axis=0)
    along = np.round(step[(step[:, 1] == 0) & (step[:, 0] > 0), 0])
    return float(Counter(along.tolist()).most_common(1)[0][0]) if len(along) else None
