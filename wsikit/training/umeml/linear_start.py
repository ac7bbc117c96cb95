"""The linear part of UMEML's heads, fitted before the network: a ridge regression of each task's own loss.

With few patients and many columns a linear model is hard to beat; the network starts from it and learns what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsikit.models.umeml.heads import TaskHead
from wsikit.models.umeml.network import UMEML
from wsikit.models.umeml.wide import SlideColumns
from wsikit.training.umeml.data import Patients
from wsikit.training.umeml.targets import Targets, Tasks, task_loss

ITERATIONS = 200


@dataclass(frozen=True)
class LinearStart:
    """The penalty that was chosen."""

    penalty: float
    loss: float
    """Of the validation part."""


def penalty_of(network: UMEML) -> Tensor:
    """Σ w² over the direct columns of all heads."""
    total = torch.zeros((), device=network.kinds.device)
    for head in network.heads.values():
        assert isinstance(head, TaskHead)
        if head.direct is not None:
            total = total + head.direct.weight.square().sum()
    return total


@torch.no_grad()
def counted(wide: SlideColumns, patients: Patients, *, together: int) -> tuple[Tensor, Tensor]:
    """Shares (N, K) and scores (N, S) of all patients, from all their patches; NaN where a modality is missing."""
    shares, scores = [], []
    for batch in patients.batches(np.arange(len(patients)), together=together):
        n = len(batch.rows)
        none = batch.direct.new_full((n, wide.k), torch.nan)
        shares.append(none if batch.patches is None else wide.shares(batch.patches, batch.mask))
        scores.append(wide.scores(batch.values, n))
    return torch.cat(shares), torch.cat(scores)


@torch.no_grad()
def direct_columns(network: UMEML, patients: Patients, *, together: int) -> Tensor:
    """All columns that enter the heads linearly, (N, q): those of tables, then those of slides."""
    if network.wide is None:
        return patients.direct
    made = []
    for batch in patients.batches(np.arange(len(patients)), together=together):
        everything = torch.ones(len(batch.rows), len(network.config.modalities), device=network.kinds.device)
        made.append(network.wide(batch.patches, batch.mask, batch.values, everything.bool()))
    return torch.cat([patients.direct, torch.cat(made)], dim=1)


def fit_linear(
    network: UMEML,
    tasks: Tasks,
    training: tuple[Tensor, Targets],
    validation: tuple[Tensor, Targets] | None,
    penalties: tuple[float, ...],
) -> LinearStart:
    """Fit the direct columns and the constants of all heads; the network's own part starts at zero effect.

    `training`, `validation`: direct columns (N, q) and targets. The penalty with the lowest loss of the validation part
    is kept; without one `penalties` must be a single value. The fit is convex, by L-BFGS.
    """
    heads = [head for head in network.heads.values() if isinstance(head, TaskHead)]
    learnt: list[torch.nn.Parameter] = []
    for head in heads:
        torch.nn.init.zeros_(head.deep.weight)
        learnt += [p for name, p in head.named_parameters() if name != "deep.weight"]
    best: LinearStart | None = None
    kept: list[Tensor] = [p.detach().clone() for p in learnt]
    if not learnt:
        return LinearStart(max(penalties), float("nan"))
    for penalty in sorted(penalties, reverse=True):  # each fit starts from the one before
        _minimise(network, tasks, training, learnt, penalty)
        with torch.no_grad():
            direct, truth = training if validation is None else validation
            loss = float(task_loss(_outputs(network, direct), truth, tasks))
        if best is None or loss < best.loss:
            best, kept = LinearStart(penalty, loss), [p.detach().clone() for p in learnt]
    assert best is not None
    with torch.no_grad():
        for parameter, value in zip(learnt, kept, strict=True):
            parameter.copy_(value)
    return best


def _outputs(network: UMEML, direct: Tensor) -> dict[str, Tensor]:
    state = direct.new_zeros(len(direct), network.config.width)
    return {name: head(state, direct) for name, head in network.heads.items()}


def _minimise(
    network: UMEML, tasks: Tasks, training: tuple[Tensor, Targets], learnt: list[torch.nn.Parameter], penalty: float
) -> None:
    optimiser = torch.optim.LBFGS(
        learnt, max_iter=ITERATIONS, tolerance_grad=1e-5, tolerance_change=1e-8, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        loss = task_loss(_outputs(network, training[0]), training[1], tasks) + penalty * penalty_of(network)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    optimiser.step(closure)  # type: ignore[no-untyped-call]
