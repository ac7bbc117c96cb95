"""Tasks of a cohort and their losses: what the heads of UMEML are compared with. Axes: B patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from wsikit.errors import RequestError
from wsikit.models.umeml.config import TaskConfig
from wsikit.models.umeml.losses import cox_loss, discrete_nll
from wsikit.training.cohort.protocol import UNKNOWN, Part
from wsikit.training.cohort.scaling import time_bin, time_cuts
from wsikit.training.umeml.curves import CurveShape, fit_shape
from wsikit.training.umeml.settings import UmemlSettings

SURVIVAL, CLASSES = "survival", "classes"


@dataclass(frozen=True)
class Tasks:
    """The tasks, with what was fitted on the training part."""

    configs: tuple[TaskConfig, ...]
    weights: Mapping[str, float]
    cuts: npt.NDArray[np.float64]
    """Inner borders of the intervals of time in months, (bins − 1,); empty without discrete survival."""
    shape: CurveShape | None
    """Of survival curves within the intervals; None without discrete survival."""
    class_weights: Tensor | None
    """(C,)."""
    classes: tuple[str, ...]
    uncensored_share: float

    @property
    def by_batch(self) -> bool:
        """Whether a loss compares the patients of a batch, so that it is no sum over them."""
        return any(task.kind == "cox" for task in self.configs)


@dataclass(frozen=True)
class Targets:
    """What is known of N patients. Rows without it are not counted."""

    time: Tensor
    """(N,) months, NaN: not known."""
    interval: Tensor
    """int64 (N,)."""
    event: Tensor
    """Bool (N,)."""
    labels: Tensor
    """int64 (N,), `UNKNOWN`: not known."""

    def take(self, rows: Tensor) -> Targets:
        """These patients, in this order."""
        return Targets(self.time[rows], self.interval[rows], self.event[rows], self.labels[rows])


def tasks_of(train: Part, settings: UmemlSettings) -> Tasks:
    """The tasks of a training part.

    Raises
    ------
    RequestError
        If a task is asked for that the cohort does not have, or it has none.
    """
    there = {SURVIVAL: train.time is not None, CLASSES: train.labels is not None}
    given_weights: dict[str, float] = {str(name): weight for name, weight in settings.tasks.items()}
    asked = given_weights or {name: 1.0 for name, known in there.items() if known}
    for name in asked:
        if not there[name]:
            has = ", ".join(one for one, given in there.items() if given) or "neither follow-up nor labels"
            raise RequestError(f"umeml: tasks: {name}: the cohort has no {name}; it has {has}.")
    if not asked:
        raise RequestError("umeml: the cohort has neither follow-up nor labels; there is nothing to learn.")
    configs: list[TaskConfig] = []
    cuts, shape, weights = np.zeros(0), None, None
    if SURVIVAL in asked:
        assert train.time is not None
        assert train.event is not None
        if settings.survival == "cox":
            configs.append(TaskConfig(name=SURVIVAL, kind="cox", outputs=1))
        else:
            cuts = time_cuts(train.time, train.event, settings.bins)
            shape = fit_shape(train.time, train.event, cuts)
            configs.append(TaskConfig(name=SURVIVAL, kind="survival", outputs=settings.bins))
    if CLASSES in asked:
        assert train.labels is not None
        kind = "ordinal" if train.ordered and len(train.classes) > 2 else "classification"
        configs.append(TaskConfig(name=CLASSES, kind=kind, outputs=len(train.classes)))  # type: ignore[arg-type]
        counts = np.bincount(train.labels[train.labels != UNKNOWN], minlength=len(train.classes))
        if settings.class_weights == "balanced":
            weights = torch.tensor(counts.sum() / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
    return Tasks(tuple(configs), asked, cuts, shape, weights, train.classes, settings.uncensored_share)


def targets_of(part: Part, tasks: Tasks) -> Targets:
    """What is known of the patients of a part."""
    n = len(part)
    time = np.full(n, np.nan) if part.time is None else part.time
    event = np.zeros(n, dtype=bool) if part.event is None else part.event
    labels = np.full(n, UNKNOWN) if part.labels is None else part.labels
    interval = time_bin(np.nan_to_num(time), tasks.cuts)
    return Targets(
        torch.tensor(time, dtype=torch.float64), torch.tensor(interval), torch.tensor(event), torch.tensor(labels)
    )


def known_of(targets: Targets, task: TaskConfig) -> Tensor:
    """Bool (N,): patients whose truth of a task is known."""
    return targets.labels != UNKNOWN if task.name == CLASSES else ~targets.time.isnan()


def task_loss(
    outputs: Mapping[str, Tensor], targets: Targets, tasks: Tasks, *, known: Mapping[str, int] | None = None
) -> Tensor:
    """Weighted sum of the losses, each the mean over the patients of whom its truth is known.

    `known`: their number by task where `targets` is a part of a batch, so that the parts' losses add up to the batch's;
    not for Cox, which is no sum over patients.
    """
    total = next(iter(outputs.values())).sum() * 0.0
    for task in tasks.configs:
        rows = torch.nonzero(known_of(targets, task)).squeeze(1)
        if not len(rows):
            continue
        of, found = targets.take(rows), outputs[task.name][rows]
        share = 1.0 if known is None else len(rows) / known[task.name]
        if task.kind == "cox":
            loss = cox_loss(found.squeeze(1), of.time, of.event)
        elif task.kind == "survival":
            loss = discrete_nll(found, of.interval, ~of.event, uncensored_share=tasks.uncensored_share)
        else:  # an ordinal head gives logarithms of probabilities, which are logits as well
            loss = functional.cross_entropy(found, of.labels, weight=tasks.class_weights, reduction="none").mean()
        total = total + tasks.weights[task.name] * share * loss
    return total
