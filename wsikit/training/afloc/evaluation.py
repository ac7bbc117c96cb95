"""Maps of text prompts against truth, cell by cell: overlap, ranking, pointing, and presence on slides without.

Nothing is scaled per slide: a slide without the concept has cells above a threshold only if the model errs, and a map
that is empty where the truth is not scores 0. Intervals are bootstraps over slides. Arrays only; how a map was made
does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.voting.text_map import TOP_LEAST

Values = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]

DRAWS = 1000
TOP = TOP_LEAST
"""Cells whose mean is a slide's presence score, by default: as `wsikit localize` on slides of up to 400 patches."""


@dataclass(frozen=True)
class MapWithTruth:
    """One slide's map of one concept."""

    slide: str
    """Name of the slide, or of the patient where the bootstrap is to be by patient."""
    values: Values
    """(H, W); NaN where there is no cell."""
    truth: Mask
    """(H, W), True where the concept is. Cells that are NaN in `values` are left out."""
    present: bool | None = None
    """Whether the slide has the concept; None: neither clearly present nor absent, left out of presence."""

    def __post_init__(self) -> None:
        if self.values.shape != self.truth.shape or self.values.ndim != 2:
            raise RequestError(
                f"{self.slide}: a map of {self.values.shape} and a truth of {self.truth.shape}; expected equal (H, W)."
            )

    @property
    def known(self) -> Mask:
        known: Mask = np.isfinite(self.values)
        return known

    def cells(self) -> tuple[Values, Mask]:
        """Values and truth of the cells, (n,) each."""
        return self.values[self.known], self.truth[self.known]


def overlap(found: Mask, truth: Mask) -> tuple[float, float]:
    """IoU and Dice of two masks; 0 if one is empty and the other is not, NaN if both are.

    >>> overlap(np.array([True, True, False]), np.array([True, False, False]))
    (0.5, 0.6666666666666666)
    """
    both, either = int((found & truth).sum()), int((found | truth).sum())
    if not either:
        return float("nan"), float("nan")
    return both / either, 2 * both / (both + either)


def signed_cnr(values: Values, truth: Mask) -> float:
    """Contrast-to-noise ratio of cells, (mean inside − mean outside) / sqrt of the sum of the variances.

    Below 0 where the map is higher outside of the truth; NaN if all cells are inside, or all outside.

    >>> signed_cnr(np.array([0.0, 2.0, 4.0, 6.0]), np.array([True, True, False, False])) < 0
    True
    """
    if truth.all() or not truth.any():
        return float("nan")
    inside, outside = values[truth], values[~truth]
    noise = float(np.sqrt(inside.var() + outside.var()))
    difference = float(inside.mean() - outside.mean())
    return difference / noise if noise else float(np.sign(difference) * np.inf) if difference else 0.0


def points_inside(one: MapWithTruth, *, tolerance: int = 0) -> bool | None:
    """Pointing game: whether the highest cell lies in the truth, or at most `tolerance` cells away; None without truth.

    Of equally high cells all must do so: a constant map points nowhere.
    """
    truth = one.truth & one.known
    if not truth.any():
        return None
    near = truth
    if tolerance:
        from scipy.ndimage import binary_dilation

        near = binary_dilation(truth, np.ones((3, 3), bool), iterations=tolerance)
    highest = one.known & (one.values >= np.nanmax(one.values))
    return bool(near[highest].all())


def presence_score(one: MapWithTruth, *, top: int = TOP) -> float:
    """Score of a slide: mean of its `top` highest cells."""
    values = np.sort(one.values[one.known])[::-1]
    return float(values[:top].mean()) if len(values) else float("nan")


def best_threshold(maps: Sequence[MapWithTruth]) -> float:
    """The threshold (a cell is positive from it on) with the best Dice over all cells of validation slides.

    Raises
    ------
    RequestError
        If no cell is positive: nothing can be chosen.
    """
    values, truth = _pooled(maps)
    if not truth.any():
        raise RequestError("threshold: no cell of the validation slides has the concept; give more slides.")
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(truth[order])
    dice = 2 * hits / (np.arange(1, len(values) + 1) + truth.sum())
    last_of_value = np.append(np.diff(values[order]) != 0, True)  # a threshold cannot divide equal values
    return float(values[order][np.argmax(np.where(last_of_value, dice, -1))])


