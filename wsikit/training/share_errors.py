"""Slides and patients of an evaluation: the error of the estimated shares by each voting method, and how often its
interval holds the true share.

The truth of a unit is the fraction of each voting class among its patches that are not background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import RequestError
from wsikit.geometry import PatchGrid
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.data import PatchSet
from wsikit.training.metrics import DRAWS
from wsikit.voting import Evidence, Places, VoteInputs, VoteRule, vote, vote_inputs
from wsikit.voting.intervals import Interval, ShareInterval

Floats = npt.NDArray[np.float64]

METHODS = ("mean", "hard", "log", "confidence", "gate", "topk", "quantile", "noisy_or")
"""Methods that need only patch predictions, with their default parameters. gate: only of models that have one."""
LEAST = 20
"""Patches that a unit needs; smaller ones are not counted."""
LEVEL = 0.9
"""Confidence level of the intervals."""
EQUAL = 1e-9
"""Shares that differ by less are equal: the difference is rounding."""


@dataclass(frozen=True)
class Scale:
    """Sizes of the patches, for intervals over blocks of tissue."""

    patch_px: int
    mpp: float
    """µm/px of the patches."""
    source_mpp: float | None
    """µm/px of the coordinates; None: unknown, and there are no intervals."""


@dataclass(frozen=True)
class Unit:
    """A slide or a patient."""

    patient: str
    rows: npt.NDArray[np.int64]
    truth: Floats
    """(V,) true shares of the voting classes, sum 1."""


def share_report(
    data: PatchSet,
    probs: npt.NDArray[np.floating],
    *,
    classes: Sequence[str],
    background: Sequence[str],
    scale: Scale,
    gate: npt.NDArray[np.floating] | None = None,
    fitted: VoteRule | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Votes against the truth, by slide and by patient: {"slide": {...}, "patient": {...}}.

    Parameters
    ----------
    probs : float (N, C)
    gate : float (N,), optional
        Weight of the text, for the method gate.
    fitted : VoteRule, optional
        Parameters fitted on validation patients, measured as well; their method is called "METHOD, fitted".

    Returns
    -------
    dict
        Each level has `units` of at least `least_patches`, `too_small`, and by method `share_error` (half the summed
        absolute error over the classes; with two classes the absolute error of either share), `balanced_accuracy` of
        the class that leads, and `interval`: the fraction of units whose true share lies within the within-slide
        sampling interval of `level`; of fitted parameters also `share_interval`, that of the interval with the model's
        error. Values are `{value, low, high}` with 95 % intervals from 1,000 draws of patients. A level
        that is not available has only a `reason`.
    """
    inputs = vote_inputs(probs, classes, background)
    slides = data.slide_ids
    found: dict[str, Any] = {"slide": _level(data, inputs, slides, scale, gate, fitted, seed)}
    pairs = set(zip(slides.tolist(), data.groups.tolist(), strict=True))
    if len(pairs) == len(set(data.groups.tolist())):
        return found | {"patient": {"reason": "one slide per patient: as at slide level"}}
    none = Scale(scale.patch_px, scale.mpp, None)  # blocks lie within one slide
    return found | {"patient": _level(data, inputs, data.groups, none, gate, fitted, seed)}


def _level(
    data: PatchSet,
    inputs: VoteInputs,
    names: npt.NDArray[np.str_],
    scale: Scale,
    gate: npt.NDArray[np.floating] | None,
    fitted: VoteRule | None,
    seed: int,
) -> dict[str, Any]:
    units, small = _units(data, inputs, names)
    if len(units) < 2:
        return {"reason": f"{len(units)} with {LEAST} patches or more, and {small} smaller ones"}
    rules = {method: VoteRule(method) for method in METHODS if method != "gate" or gate is not None}
    if fitted is not None:
        rules[f"{fitted.method}, fitted"] = fitted
    return {
        "units": len(units),
        "least_patches": LEAST,
        "too_small": small,
        "methods": {name: _method(rule, data, inputs, units, scale, gate, seed) for name, rule in rules.items()},
    }


def _units(data: PatchSet, inputs: VoteInputs, names: npt.NDArray[np.str_]) -> tuple[list[Unit], int]:
    """Units with enough labelled patches that are not background, and the number of smaller ones."""
    one_hot = np.eye(1 + int(max(data.labels.max(initial=0), *inputs.columns)))[data.labels][:, list(inputs.columns)]
    units, small = [], 0
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        counts = one_hot[rows].sum(axis=0)
        if counts.sum() < LEAST:
            small += 1
            continue
        units.append(Unit(str(data.groups[rows[0]]), rows, counts / counts.sum()))
    return units, small


