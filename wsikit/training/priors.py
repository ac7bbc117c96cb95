"""Class frequencies of the training patches, as a model folder records them, and what correcting to them changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.models.config import ModelConfig
from wsikit.models.protocol import ModelInfo
from wsikit.training.bootstrap import BINS, Sample, draw_groups, quantiles
from wsikit.training.metrics import DRAWS
from wsikit.voting.prior import AUTO, ModelPrior, PriorShift, prior_shift

MEASURES = ("ece", "class_ece", "nll", "brier", "accuracy", "balanced_accuracy")
"""ece is of the most probable class: with two classes it can be small though every probability of a class is too high.
class_ece is the mean over the classes of the calibration error of that class's probability."""


def prevalence(labels: npt.NDArray[np.int64], n_classes: int) -> tuple[float, ...]:
    """Frequency of each class among patches, (C,), sum 1.

    >>> prevalence(np.array([0, 0, 0, 1]), 2)
    (0.75, 0.25)
    """
    counts = np.bincount(labels, minlength=n_classes)
    return tuple((counts / max(counts.sum(), 1)).tolist())


def with_prior(config: ModelConfig, labels: npt.NDArray[np.int64], *, balanced: bool) -> ModelConfig:
    """`config` with the class frequencies of the training patches, whose classes are `labels` (N,)."""
    return config.model_copy(update={"prior": prevalence(labels, len(config.classes)), "balanced": balanced})


def prior_of(about: ModelConfig | ModelInfo) -> ModelPrior:
    """The class frequencies that a model's probabilities assume, as it records them."""
    return ModelPrior(about.prior, bool(about.balanced))


def shift_of(about: ModelConfig | ModelInfo, asked: str = AUTO) -> PriorShift | None:
    """How a model's probabilities are corrected to the class frequencies `asked` for; None where nothing changes.

    Raises
    ------
    RequestError
        As for `wsikit.voting.prior.prior_shift`.
    """
    return prior_shift(asked, about.classes, prior_of(about))


def prior_metrics(
    about: ModelConfig | ModelInfo,
    truth: npt.NDArray[np.int64],
    probs: npt.NDArray[np.floating],
    groups: npt.NDArray[np.generic],
    *,
    asked: str = AUTO,
    seed: int = 0,
) -> dict[str, Any]:
    """Calibration of patch probabilities before and after the correction to other class frequencies.

    Parameters
    ----------
    truth
        int64 (N,).
    probs
        (N, C), as the model gives them.
    groups
        (N,) patient of each patch.

    Returns
    -------
    dict
        "shift": as `PriorShift.to_json`, None where nothing is corrected; "frequency": of each class in `truth`;
        "before" and, with a shift, "after" and "difference": `MEASURES` as {value, low, high}, 95 % intervals from
        draws of patients, the same for all.
    """
    shift = shift_of(about, asked)
    n_classes = probs.shape[1]
    found: dict[str, Any] = {
        "shift": None if shift is None else shift.to_json(),
        "frequency": dict(zip(about.classes, prevalence(truth, n_classes), strict=True)),
    }
    before = _drawn(truth, probs, groups, seed)
    found["before"] = _values(before)
    if shift is not None:
        after = _drawn(truth, shift.apply(probs), groups, seed)
        found["after"] = _values(after)
        found["difference"] = _values({name: after[name] - before[name] for name in MEASURES})
    return found


def _drawn(
    truth: npt.NDArray[np.int64], probs: npt.NDArray[np.floating], groups: npt.NDArray[np.generic], seed: int
) -> dict[str, npt.NDArray[np.float64]]:
    """Each measure of all patches, then of each draw of patients."""
    sample = Sample(truth, np.asarray(probs, np.float64), groups, n_ordinal=0)
    draws = draw_groups(sample.n_groups, draws=DRAWS, seed=seed)
    weights = np.concatenate([np.ones((1, sample.n_groups)), draws])
    values = {**sample.figures(weights).values, "class_ece": _class_ece(truth, probs, groups, weights)}
    return {name: values[name] for name in MEASURES}


def _class_ece(
    truth: npt.NDArray[np.int64],
    probs: npt.NDArray[np.floating],
    groups: npt.NDArray[np.generic],
    weights: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """(D,) mean over the classes of the calibration error of their probabilities, for weights (D, G) of groups."""
    names, group = np.unique(groups, return_inverse=True)
    n_groups = len(names)
    patches = weights @ np.bincount(group, minlength=n_groups)
    gaps = np.zeros(len(weights))
    for index, column in enumerate(np.asarray(probs, np.float64).T):
        place = group * BINS + np.minimum((column * BINS).astype(np.int64), BINS - 1)
        gap = np.bincount(place, column - (truth == index), n_groups * BINS).reshape(n_groups, BINS)
        gaps += np.abs(weights @ gap).sum(axis=1) / patches
    error: npt.NDArray[np.float64] = gaps / probs.shape[1]
    return error


def _values(drawn: dict[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
    found = {}
    for name, values in drawn.items():
        low, high = quantiles(values[1:]) or (None, None)
        found[name] = {"value": float(values[0]) if np.isfinite(values[0]) else None, "low": low, "high": high}
    return found