def otsu_threshold(values: Values) -> float:
    """The threshold (a cell is positive from it on) that divides values into two groups with the greatest variance
    between their means (Otsu 1979): no truth is needed. It divides any map, also one of a slide without the concept.

    NaN are left out; inf, so that no cell is positive, where all values are equal.

    >>> otsu_threshold(np.array([0.1, 0.2, 0.1, 0.8, 0.9]))
    0.8
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64)[np.isfinite(values)])
    below = np.arange(1, len(ordered))  # number of values in the lower group
    apart = np.diff(ordered) > 0
    if not apart.any():
        return float("inf")
    sums = np.cumsum(ordered)
    lower, upper = sums[:-1] / below, (sums[-1] - sums[:-1]) / (len(ordered) - below)
    between = below * (len(ordered) - below) * (upper - lower) ** 2
    return float(ordered[1:][np.argmax(np.where(apart, between, -1.0))])


def evaluate_maps(
    maps: Sequence[MapWithTruth],
    *,
    threshold: float,
    thresholds: Sequence[float] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of the maps of one concept, with 95 % intervals from draws of slides.

    Parameters
    ----------
    threshold
        Chosen on other slides (`best_threshold`).
    thresholds
        IoU and Dice are averaged over these as well, as published benchmarks do.

    Returns
    -------
    dict
        `dice`, `iou` over all cells of all slides; `slide_dice`, mean over the slides with the concept; `mean_iou`,
        `mean_dice` over `thresholds`; `auroc`, `auprc` per cell; `cnr`, `pointing`, `pointing_1` over slides with the
        concept; `presence_auroc` over slides. Each {value, low, high}; NaN becomes None. And numbers n.
    """
    if not maps:
        raise RequestError("evaluation: no map; give one or more slides.")
    figures: dict[str, Callable[[Sequence[MapWithTruth]], float]] = {
        "dice": lambda some: overlap(*_called(some, threshold))[1],
        "iou": lambda some: overlap(*_called(some, threshold))[0],
        "slide_dice": lambda some: _mean([overlap(*_called([one], threshold))[1] for one in some if _has(one)]),
        "auroc": lambda some: _ranking("roc_auc_score", *_pooled(some)),
        "auprc": lambda some: _ranking("average_precision_score", *_pooled(some)),
        "cnr": lambda some: _mean([signed_cnr(*one.cells()) for one in some if _has(one)]),
        "pointing": lambda some: _mean([float(points_inside(one) or 0) for one in some if _has(one)]),
        "pointing_1": lambda some: _mean([float(points_inside(one, tolerance=1) or 0) for one in some if _has(one)]),
        "presence_auroc": _presence,
    }
    if thresholds:
        figures["mean_dice"] = lambda some: _mean([overlap(*_called(some, at))[1] for at in thresholds])
        figures["mean_iou"] = lambda some: _mean([overlap(*_called(some, at))[0] for at in thresholds])
    rng = np.random.default_rng(seed)
    names = sorted({one.slide for one in maps})
    of_slide = {name: [one for one in maps if one.slide == name] for name in names}
    drawn: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(draws if len(names) > 1 else 0):
        some = [one for i in rng.integers(len(names), size=len(names)) for one in of_slide[names[i]]]
        for name, figure in figures.items():
            drawn[name].append(figure(some))
    record: dict[str, Any] = {name: _with_interval(figure(maps), drawn[name]) for name, figure in figures.items()}
    known = [one.present for one in maps if one.present is not None]
    values, truth = _pooled(maps)
    return record | {
        "threshold": threshold,
        "slides": len(names),
        "slides_with": sum(known),
        "slides_without": len(known) - sum(known),
        "cells": len(values),
        "positive_cells": int(truth.sum()),
        "dice_of_all_positive": 2 * float(truth.mean()) / (1 + float(truth.mean())),
    }


def _has(one: MapWithTruth) -> bool:
    return bool((one.truth & one.known).any())


def _pooled(maps: Sequence[MapWithTruth]) -> tuple[Values, Mask]:
    parts = [one.cells() for one in maps]
    return np.concatenate([values for values, _ in parts]), np.concatenate([truth for _, truth in parts])


def _called(maps: Sequence[MapWithTruth], threshold: float) -> tuple[Mask, Mask]:
    values, truth = _pooled(maps)
    return values >= threshold, truth


def _ranking(name: str, values: Values, truth: Mask) -> float:
    from sklearn import metrics

    if truth.all() or not truth.any():
        return float("nan")
    return float(getattr(metrics, name)(truth, values))


def _presence(maps: Sequence[MapWithTruth]) -> float:
    known = [one for one in maps if one.present is not None]
    if not known:
        return float("nan")
    scores = np.array([presence_score(one) for one in known])
    return _ranking("roc_auc_score", scores, np.array([bool(one.present) for one in known]))


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _with_interval(value: float, drawn: Sequence[float]) -> dict[str, float | None]:
    finite = np.array([one for one in drawn if np.isfinite(one)])
    low, high = (float(q) for q in np.quantile(finite, (0.025, 0.975))) if len(finite) else (None, None)
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high}
