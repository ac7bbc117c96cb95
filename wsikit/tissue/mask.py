"""The tissue mask of a whole slide, at one physical resolution. It covers the slide from level-0 (0, 0).

`brightfield` and `fluorescence` classify pixels; this module reads the slide and returns the result.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.tissue.background import is_fluorescence
from wsikit.tissue.brightfield import brightfield_mask
from wsikit.tissue.fluorescence import fluorescence_mask
from wsikit.tissue.overview import read_overview
from wsikit.tissue.parameters import TissueParameters

if TYPE_CHECKING:
    from wsikit.slides.base import Slide

__all__ = ["TissueMask", "TissueParameters", "mask_from_image", "tissue_mask"]

_log = logging.getLogger(__name__)

_MOST_PX = 8_000_000
"""Largest number of mask pixels; computing a mask needs about 26 bytes per pixel."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """The tissue of a slide. Mask pixel (col, row) starts at level-0 (col · downsample[0], row · downsample[1])."""

    mask: npt.NDArray[np.bool_]
    """bool (h, w); False where the slide could not be read."""
    downsample: tuple[float, float]
    """Level-0 px per mask px along x and y."""
    mpp: tuple[float, float]
    """µm per mask px along x and y."""
    stain: str
    """Imaging mode: `brightfield` or `fluorescence`."""
    area_mm2: float
    """Area of the tissue, mm²."""
    unreadable: npt.NDArray[np.bool_]
    """bool (h, w): where no pixels could be read. This is not glass: its content is unknown."""
    parameters: TissueParameters

    @property
    def unreadable_fraction(self) -> float:
        """Fraction of the slide's area that could not be read."""
        return float(self.unreadable.mean())


def tissue_mask(slide: Slide, parameters: TissueParameters | None = None) -> TissueMask:
    """Find the tissue of a slide.

    Parameters
    ----------
    slide
        Any open slide whose pixel size is known.
    parameters
        Settings in physical units; the defaults are for H&E, IHC and fluorescence.

    Returns
    -------
    TissueMask
        At `parameters.mpp` µm per pixel, or at the pixel size of the slide if that is coarser. It is also coarser if
        the mask would have more than 8 million pixels (512 mm² at 8 µm), so that memory is bounded. Regions that
        cannot be read are marked in `unreadable`; the mask is False there.

    Raises
    ------
    ScaleError
        The slide does not state its pixel size.
    ReadError
        No part of the slide can be read.

    >>> import os, tempfile
    >>> from PIL import Image, ImageDraw
    >>> from wsikit.slides import open_slide
    >>> picture = Image.new("RGB", (500, 400), (243, 243, 243))
    >>> ImageDraw.Draw(picture).ellipse((100, 100, 300, 300), fill=(190, 90, 160))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     picture.save(os.path.join(folder, "section.png"))
    ...     with open_slide(os.path.join(folder, "section.png"), mpp=8.0) as slide:
    ...         found = tissue_mask(slide)
    >>> found.mask.shape, found.stain, round(found.area_mm2, 1)
    ((400, 500), 'brightfield', 2.0)
    """
    parameters = parameters or TissueParameters()
    slide_mpp = slide.mpp
    area_um2 = slide.dimensions[0] * slide_mpp[0] * slide.dimensions[1] * slide_mpp[1]
    mpp = max(parameters.mpp, *slide_mpp, math.sqrt(area_um2 / _MOST_PX))
    rgb, unreadable = read_overview(slide, mpp)
    seen = parameters
    if parameters.stain == "auto" and _has_channels(slide):
        seen = replace(parameters, stain="fluorescence")  # the file states it
    found = mask_from_image(rgb, mpp, seen, unreadable=unreadable)
    if found.unreadable_fraction > 0:
        _log.warning("%s: %.2g of the slide could not be read", slide.path, found.unreadable_fraction)
    if not found.mask.any():
        _log.warning("%s: no tissue found", slide.path)
    return TissueMask(
        mask=found.mask,
        downsample=(mpp / slide_mpp[0], mpp / slide_mpp[1]),
        mpp=(mpp, mpp),
        stain=found.stain,
        area_mm2=found.area_mm2,
        unreadable=unreadable,
        parameters=parameters,
    )


def mask_from_image(
    rgb: npt.NDArray[np.uint8],
    mpp: float,
    parameters: TissueParameters | None = None,
    *,
    unreadable: npt.NDArray[np.bool_] | None = None,
) -> TissueMask:
    """Find the tissue on an overview image of a whole slide.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3).
    mpp
        µm per pixel of `rgb`; the mask has the same pixels, whatever `parameters.mpp` is.
    parameters
        Settings in physical units.
    unreadable
        bool (h, w), where `rgb` is not valid; default nowhere.

    Raises
    ------
    RequestError
        `rgb` is not uint8 (h, w, 3), or has no pixels.

    >>> rgb = np.full((200, 200, 3), 243, np.uint8)
    >>> rgb[50:150, 50:150] = 190, 90, 160
    >>> found = mask_from_image(rgb, 8.0)
    >>> int(found.mask.sum()), found.area_mm2
    (10000, 0.64)
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.size:
        raise RequestError(f"overview of shape {rgb.shape}, {rgb.dtype}: expected uint8 (height, width, 3)")
    parameters = parameters or TissueParameters()
    blind = np.zeros(rgb.shape[:2], bool) if unreadable is None else unreadable
    dark = is_fluorescence(rgb) if parameters.stain == "auto" else parameters.stain == "fluorescence"
    mask = (fluorescence_mask if dark else brightfield_mask)(rgb, mpp, parameters) & ~blind
    return TissueMask(
        mask=mask,
        downsample=(1.0, 1.0),
        mpp=(mpp, mpp),
        stain="fluorescence" if dark else "brightfield",
        area_mm2=float(np.count_nonzero(mask)) * (mpp / 1000.0) ** 2,
        unreadable=blind,
        parameters=parameters,
    )


def _has_channels(slide: Slide) -> bool:
    """Whether the slide consists of fluorescence channels. A slide that states nothing has none."""
    info = getattr(slide, "info", None)
    return bool(info is not None and info.channels)
