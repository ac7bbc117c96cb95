"""Tissue mask of fluorescence slides: areas with signal, and the dark areas between nuclei. At mask resolution."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wsikit.tissue.background import block_statistics
from wsikit.tissue.parameters import TissueParameters
from wsikit.tissue.regions import Mask, close_gaps, drop_small, extremes, fill_holes, row_strips

_NEIGHBOUR_UM = 12.0  # smoothing scale at which nuclei merge into tissue
_LEAST_SIGNAL = 4.0  # grey levels above the dark field; below it, camera noise and JPEG artefacts
_MOST_SIGNAL = 40.0  # grey levels; upper bound, so that a bright slide keeps its dim parts
_CLOSING = 2.0  # factor of `closing_um`: nuclei are farther apart than the walls of fat cells


def fluorescence_mask(rgb: npt.NDArray[np.uint8], mpp: float, parameters: TissueParameters) -> Mask:
    """Tissue of the overview `rgb`, uint8 (h, w, 3), at `mpp` µm/px: bool (h, w)."""
    from scipy import ndimage as ndi

    px_per_mm2 = (1000.0 / mpp) ** 2
    sigma, least = _NEIGHBOUR_UM / mpp, _least_signal(rgb)
    halo = round(3 * sigma) + 1
    tissue = np.zeros(rgb.shape[:2], bool)
    for top, bottom in row_strips(*rgb.shape[:2]):
        first = max(0, top - halo)
        brightest, _ = extremes(rgb[first : bottom + halo])
        signal = ndi.gaussian_filter(brightest.astype(np.float32), sigma, mode="nearest", truncate=3.0)
        tissue[top:bottom] = signal[top - first : bottom - first] > least
    tissue = drop_small(tissue, 0.1 * parameters.min_area_mm2 * px_per_mm2)
    tissue = close_gaps(tissue, _CLOSING * parameters.closing_um / mpp)
    tissue = fill_holes(tissue, parameters.max_hole_mm2 * px_per_mm2)
    return drop_small(tissue, parameters.min_area_mm2 * px_per_mm2)


def _least_signal(rgb: npt.NDArray[np.uint8]) -> float:
    """Dark field plus five times its noise, at least `_LEAST_SIGNAL` and at most `_MOST_SIGNAL` above it.

    The dark field is the most frequent grey level of the darker half; its noise is the spread below that level, where
    there is no tissue.
    """
    step = max(1, int(np.sqrt(rgb.shape[0] * rgb.shape[1] / 4_000_000)))
    sample = rgb[::step, ::step]
    means, _, constant = block_statistics(sample[: len(sample) // 4 * 4, : sample.shape[1] // 4 * 4])
    level, _ = extremes(means)
    # exactly constant pixels are the fill of area that was not scanned; the dark field has camera noise
    field = level[~constant] if np.count_nonzero(~constant) >= 0.05 * constant.size else level.ravel()
    if not field.size:
        return _LEAST_SIGNAL
    darker = field[field <= np.quantile(field, 0.5) + 1]
    counts = np.bincount(darker.astype(np.uint8), minlength=256)
    dark = float(np.argmax(counts)) + 0.5
    below = darker[darker <= dark]
    noise = float(np.sqrt(np.mean((below - dark) ** 2))) if below.size else 0.0
    return dark + float(np.clip(5 * noise, _LEAST_SIGNAL, _MOST_SIGNAL))
