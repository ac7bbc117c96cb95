"""`patches`: iterate over the patches of a slide or a store. Nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.geometry import PatchGrid, check_enlargement
from wsikit.slides.base import Slide
from wsikit.slides.registry import open_slide
from wsikit.slides.store import SlideStore
from wsikit.tiling.patches import ChosenPatches, PatchParameters, choose_patches
from wsikit.tiling.roi import FrameChoice, RoiLike, as_roi
from wsikit.tiling.stream import iterate_patches
from wsikit.tissue.mask import tissue_mask

_BATCH = 64
"""Patches that are read at a time."""


class Patch(NamedTuple):
    """One patch of a slide."""

    x: int
    """Left edge, level-0 px."""
    y: int
    """Top edge, level-0 px."""
    image: npt.NDArray[np.uint8]
    """(patch_px, patch_px, 3) RGB; zeros where not `readable`."""
    readable: bool
    """False where a pixel of the patch could not be read: the image must not be used."""
    tissue: float
    """Fraction of the patch that is tissue, 0 to 1."""


class Patches:
    """The patches of one slide, row-major. A loop over them reads the pixels; it may be repeated."""

    def __init__(self, slide: Slide, grid: PatchGrid, chosen: ChosenPatches) -> None:
        self.slide = slide
        self.grid = grid
        self.coords = chosen.coords
        """int64 (N, 2): x, y of the top-left corners, level-0 px."""
        self.tissue = chosen.tissue
        """float32 (N,): fraction of the patch that is tissue."""

    def __len__(self) -> int:
        return len(self.coords)

    def __iter__(self) -> Iterator[Patch]:
        ranges = [slice(first, min(first + _BATCH, len(self))) for first in range(0, len(self), _BATCH)]
        for rows, batch in iterate_patches(self.slide, self.grid, self.coords, ranges):
            for row, image, readable in zip(range(rows.start, rows.stop), batch.images, batch.readable):
                x, y = self.coords[row].tolist()
                yield Patch(x, y, image, bool(readable), float(self.tissue[row]))

    def __repr__(self) -> str:
        return f"<Patches of {self.slide.path!r}: {len(self)} of {self.grid.name}>"


def patches(
    slide: Slide | str | os.PathLike[str],
    *,
    mpp: float = PatchParameters.mpp,
    patch_px: int = PatchParameters.patch_px,
    overlap_px: int = PatchParameters.overlap_px,
    min_tissue: float = PatchParameters.min_tissue,
    roi: RoiLike | None = None,
    roi_frame: FrameChoice = "auto",
) -> Patches:
    """The patches of a slide or store that hold tissue, to iterate over. Nothing is written.

    They are the patches that `wsikit.tile` puts into the patch table with the same parameters, if the store holds all
    pixels of the slide.

    Parameters
    ----------
    slide
        An open slide or store, or the path of one.
    mpp
        Pixel size of the patches, µm/px.
    patch_px
        Side of a patch, px at `mpp`.
    overlap_px
        Overlap of neighbouring patches, px at `mpp`.
    min_tissue
        Minimum fraction of a patch that is tissue, 0 to 1.
    roi
        Region of interest: patches outside are left out. A GeoJSON file of polygons, or a `Roi`.
    roi_frame
        What the coordinates of the file count from, as in `wsikit.tile`.

    Returns
    -------
    Patches
        Yields `Patch(x, y, image, readable, tissue)`, row-major.

    Raises
    ------
    SlideError
        The file is not a slide that can be read.
    ScaleError
        Its pixel size is missing or implausible, or it was scanned too coarsely for `mpp`.
    RequestError
        The patch parameters are impossible, or `roi` is not a GeoJSON file of polygons.

    Examples
    --------
    >>> import tempfile, wsikit
    >>> path = tempfile.mkdtemp() + "/slide.tif"
    >>> made = wsikit.make_phantom(path, size_px=(768, 512))
    >>> found = patches(path, mpp=1.0, patch_px=128)
    >>> patch = next(iter(found))
    >>> patch.image.shape, patch.readable, (patch.x, patch.y) == tuple(found.coords[0])
    ((128, 128, 3), True, True)
    """
    opened = open_slide(slide) if isinstance(slide, str | os.PathLike) else slide
    parameters = PatchParameters(mpp, patch_px, overlap_px, min_tissue, as_roi(roi, opened, frame=roi_frame))
    check_enlargement(opened.path, max(opened.mpp) * max(opened.level_downsamples[0]), mpp)
    grid = parameters.grid(opened)
    mask, unreadable, downsample = _tissue(opened)
    return Patches(opened, grid, choose_patches(grid, mask, unreadable, downsample, parameters))


def _tissue(slide: Slide) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], tuple[float, float]]:
    """Tissue and unreadable parts, bool (h, w), and their downsample: as stored, else found now."""
    if isinstance(slide, SlideStore):
        try:
            mask, downsample = slide.tissue()
            return mask, slide.unreadable_mask(), downsample
        except StoreError:
            pass  # no tissue label yet
    found = tissue_mask(slide)
    return found.mask, found.unreadable, found.downsample
