"""Paired comparison of several predictions of the same patches: every metric on the same draws of patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.data import PatchSet
from wsikit.training.metrics import DRAWS

COMPARED = ("auc", "balanced_accuracy", "ece")

Drawn = dict[str, npt.NDArray[np.float64]]
"""By way: (measures, draws + 1); the first entry is the value itself."""


def drawn_figures(
    data: PatchSet, ways: Mapping[str, npt.NDArray[np.floating]], *, draws: int = DRAWS, seed: int = 0
) -> Drawn:
    """The metrics `COMPARED` of each way, probabilities (N, C), for the same draws of patients."""
    found: Drawn = {}
    for name, probs in ways.items():
        sample = Sample(data.labels, probs, data.groups, n_ordinal=0)
        weights = np.concatenate([np.ones((1, sample.n_groups)), draw_groups(sample.n_groups, draws=draws, seed=seed)])
        values = sample.figures(weights).values
        found[name] = np.stack([values[measure] for measure in COMPARED])
    return found


def gains_over(base: str, drawn: Drawn) -> dict[str, dict[str, dict[str, Any]]]:
    """Every other way minus `base`: by way and metric `{value, low, high}`, None where it is not defined."""
    return {name: _differences(drawn[name] - drawn[base]) for name in drawn if name != base}


def gains_of(way: str, drawn: Drawn) -> dict[str, dict[str, dict[str, Any]]]:
    """`way` minus every other way: by other way and metric `{value, low, high}`."""
    return {name: _differences(drawn[way] - drawn[name]) for name in drawn if name != way}


def _differences(values: npt.NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    return {measure: _figure(row) for measure, row in zip(COMPARED, values, strict=True)}


def _figure(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    if not np.isfinite(values[0]):
        return {"value": None, "low": None, "high": None}
    low, high = quantiles(values[1:]) or (None, None)
    return {"value": float(values[0]), "low": low, "high": high}
