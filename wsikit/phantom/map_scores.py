"""Maps of synthetic slides compared with what was planted, patch by patch.

A label of a slide says that its subtype is somewhere on it. So the region that a map should find is that of the patches
of this subtype: Dice between it and the patches that a map marks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.phantom.facts import CLASSES
from wsikit.phantom.truth import PhantomTruth

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]

ALL, CHANCE = "all tissue patches", "chance: as many patches at random as are planted"


@dataclass(frozen=True, eq=False)
class SlideMaps:
    """Marked patches of one slide by several maps, and what is planted."""

    slide: str
    planted: npt.NDArray[np.int64]
    """(N,) class of each patch, index into `wsikit.phantom.CLASSES`."""
    target: int
    """The slide's subtype, as such an index."""
    marks: Mapping[str, Marks]
    """By map, bool (N,)."""


def dice(marked: Marks, truth: Marks) -> float:
    """2·|both| / (|marked| + |truth|); 1 where both are empty.

    >>> dice(np.array([True, True, False]), np.array([True, False, False])) == 2 / 3
    True
    """
    total = int(marked.sum()) + int(truth.sum())
    return 2 * int((marked & truth).sum()) / total if total else 1.0


def dice_by_chance(n: int, k: int) -> float:
    """Expected Dice of k of n patches at random against k planted ones: k/n.

    >>> dice_by_chance(100, 25)
    0.25
    """
    return k / n if n else 0.0


def slide_maps(
    truth: PhantomTruth,
    coords: npt.NDArray[np.int64],
    classes: Sequence[str],
    probability: npt.NDArray[np.floating],
    attention: npt.NDArray[np.floating] | None = None,
    *,
    slide: str = "",
) -> SlideMaps:
    """The maps of a model of classes `classes`.

    The class map marks patches whose most probable class is the slide's subtype; the attention map those with more than
    the mean attention; "both" those that do both.

    Parameters
    ----------
    coords
        (N, 2) corners of the patches, level-0 px, on the grid of the truth.
    probability, attention
        (N, C), (N,).
    """
    planted = np.asarray(truth.labels, np.int64)[truth.rows_at(coords)]
    called = np.array([classes[index] for index in np.nan_to_num(np.asarray(probability)).argmax(axis=1)])
    marks: dict[str, Marks] = {"class": called == truth.subtype}
    if attention is not None:
        known = np.nan_to_num(np.asarray(attention, np.float64))
        marks["attention"] = known > known.mean()
        marks["class and attention"] = marks["class"] & marks["attention"]
    return SlideMaps(slide, planted, CLASSES.index(truth.subtype), marks)


def dice_table(slides: Sequence[SlideMaps], *, draws: int = 1000, seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean Dice over slides by map, with its 95 % interval from draws of slides; and those of the baselines."""
    rows: dict[str, list[float]] = {}
    for one in slides:
        truth = one.planted == one.target
        found = {name: dice(marks, truth) for name, marks in one.marks.items()}
        found |= {ALL: dice(np.ones_like(truth), truth), CHANCE: dice_by_chance(len(truth), int(truth.sum()))}
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    picks = np.random.default_rng(seed).integers(0, len(slides), (draws, len(slides)))
    table = {}
    for name, values in rows.items():
        low, high = np.quantile(np.asarray(values)[picks].mean(axis=1), [0.025, 0.975])
        table[name] = {"value": float(np.mean(values)), "low": float(low), "high": float(high), "n": len(values)}
    return table
