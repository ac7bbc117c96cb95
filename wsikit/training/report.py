"""All metrics of a model as one JSON-ready record, at patch, slide and patient level, with intervals.

The probabilities of a slide or patient are the mean over its patches. An undefined metric is None, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.training.bootstrap import MEASURES, Sample, draw_groups, quantiles
from wsikit.training.data import PatchSet
from wsikit.training.metrics import DRAWS
from wsikit.training.task import TaskConfig

LEVELS = ("patch", "slide", "patient")


@dataclass(frozen=True)
class Units:
    """Units of one level: patches, slides or patients."""

    truth: npt.NDArray[np.int64]
    probs: npt.NDArray[np.float64]
    patients: npt.NDArray[np.str_]
    """(U,), bootstrap group of each unit."""


def report(
    data: PatchSet, probs: npt.NDArray[np.floating], *, classes: Sequence[str], n_ordinal: int, seed: int = 0
) -> dict[str, Any]:
    """Metrics of `probs`, (N, C), for the patches of `data` at all levels: {"patch": {...}, "slide": …, "patient": …}.

    Each level has `n`, `patients`, `confusion` (rows are the truth) and per metric `{value, low, high}`, 95 % interval
    from 1,000 draws of patients; or only a `reason` why the level is not available.
    """
    found: dict[str, Any] = {}
    for level in LEVELS:
        units = _units(data, np.asarray(probs, dtype=np.float64), level)
        found[level] = units if isinstance(units, dict) else figures_of(units, classes, n_ordinal, seed)
    return found


def _units(data: PatchSet, probs: npt.NDArray[np.float64], level: str) -> Units | dict[str, Any]:
    if level == "patch":
        return Units(data.labels, probs, data.groups)
    names = data.slides if level == "slide" else data.groups
    if names is None:
        return {"reason": f"the data do not name the {level} of every patch"}
    keys, first, unit = np.unique(names, return_index=True, return_inverse=True)
    if len(keys) == len(data):
        return {"reason": f"one patch per {level}: as at patch level"}
    lowest = np.full(len(keys), np.iinfo(np.int64).max)
    highest = np.full(len(keys), -1)
    np.minimum.at(lowest, unit, data.labels)
    np.maximum.at(highest, unit, data.labels)
    if mixed := int(np.count_nonzero(lowest != highest)):
        return {"reason": f"{mixed} of {len(keys)} {level}s have patches of several classes, so no single truth"}
    counts = np.bincount(unit)
    means = np.stack([np.bincount(unit, weights=column) / counts for column in probs.T], axis=1)
    return Units(lowest, means, data.groups[first])


def level_report(config: TaskConfig, patches: PatchSet, probs: npt.NDArray[np.floating]) -> dict[str, Any]:
    """`report` of a model without a gate, for the classes of a configuration."""
    found = report(patches, np.asarray(probs, np.float64), classes=config.codes, n_ordinal=config.n_ordinal)
    return {**found, "gate": None}


def figures_of(units: Units, classes: Sequence[str], n_ordinal: int, seed: int) -> dict[str, Any]:
    sample = Sample(units.truth, units.probs, units.patients, n_ordinal=n_ordinal)
    draws = DRAWS if sample.n_groups > 1 else 0  # draws of one patient are all alike: no interval, not one of no width
    weights = np.concatenate([np.ones((1, sample.n_groups)), draw_groups(sample.n_groups, draws=draws, seed=seed)])
    figures = sample.figures(weights)
    counts = np.bincount(units.truth, minlength=len(classes))
    predicted = units.probs.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (units.truth, predicted), 1)
    return {
        "n": len(units.truth),
        "patients": sample.n_groups,
        "per_class": dict(zip(classes, counts.tolist(), strict=True)),
        **{name: _figure(figures.values[name], _why(name, counts, classes, n_ordinal)) for name in MEASURES},
        "auc_of_class": {
            code: _figure(figures.auc_of_class[:, i], _why_not_ranked(code, int(counts[i]), len(units.truth)))
            for i, code in enumerate(classes)
        },
        "confusion": {"rows": "truth", "classes": list(classes), "counts": confusion.tolist()},
    }


def _figure(values: npt.NDArray[np.float64], reason: str) -> dict[str, Any]:
    """The first entry is the value itself, the others are bootstrap draws."""
    if not np.isfinite(values[0]):
        return {"value": None, "low": None, "high": None, "reason": reason}
    ends = quantiles(values[1:])
    low, high = ends if ends is not None else (None, None)
    return {"value": float(values[0]), "low": low, "high": high}


def _why(name: str, counts: npt.NDArray[np.int64], classes: Sequence[str], n_ordinal: int) -> str:
    if name == "auc":
        missing = [code for code, n in zip(classes, counts, strict=True) if n == 0]
        return f"no {', '.join(missing)} in the truth" if missing else "one class only in the truth"
    if name.startswith("kappa"):
        return "the classes have no order" if n_ordinal < 2 else "fewer than two of the ordered classes occur"
    return "not defined for these patches"


def _why_not_ranked(code: str, n: int, total: int) -> str:
    return f"no {code} in the truth" if n == 0 else f"only {code} in the truth" if n == total else "not defined"
