"""Baselines that stand next to every network of patients: age alone, components and age, each modality, both ways of
fusing them, and no column at all. They are learners as the network is, on the same folds.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.training.cohort.bags import slide_means
from wsikit.training.cohort.linear import LinearModel, fit_linear_model
from wsikit.training.cohort.protocol import UNKNOWN, FittedLearner, Learner, Part, Prediction
from wsikit.training.cohort.scaling import ColumnScaler, Components, fit_columns, fit_components

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]

SLIDES = "slides"
"""Name of the patch features among the modalities: here the mean over all patches of a patient."""
NOTHING, FUSED, JOINED = "no column", "late fusion", "concatenation"


@dataclass(frozen=True)
class Block:
    """Columns of one modality that a linear model reads."""

    modality: str
    columns: tuple[str, ...] | None = None
    """None: all."""
    components: int | None = None
    """Principal components instead of the columns; None: the columns."""


@dataclass(frozen=True)
class LinearBaseline:
    """Cox model and logistic regression on some columns."""

    name: str
    blocks: tuple[Block, ...]
    penalised: bool
    """Elastic net chosen on the validation part; else hardly any penalty, for few columns."""

    def fit(self, train: Part, validation: Part, seed: int) -> FittedLearner:
        """Columns are standardised by the training part; a last fit uses both parts. The seed is not used."""
        scalers = tuple(_fit_block(block, train) for block in self.blocks)
        model = fit_linear_model(
            train,
            _design(self.blocks, scalers, train),
            validation,
            _design(self.blocks, scalers, validation),
            penalised=self.penalised,
        )
        return _Fitted(self.blocks, scalers, model)


@dataclass(frozen=True)
class _Fitted:
    blocks: tuple[Block, ...]
    scalers: tuple[ColumnScaler | Components, ...]
    model: LinearModel

    def predict(self, part: Part) -> Prediction:
        return self.model.predict(_design(self.blocks, self.scalers, part))


@dataclass(frozen=True)
class LateFusion:
    """Additive late fusion: each member alone, then the mean of their standardised risks, survival curves and
    log-probabilities.
    """

    members: tuple[Learner, ...]
    name: str = FUSED

    def fit(self, train: Part, validation: Part, seed: int) -> FittedLearner:
        fitted = tuple(member.fit(train, validation, seed) for member in self.members)
        scales = []
        for one in fitted:
            risk = one.predict(train).risk
            scales.append((0.0, 1.0) if risk is None else (float(risk.mean()), max(float(risk.std()), 1e-12)))
        return _FittedFusion(fitted, tuple(scales))


@dataclass(frozen=True)
class _FittedFusion:
    members: tuple[FittedLearner, ...]
    scales: tuple[tuple[float, float], ...]

    def predict(self, part: Part) -> Prediction:
        found = [member.predict(part) for member in self.members]
        risks = [(one.risk - mean) / std for one, (mean, std) in zip(found, self.scales) if one.risk is not None]
        curves = [one for one in found if one.survival is not None and one.times is not None]
        logs = [np.log(np.maximum(one.probs, 1e-12)) for one in found if one.probs is not None]
        probs = None
        if logs:
            probs = np.exp(np.mean(logs, axis=0))
            probs /= probs.sum(axis=1, keepdims=True)
        times = curves[0].times if curves else None
        survival = None
        if times is not None:
            survival = np.mean([survival_at(one, times) for one in curves], axis=0)
        return Prediction(np.mean(risks, axis=0) if risks else None, survival, times, probs)


@dataclass(frozen=True)
class NoColumn:
    """Kaplan–Meier estimate and class frequencies of the training: what is known without any column."""

    name: str = NOTHING

    def fit(self, train: Part, validation: Part, seed: int) -> FittedLearner:
        from sksurv.nonparametric import kaplan_meier_estimator

        times, survival, shares = None, None, None
        if train.time is not None and train.event is not None and validation.time is not None:
            assert validation.event is not None
            time, event = np.concatenate([train.time, validation.time]), np.concatenate([train.event, validation.event])
            known = np.isfinite(time)
            times, survival = kaplan_meier_estimator(event[known], time[known])
        if train.labels is not None:
            counts = np.bincount(train.labels[train.labels != UNKNOWN], minlength=len(train.classes))
            shares = counts / counts.sum()
        return _Constant(times, survival, shares)


@dataclass(frozen=True)
class _Constant:
    times: Doubles | None
    survival: Doubles | None
    shares: Doubles | None

    def predict(self, part: Part) -> Prediction:
        n = len(part)
        curves = None if self.survival is None else np.tile(self.survival, (n, 1))
        return Prediction(
            None if curves is None else np.zeros(n),
            curves,
            self.times,
            None if self.shares is None else np.tile(self.shares, (n, 1)),
        )


def usual_baselines(part: Part, *, age: str, components: int) -> list[Learner]:
    """The baselines that the columns of a cohort allow.

    No column; age alone; principal components of the widest modality with age; each modality alone; and, where there is
    more than one, late fusion and concatenation. Patch features count as a modality, by their mean.
    """
    found: list[Learner] = [NoColumn()]
    of_age = next((name for name in part.modalities if age in part.names[name]), None)
    age_block = None if of_age is None else Block(of_age, (age,))
    if age_block is None:
        logger.warning("no column %r in any modality: the baselines with age are left out", age)
    else:
        found.append(LinearBaseline("age", (age_block,), penalised=False))
    wide = [name for name in part.modalities if part.columns[name].shape[1] > components]
    if wide and age_block is not None:
        widest = max(wide, key=lambda name: part.columns[name].shape[1])
        blocks = (Block(widest, None, components), age_block)
        found.append(LinearBaseline(f"PCA-{components} of {widest}, age", blocks, penalised=False))
    modalities = [*part.modalities, *([SLIDES] if part.bags is not None else [])]
    single = [LinearBaseline(f"{name} alone", (Block(name),), penalised=True) for name in modalities]
    found += single
    if len(single) > 1:
        found.append(LateFusion(tuple(single)))
        found.append(LinearBaseline(JOINED, tuple(Block(name) for name in modalities), penalised=True))
    return found


def survival_at(prediction: Prediction, times: Doubles) -> Doubles:
    """Survival curves of a prediction at other times, (N, T): steps, 1 before the first, constant after the last.

    >>> curve = Prediction(survival=np.array([[0.9, 0.5]]), times=np.array([1.0, 2.0]))
    >>> survival_at(curve, np.array([0.5, 1.0, 1.5, 9.0]))
    array([[1. , 0.9, 0.9, 0.5]])
    """
    assert prediction.survival is not None
    assert prediction.times is not None
    steps = np.concatenate([np.ones((len(prediction.survival), 1)), prediction.survival], axis=1)
    return np.asarray(steps[:, np.searchsorted(prediction.times, times, side="right")], dtype=np.float64)


def _values(block: Block, part: Part) -> npt.NDArray[np.float32]:
    if block.modality == SLIDES:
        return slide_means(part)
    values = part.columns[block.modality]
    if block.columns is None:
        return values
    return values[:, [part.names[block.modality].index(name) for name in block.columns]]


def _fit_block(block: Block, train: Part) -> ColumnScaler | Components:
    values = _values(block, train)
    return fit_columns(values) if block.components is None else fit_components(values, block.components)


def _design(blocks: Sequence[Block], scalers: Sequence[ColumnScaler | Components], part: Part) -> Doubles:
    """Standardised columns of all blocks, (N, K)."""
    found = [scaler.transform(_values(block, part)) for block, scaler in zip(blocks, scalers, strict=True)]
    return np.concatenate(found, axis=1).astype(np.float64)