def _method(
    rule: VoteRule,
    data: PatchSet,
    inputs: VoteInputs,
    units: Sequence[Unit],
    scale: Scale,
    gate: npt.NDArray[np.floating] | None,
    seed: int,
) -> dict[str, Any]:
    shares, called, held, held_with_error, why = [], [], [], [], ""
    for unit in units:
        places, reason = _places(data, inputs, unit, scale)
        result = vote(
            inputs.probs[unit.rows],
            replace(rule, level=LEVEL, interval_level=LEVEL, seed=seed, resamples=DRAWS if places is not None else 0),
            weights=np.nan_to_num(inputs.weights[unit.rows]),
            evidence=Evidence(gate=None if gate is None else gate[unit.rows]),
            places=places,
            classes=inputs.classes,
        )
        voted = np.isfinite(result.probs).all()
        shares.append(result.probs if voted else np.full(len(unit.truth), 1 / len(unit.truth)))
        called.append(result.leading if result.leading is not None else 0)
        held.append(_inside(result.interval, unit.truth))
        held_with_error.append(_inside(result.share_interval, unit.truth))
        why = why or reason or result.no_interval
    truth = np.stack([unit.truth for unit in units])
    patients = np.array([unit.patient for unit in units])
    errors = np.abs(np.stack(shares) - truth).sum(axis=1) / 2
    found = {
        "share_error": _mean(errors, patients, seed),
        "balanced_accuracy": _balanced(truth.argmax(axis=1), np.eye(truth.shape[1])[called], patients, seed),
        "interval": _coverage(np.array(held), patients, seed, why),
    }
    if rule.learned is not None:
        reason = rule.learned.why_not(LEVEL)
        found["share_interval"] = _coverage(np.array(held_with_error), patients, seed, reason)
    return found


def _inside(interval: Interval | ShareInterval | None, truth: Floats) -> float:
    """Fraction of the classes whose true share (V,) lies within an interval; NaN if there is none."""
    if interval is None:
        return np.nan
    low, high = interval.low - EQUAL, interval.high + EQUAL
    return float(((low <= truth) & (truth <= high)).mean())


def _places(data: PatchSet, inputs: VoteInputs, unit: Unit, scale: Scale) -> tuple[Places | None, str]:
    """Places of a unit's patches, or why there are none."""
    if data.coords is None:
        return None, "the data give no coordinates"
    if scale.source_mpp is None:
        return None, "the scale of the coordinates is not known, or the patches are of several slides"
    corners = np.rint(data.coords[unit.rows]).astype(np.int64)
    corners -= corners.min(axis=0)
    side = int(np.ceil(scale.patch_px * scale.mpp / scale.source_mpp))
    width, height = (corners.max(axis=0) + side).tolist()
    own = scale.source_mpp
    grid = PatchGrid((width, height), (own, own), scale.patch_px, scale.mpp, anchored=False)
    try:
        return Places(grid, corners, inputs.certainty[unit.rows]), ""
    except RequestError as error:
        return None, str(error)


def _coverage(held: Floats, patients: npt.NDArray[np.str_], seed: int, why: str) -> dict[str, Any]:
    known = np.isfinite(held)
    if not known.any():
        return {"level": LEVEL, "units": 0, "value": None, "low": None, "high": None, "reason": why}
    return {"level": LEVEL, "units": int(known.sum()), **_mean(held[known], patients[known], seed)}


def _mean(values: Floats, patients: npt.NDArray[np.str_], seed: int) -> dict[str, Any]:
    """Mean over the units, with its interval from draws of patients."""
    names, group = np.unique(patients, return_inverse=True)
    weights = draw_groups(len(names), draws=DRAWS, seed=seed)[:, group]
    total = weights.sum(axis=1)
    with np.errstate(invalid="ignore"):
        ends = quantiles(weights @ values / total)
    low, high = ends if ends is not None else (None, None)
    return {"value": float(values.mean()), "low": low, "high": high}


def _balanced(
    truth: npt.NDArray[np.int64], shares: Floats, patients: npt.NDArray[np.str_], seed: int
) -> dict[str, Any]:
    sample = Sample(truth, shares, patients, n_ordinal=0)
    drawn = np.concatenate([np.ones((1, sample.n_groups)), draw_groups(sample.n_groups, draws=DRAWS, seed=seed)])
    values = sample.figures(drawn).values["balanced_accuracy"]
    low, high = quantiles(values[1:]) or (None, None)
    return {"value": float(values[0]), "low": low, "high": high}
