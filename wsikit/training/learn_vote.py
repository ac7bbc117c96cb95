"""What a vote learns from validation patients in addition to its parameters: the share that calls a class, and how far
its shares are from the truth. Shares of a slide are by parameters that were fitted without its patient (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsikit.training.fit_vote import LEAST_SLIDES, VoteSlide, fit_parameters, voted
from wsikit.training.metrics import balanced_accuracy
from wsikit.voting.learned import MIN_PATIENTS, LearnedVote, canonical, learn_errors, relative
from wsikit.voting.parameters import VoteParameters

Floats = npt.NDArray[np.float64]
Fit = Callable[[Sequence[VoteSlide], VoteParameters], VoteParameters]

FOLDS = 5
LEAST_OF_CLASS = 3
"""Slides of either side that a threshold needs."""
_STEPS, _ROUNDS = 81, 3


@dataclass(frozen=True)
class Shares:
    """Shares of S slides by a vote, and the truth."""

    truth: Floats
    """(S, C)"""
    shares: Floats
    """(S, C)"""
    n_effective: Floats
    """(S,)"""
    patients: tuple[str, ...]

    def select(self, rows: npt.NDArray[np.int64]) -> Shares:
        names = tuple(self.patients[row] for row in rows)
        return Shares(self.truth[rows], self.shares[rows], self.n_effective[rows], names)


def learn(
    slides: Sequence[VoteSlide], start: VoteParameters, *, classes: tuple[str, ...], fit: Fit = fit_parameters
) -> tuple[VoteParameters, dict[str, float]]:
    """Fit the parameters of `start.method`, its thresholds and its errors; and what cross-fitting measures.

    Parameters
    ----------
    slides
        Validation slides; their probabilities are already corrected to the prior of `start`.
    fit
        From slides and parameters to fitted parameters.

    Returns
    -------
    parameters
        With `learned`.
    measured
        On slides whose patients were not fitted on: "share error", "balanced accuracy", "balanced accuracy, fitted
        threshold", and, if there are enough patients, "coverage of the 90 % interval" with its "mean width".
    """
    parameters = fit(slides, start)
    whole, apart = shares_of(slides, parameters), cross_fitted(slides, start, fit)
    found = learned_of(apart, parameters, classes, thresholds=fit_thresholds(whole))
    return replace(parameters, learned=found), measured(apart, parameters, classes)


def learned_of(
    apart: Shares, parameters: VoteParameters, classes: tuple[str, ...], *, thresholds: tuple[float, ...]
) -> LearnedVote:
    """`LearnedVote` of cross-fitted shares; without errors where the patients are too few for any interval."""
    settings = canonical(parameters.score_settings())
    tau, distances, mass, patients = learn_errors(apart.truth, apart.shares, apart.n_effective, apart.patients)
    if patients < MIN_PATIENTS:
        return LearnedVote(settings, classes, patients, thresholds)
    return LearnedVote(settings, classes, patients, thresholds, tau, distances, mass)


def shares_of(slides: Sequence[VoteSlide], parameters: VoteParameters) -> Shares:
    """The shares of slides by a vote; a slide without voting patches gets equal shares of one patch."""
    shares, sizes = [], []
    for slide in slides:
        result = voted(slide, parameters)
        n_classes = len(slide.truth)
        none = result.leading is None
        shares.append(np.full(n_classes, 1 / n_classes) if none else result.probs)
        sizes.append(1.0 if none else result.n_effective)
    truth = np.stack([slide.truth for slide in slides])
    return Shares(truth, np.stack(shares), np.array(sizes), tuple(slide.patient for slide in slides))


def cross_fitted(slides: Sequence[VoteSlide], start: VoteParameters, fit: Fit = fit_parameters) -> Shares:
    """The shares of slides, by parameters that were fitted on other patients."""
    fold_of = patient_folds([slide.patient for slide in slides])
    parts, rows = [], []
    for fold in np.unique(fold_of):
        known = [slides[row] for row in np.flatnonzero(fold_of != fold).tolist()]
        asked = np.flatnonzero(fold_of == fold)
        fitted = fit(known, start) if len(known) >= LEAST_SLIDES else start
        parts.append(shares_of([slides[row] for row in asked.tolist()], fitted))
        rows.append(asked)
    order = np.argsort(np.concatenate(rows))
    joined = Shares(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.shares for part in parts]),
        np.concatenate([part.n_effective for part in parts]),
        tuple(name for part in parts for name in part.patients),
    )
    return joined.select(order)


def patient_folds(patients: Sequence[str], folds: int = FOLDS, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """(S,) fold of each slide; a patient's slides are in one fold."""
    names, of_slide = np.unique(np.asarray(patients), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(order[of_slide] % folds)


def fit_thresholds(found: Shares) -> tuple[float, ...]:
    """(C,) share of each class that calls it, sum 1, with the highest balanced accuracy; empty if slides are too few.

    The class of a slide is the one with the largest true share. Of equally good thresholds the middle ones are taken.
    """
    label = found.truth.argmax(axis=1)
    n_classes = found.truth.shape[1]
    counts = np.bincount(label, minlength=n_classes)
    if n_classes < 2 or len(set(found.patients)) < MIN_PATIENTS or np.count_nonzero(counts >= LEAST_OF_CLASS) < 2:
        return ()
    log_t = np.zeros(n_classes)
    steps = np.linspace(-4, 4, _STEPS)
    for _ in range(1 if n_classes == 2 else _ROUNDS):
        for index in range(1, n_classes) if n_classes == 2 else range(n_classes):
            trials = np.tile(log_t, (_STEPS, 1))
            trials[:, index] = steps
            scores = np.array([_accuracy(found.shares, label, _normalised(trial)) for trial in trials])
            log_t[index] = _middle_of_best(steps, _smoothed(scores), log_t[index])
    return tuple(round(value, 4) for value in _normalised(log_t).tolist())


def calls(shares: Floats, thresholds: Sequence[float]) -> npt.NDArray[np.int64]:
    """(S,) class that each slide is called."""
    return np.asarray(relative(shares, thresholds).argmax(axis=1))


def measured(apart: Shares, parameters: VoteParameters, classes: tuple[str, ...]) -> dict[str, float]:
    """Errors of cross-fitted shares; thresholds and intervals are again learned from other patients."""
    label = apart.truth.argmax(axis=1)
    fold_of = patient_folds(apart.patients, seed=1)
    called, inside, width = np.zeros(len(label), np.int64), np.full(len(label), np.nan), np.full(len(label), np.nan)
    for fold in np.unique(fold_of):
        known, rows = apart.select(np.flatnonzero(fold_of != fold)), np.flatnonzero(fold_of == fold)
        called[rows] = calls(apart.shares[rows], fit_thresholds(known))
        found = learned_of(known, parameters, classes, thresholds=())
        for row in rows:
            ends = found.interval(apart.shares[row], float(apart.n_effective[row]), parameters.interval_level)
            if ends is not None:
                covered = (ends[0] - 1e-9 <= apart.truth[row]) & (apart.truth[row] <= ends[1] + 1e-9)
                inside[row], width[row] = covered.mean(), (ends[1] - ends[0]).mean()
    figures: Mapping[str, float] = {
        "share error": float(np.abs(apart.shares - apart.truth).sum(axis=1).mean() / 2),
        "balanced accuracy": balanced_accuracy(label, apart.shares.argmax(axis=1)),
        "balanced accuracy, fitted threshold": balanced_accuracy(label, called),
    }
    if np.isfinite(inside).all():
        level = f"{100 * parameters.interval_level:g} %"
        return {
            **figures,
            f"coverage of the {level} interval": float(inside.mean()),
            f"mean width of the {level} interval": float(width.mean()),
        }
    return dict(figures)


def _accuracy(shares: Floats, label: npt.NDArray[np.int64], thresholds: Floats) -> float:
    return balanced_accuracy(label, calls(shares, thresholds.tolist()))


def _normalised(log_t: Floats) -> Floats:
    t = np.exp(log_t)
    return np.asarray(t / t.sum())


def _smoothed(scores: Floats) -> Floats:
    """Means over neighbouring thresholds: a single slide must not decide."""
    kernel = np.array([1, 2, 3, 2, 1]) / 9
    return np.convolve(np.pad(scores, 2, mode="edge"), kernel, mode="valid")


def _middle_of_best(steps: Floats, scores: Floats, usual: float) -> float:
    """The middle of the run of best values that is nearest to `usual`."""
    best = np.flatnonzero(scores >= scores.max() - 1e-9)
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    middles = [float(steps[run].mean()) for run in runs]
    return min(middles, key=lambda middle: abs(middle - usual))
