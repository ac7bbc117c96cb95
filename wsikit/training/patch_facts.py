"""Measured facts of a patch set as numbers, and the same relative to the slide: inputs of rivals that read no words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.captions import load_captioner
from wsikit.captions.registry import MEASURING
from wsikit.training.config import CaptionsConfig
from wsikit.training.data import PatchSet

Floats = npt.NDArray[np.float32]

AT_ONCE = 512
_MIN_SPREAD = 1e-6


def measured_facts(data: PatchSet, captions: CaptionsConfig, *, mpp: float) -> Floats | None:
    """Facts of each patch, float32 (N, F), NaN where not measured; None if none is measured.

    Columns are the `fact_names` of the captioner. Facts that the patch set holds are taken as they are.
    """
    if data.facts is not None:
        return data.facts if np.isfinite(data.facts).any() else None
    if captions.captioner not in MEASURING or data.images.ndim != 4:
        return None
    captioner = load_captioner(MEASURING[0])  # both measure the same facts
    found = np.full((len(data), len(captioner.fact_names)), np.nan, dtype=np.float32)
    place = {name: column for column, name in enumerate(captioner.fact_names)}
    for first in range(0, len(data), AT_ONCE):
        described = captioner.caption(data.images[first : first + AT_ONCE], mpp=mpp)
        for row, caption in enumerate(described, start=first):
            for name, value in caption.facts.items():
                found[row, place[name]] = value
    return found if np.isfinite(found).any() else None


def in_slide(values: npt.NDArray[np.floating], slides: npt.NDArray[np.generic]) -> Floats:
    """Value, z within the slide, and the slide's mean of each column: float32 (N, F) to (N, 3 F).

    NaN is ignored in a slide's mean and spread, and stays NaN in value and z. Where all patches of a slide are alike,
    z is 0. No label is used.

    >>> in_slide(np.array([[1.0], [3.0], [5.0]]), np.array(["a", "a", "b"])).tolist()
    [[1.0, -1.0, 2.0], [3.0, 1.0, 2.0], [5.0, 0.0, 5.0]]
    """
    given = np.asarray(values, dtype=np.float64)
    z, means = np.full_like(given, np.nan), np.full_like(given, np.nan)
    for slide in np.unique(slides):
        rows = slides == slide
        here = given[rows]
        known = np.isfinite(here)
        with np.errstate(invalid="ignore"):
            mean = np.where(known, here, 0).sum(axis=0) / known.sum(axis=0)
            spread = np.sqrt(np.where(known, (here - mean) ** 2, 0).sum(axis=0) / known.sum(axis=0))
        z[rows] = (here - mean) / np.where(spread > _MIN_SPREAD, spread, np.inf)
        means[rows] = mean
    return np.concatenate([given, z, means], axis=1).astype(np.float32)


def save_facts(path: Path, values: Floats, names: Sequence[str]) -> None:
    """Write facts (N, F) with the names of their columns as one .npz."""
    np.savez(path, facts=values, names=np.array(names, dtype=np.str_))


def read_facts(path: Path) -> Floats | None:
    """Facts that `save_facts` wrote, (N, F); None if there is no such file."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as found:
        values: Floats = found["facts"]
    return values
