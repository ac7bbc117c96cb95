"""Scores of concepts, per option of each axis, from facts, features or texts. NumPy only.

Axes: N patches, K axes, S options of all axes in the order of the criteria. Scores of an axis are probabilities of its
options and sum to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsikit.models.concept_criteria import Axis, Criteria, options_of_values

Floats = npt.NDArray[np.float64]

_POINTS = 9
"""Points of an interval over which the scores of an uncertain fact are averaged."""


def knots_of(values: npt.NDArray[np.floating], axis: Axis) -> Floats:
    """A typical value of each option, ascending (O,): the median of the values (N,) within its limits; where there are
    none, the middle of its limits."""
    options = options_of_values(values, axis)
    limits = list(axis.limits)
    step = limits[-1] - limits[-2] if len(limits) > 1 else max(abs(limits[0]), 1e-6)
    edges = [min(0.0, limits[0] - step), *limits, limits[-1] + step]
    return np.array(
        [
            float(np.median(values[options == option])) if (options == option).any() else (low + high) / 2
            for option, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True))
        ]
    )


def scores_of_values(
    values: npt.NDArray[np.floating], half_widths: npt.NDArray[np.floating], knots: Floats, missing: Floats
) -> Floats:
    """Scores (N, O) of an axis from its fact: 1 for the option whose typical value it is, linear between two of them.

    Parameters
    ----------
    values, half_widths
        (N,). Scores of an interval are their mean over it.
    knots, missing
        (O,): typical values, and the scores where the value is not finite.

    >>> scores_of_values(np.array([0.0, 1.5, np.nan]), np.zeros(3), np.array([0.0, 1.0, 2.0]), np.full(3, 1 / 3))[1]
    array([0. , 0.5, 0.5])
    """
    known = np.isfinite(values)
    offsets = np.linspace(-1, 1, _POINTS) if np.any(half_widths) else np.zeros(1)
    x = np.where(known, values, knots[0])[:, None] + np.nan_to_num(half_widths)[:, None] * offsets  # (N, points)
    place = np.interp(x, knots, np.arange(len(knots)))
    hats = np.clip(1 - np.abs(place[:, :, None] - np.arange(len(knots))), 0, None)  # (N, points, O)
    return np.where(known[:, None], hats.mean(axis=1), missing)


def scores_of_facts(
    facts: npt.NDArray[np.floating],
    uncertainty: npt.NDArray[np.floating],
    criteria: Criteria,
    knots: Floats,
    missing: Floats,
) -> Floats:
    """Scores (N, S) from facts (N, F), columns as `criteria.facts`; `knots` and `missing` are (S,)."""
    places = {name: column for column, name in enumerate(criteria.facts)}
    parts = []
    for axis, columns in zip(criteria.axes.values(), criteria.columns, strict=True):
        column = places[str(axis.fact)]
        parts.append(
            scores_of_values(
                np.asarray(facts[:, column], np.float64),
                np.asarray(uncertainty[:, column], np.float64),
                knots[columns],
                missing[columns],
            )
        )
    return np.concatenate(parts, axis=1)


def softmax_by_axis(logits: npt.NDArray[np.floating], columns: Sequence[slice]) -> Floats:
    """Softmax within the columns of each axis, (N, S) to (N, S)."""
    found = np.asarray(logits, np.float64).copy()
    for of_axis in columns:
        part = np.exp(found[:, of_axis] - found[:, of_axis].max(axis=1, keepdims=True))
        found[:, of_axis] = part / part.sum(axis=1, keepdims=True)
    return found
