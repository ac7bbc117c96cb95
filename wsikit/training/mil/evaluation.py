"""How good predictions of slides are: by slide, and by patient from the mean over its slides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.bootstrap import draw_groups, quantiles
from wsikit.training.metrics import DRAWS
from wsikit.training.mil.cohort import Bag
from wsikit.training.report import Units, figures_of

Floats = npt.NDArray[np.float64]
MIXED = "{n} patients have slides of different classes"


def class_figures(
    bags: Sequence[Bag], probs: npt.NDArray[np.floating], classes: Sequence[str], *, ordinal: bool
) -> dict[str, Any]:
    """Metrics of class probabilities (S, C) of slides: {"slide": …, "patient": …}, as `wsikit.training.report`.

    The probabilities of a patient are the mean over its slides. Patients whose slides differ in class are left out at
    their level, and counted (`mixed`).
    """
    labels = np.array([bag.label for bag in bags], dtype=np.int64)
    patients = np.array([bag.patient for bag in bags], dtype=np.str_)
    n_ordinal = len(classes) if ordinal else 0
    found = {"slide": figures_of(Units(labels, np.asarray(probs, np.float64), patients), classes, n_ordinal, 0)}
    names, unit = np.unique(patients, return_inverse=True)
    means = np.stack([np.asarray(probs)[unit == index].mean(axis=0) for index in range(len(names))])
    own = [np.unique(labels[unit == index]) for index in range(len(names))]
    pure = np.array([len(one) == 1 for one in own])
    if pure.any():
        truth = np.array([one[0] for one in own])[pure]
        found["patient"] = figures_of(Units(truth, means[pure], names[pure]), classes, n_ordinal, 0)
    else:
        found["patient"] = {"reason": "every patient has slides of different classes"}
    return found | {"mixed": int((~pure).sum())}


def value_figures(bags: Sequence[Bag], values: Floats, *, survival: bool) -> dict[str, Any]:
    """Concordance of values (S,) of slides with the truth, by slide and patient; of values also the mean error.

    A patient's value is the mean over its slides; so is the truth.
    """
    truth = np.array([bag.value for bag in bags])
    event = np.array([bag.event for bag in bags]) if survival else np.ones(len(bags), bool)
    patients = np.array([bag.patient for bag in bags], dtype=np.str_)
    names, unit = np.unique(patients, return_inverse=True)
    sign = -1.0 if survival else 1.0  # a higher risk means an earlier event
    means = [np.bincount(unit, part) / np.bincount(unit) for part in (truth, values)]
    levels = {
        "slide": (truth, values, event, patients),
        "patient": (means[0], means[1], np.bincount(unit, event) > 0, names),
    }
    found: dict[str, Any] = {}
    for level, (t, v, e, groups) in levels.items():

        def ranked(w: Floats, t: Floats = t, v: Floats = v, e: npt.NDArray[np.bool_] = e) -> float:
            return concordance(t, sign * v, e, w)

        def missed(w: Floats, t: Floats = t, v: Floats = v) -> float:
            return float(w @ np.abs(t - v) / w.sum())

        found[level] = {"n": len(t), "concordance": _drawn(groups, ranked)}
        if not survival:
            found[level]["mean_error"] = _drawn(groups, missed)
    return found


def concordance(times: Floats, scores: Floats, events: npt.NDArray[np.bool_], weights: Floats | None = None) -> float:
    """Share of comparable pairs in which the earlier time has the lower score (Harrell et al. 1982); ties count half.

    A pair is comparable where the earlier time is that of an event. NaN without such pairs.

    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3]), np.array([True, True, False]))
    1.0
    """
    w = np.ones(len(times)) if weights is None else weights
    pairs = events[:, None] & (times[:, None] < times[None, :])
    # an event at the time at which another is censored came first
    pairs |= events[:, None] & ~events[None, :] & (times[:, None] == times[None, :])
    mass = pairs * w[:, None] * w[None, :]
    right = (scores[:, None] < scores[None, :]) + 0.5 * (scores[:, None] == scores[None, :])
    total = mass.sum()
    return float((mass * right).sum() / total) if total > 0 else float("nan")


def _drawn(groups: npt.NDArray[np.str_], measure: Callable[[Floats], float]) -> dict[str, float | None]:
    names, unit = np.unique(groups, return_inverse=True)
    drawn = [measure(weights[unit]) for weights in draw_groups(len(names), draws=DRAWS, seed=0)]
    ends = quantiles(np.array(drawn))
    value = measure(np.ones(len(groups)))
    low, high = ends if ends is not None else (None, None)
    return {"value": value if np.isfinite(value) else None, "low": low, "high": high}
