"""Area of each class on a slide, with overlaps counted once, and the largest region of a second class.

Coordinates are level-0 px, areas mm².
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.partition import Partition, partition_slide
from wsikit.voting.result import Areas, SecondSubtype

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WEIGHTLESS, UNPREDICTED, NOTHING = -1, -2, -3
"""Labels that are not classes: a patch with a prediction but weight 0, one without prediction, no patch."""


@dataclass(frozen=True, eq=False)
class Places:
    """Coordinates of the patches of a vote."""

    grid: PatchGrid
    coords: Ints
    """(N, 2) x, y of their top-left corners on `grid`, level-0 px; all different."""
    certainty: Floats | None = None
    """(N,) priority where patches overlap: the highest wins. None: the probability of the patch's own class."""

    def __post_init__(self) -> None:
        coords = np.asarray(self.coords)
        if coords.ndim != 2 or coords.shape[1] != 2 or not np.issubdtype(coords.dtype, np.integer):
            raise RequestError(f"coordinates of shape {coords.shape}, {coords.dtype}: expected integers (patches, 2)")
        fault = self.grid.fault(coords)
        if fault:
            raise RequestError(f"{fault}: each patch may vote only once")


@dataclass(frozen=True, eq=False)
class ClassRaster:
    """The cells of a slide, each with its class."""

    partition: Partition
    labels: Ints
    """(n_rows, n_cols) class, or `WEIGHTLESS`, `UNPREDICTED`, `NOTHING`."""
    top: Floats
    """(N,) each patch's probability of its own class."""
    mm2_per_px: float

    def areas(self, n_classes: int) -> Areas:
        """Area of each class and of the patches that did not vote."""
        px = self.partition.area_px.astype(np.float64).ravel()
        mm2: Floats = np.bincount(self.labels.ravel() - NOTHING, px, n_classes - NOTHING) * np.float64(self.mm2_per_px)
        return Areas(mm2[-NOTHING:], float(mm2[WEIGHTLESS - NOTHING]), float(mm2[UNPREDICTED - NOTHING]))

    def second(self, leading: int, areas: Areas, least_mm2: float) -> SecondSubtype | None:
        """The largest connected region of a class other than `leading`, if it has `least_mm2` or more."""
        best: SecondSubtype | None = None
        for index in np.flatnonzero(areas.mm2 >= least_mm2):
            # a class whose total area is smaller than the best region cannot have a larger region
            if index == leading or (best is not None and areas.mm2[index] <= best.area_mm2):
                continue
            found = self._largest(int(index), float(areas.mm2.sum()))
            if found.area_mm2 >= least_mm2 and (best is None or found.area_mm2 > best.area_mm2):
                best = found
        return best

    def _largest(self, index: int, voted_mm2: float) -> SecondSubtype:
        from scipy import ndimage

        regions, _ = ndimage.label(self.labels == index)  # cells connect by edges, not by corners
        sizes = np.bincount(regions.ravel(), self.partition.area_px.ravel())
        sizes[0] = 0
        rows, cols = np.nonzero(regions == sizes.argmax())
        px = self.partition.area_px[rows, cols]
        x, y = self.partition.x_edges, self.partition.y_edges
        left, top, right, bottom = x[cols.min()], y[rows.min()], x[cols.max() + 1], y[rows.max() + 1]
        area_mm2 = float(px.sum() * self.mm2_per_px)
        return SecondSubtype(
            index=index,
            area_mm2=area_mm2,
            share=area_mm2 / voted_mm2,
            mean_probability=float(px @ self.top[self.partition.patch[rows, cols]] / px.sum()),
            box_px=(int(left), int(top), int(right - left), int(bottom - top)),
        )


def class_raster(places: Places, labels: Ints, top: Floats) -> ClassRaster:
    """Partition the slide into cells and assign each to one patch.

    Parameters
    ----------
    labels
        (N,) index of each patch's class, or `WEIGHTLESS` or `UNPREDICTED`.
    top
        (N,) each patch's probability of its class; any number where it has no class.
    """
    priority = np.where(labels >= 0, top, labels) if places.certainty is None else places.certainty
    partition = partition_slide(places.grid, places.coords, np.nan_to_num(priority, nan=float(UNPREDICTED)))
    mpp = places.grid.slide_mpp
    return ClassRaster(partition, partition.spread(labels, NOTHING), top, mpp[0] * mpp[1] / 1e6)
