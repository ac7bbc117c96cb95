"""An observer who counts the cells of synthetic patches, with errors, and puts the counts into captions and facts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.facts import ABUNDANT, FACTS, MODERATE, SCANT, STATED
from wsikit.phantom.facts import Facts

OBSERVED = ("nuclei_per_mm2", "mki_per_5000")
"""Facts that the observer states, in the order of the columns of `Observer.count`."""

_MIN_CELLS = 5
"""An index of fewer cells is not stated."""
_CELLULARITY = {SCANT: "Sparsely cellular", MODERATE: "Moderately cellular", ABUNDANT: "Densely cellular"}


@dataclass(frozen=True)
class Observer:
    """Errors of an observer."""

    missed: float
    """Share of mitoses and karyorrhectic cells that are not seen."""
    mistaken: float
    """Share of the other cells that are taken for one."""
    of_cells: float
    """Standard deviation of the logarithm of a patch's count of cells."""
    of_slide: float
    """Standard deviation of the logarithm of a factor of all indices of a slide: how strict the observer is."""

    def count(self, facts: Facts, area_mm2: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """What the observer counts in the N patches of one slide, float32 (N, 2), in the order of `OBSERVED`.

        Parameters
        ----------
        facts
            Planted facts of the patches.
        area_mm2
            Area of one patch.

        Returns
        -------
        float32 (N, 2)
            Neuroblastic cells per mm², and mitoses and karyorrhectic cells per 5,000 of them; NaN where a patch has
            fewer than 5 cells.
        """
        cells = facts.n_neuroblastic.astype(np.int64)
        events = (facts.count("mitosis") + facts.count("karyorrhexis")).astype(np.int64)
        n = len(cells)
        counted = np.round(cells * np.exp(rng.normal(0, self.of_cells, n)))
        seen = rng.binomial(events, 1 - self.missed) + rng.binomial(cells - events, self.mistaken)
        strict = np.exp(rng.normal(0, self.of_slide))
        with np.errstate(divide="ignore", invalid="ignore"):
            index = np.where(counted >= _MIN_CELLS, strict * 5000 * seen / counted, np.nan)
        return np.stack([counted / area_mm2, index], axis=1).astype(np.float32)


def caption_of(values: npt.NDArray[np.floating]) -> str:
    """The caption of one patch, from its row of `Observer.count`.

    >>> caption_of(np.array([7000.0, 150.0]))
    'Densely cellular (7,000 cells per mm²). Mitoses and karyorrhexis moderate (150 per 5,000 cells).'
    >>> caption_of(np.array([50.0, np.nan]))
    'Hardly any nuclei.'
    """
    density, index = (float(value) for value in values)
    cellularity = _CELLULARITY.get(FACTS["nuclei_per_mm2"].grade(density))
    if cellularity is None:
        return "Hardly any nuclei."
    words = f"{cellularity} ({density:,.0f} cells per mm²)."
    if not np.isfinite(index):
        return words
    grade = STATED["mki_per_5000"].grade(index)
    return f"{words} Mitoses and karyorrhexis {grade} ({index:.0f} per 5,000 cells)."


__all__ = ["OBSERVED", "Observer", "caption_of"]
