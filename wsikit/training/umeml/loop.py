"""The training loop of UMEML: steps over patients, accumulated passes over their bags, early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsikit.errors import RequestError
from wsikit.models.umeml.network import UMEML, UmemlOutput
from wsikit.training.umeml.data import Batch, Patients
from wsikit.training.umeml.linear_start import LinearStart, penalty_of
from wsikit.training.umeml.mirror import MirrorLosses
from wsikit.training.umeml.settings import UmemlSettings
from wsikit.training.umeml.targets import Tasks, known_of, task_loss


@dataclass(frozen=True)
class Epoch:
    """One epoch, for the record."""

    epoch: int
    """0 is the start, before any step."""
    loss: float
    """Mean over the steps; NaN for the start."""
    validation: float
    """Loss of the tasks on the validation part; NaN without one."""
    modularity: float
    """Modularity term, mean over the steps."""


def forward(network: UMEML, batch: Batch) -> UmemlOutput:
    """The network on a batch."""
    found: UmemlOutput = network(batch.patches, batch.mask, batch.values, direct=batch.direct)
    return found


def train_network(
    network: UMEML,
    training: Patients,
    validation: Patients | None,
    tasks: Tasks,
    settings: UmemlSettings,
    *,
    seed: int,
    start: LinearStart | None,
    stop_after: int | None = None,
) -> tuple[list[Epoch], int]:
    """Train in place; return the epochs and the number of the one whose weights are kept.

    With a validation part that is the epoch of its lowest loss, the start included; else the last. `stop_after`: end
    after this epoch; the learning rate decays as if all `settings.epochs` were run.
    """
    torch.manual_seed(seed)
    groups, mirror = _decayed(network, settings.weight_decay), None
    if settings.mirror.retention or settings.mirror.cluster:
        mirror = _mirror(network, settings)
        groups.append({"params": list(mirror.parameters()), "weight_decay": settings.weight_decay})
    optimiser = torch.optim.AdamW(groups, lr=settings.lr, fused=True)
    per_epoch = math.ceil(len(training) / settings.batch)
    total = settings.epochs * per_epoch
    warm = max(1, round(settings.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, warm, total))
    ridge = start.penalty if start is not None else 0.0
    epochs = [Epoch(0, math.nan, validation_loss(network, validation, tasks, settings), math.nan)]
    best, kept = epochs[0].validation, 0
    weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    for epoch in range(1, (settings.epochs if stop_after is None else stop_after) + 1):
        network.train()
        order = np.random.default_rng([seed, epoch]).permutation(len(training))
        losses, terms = [], []
        for rows in np.array_split(order, per_epoch):
            optimiser.zero_grad()
            loss, term = _step(network, training, rows, tasks, settings, ridge, (seed, epoch), mirror)
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            schedule.step()
            losses.append(loss)
            terms.append(term)
        found = validation_loss(network, validation, tasks, settings)
        epochs.append(Epoch(epoch, float(np.mean(losses)), found, float(np.mean(terms))))
        if validation is None:
            kept = epoch
        elif found < best or math.isnan(best):
            best, kept = found, epoch
            weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
        elif settings.patience is not None and epoch - kept >= settings.patience:
            break
    if validation is not None:
        network.load_state_dict(weights)
    network.eval()
    return epochs, kept


def _step(
    network: UMEML,
    training: Patients,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    tasks: Tasks,
    settings: UmemlSettings,
    ridge: float,
    draw: tuple[int, int],
    mirror: MirrorLosses | None,
) -> tuple[float, float]:
    """Gradients of one step; loss and modularity term.

    Losses that are sums over patients go backward pass by pass, so memory holds the patches of one pass. Cox compares
    all patients of the step: their graphs are kept until its end.
    """
    targets = training.targets.take(torch.as_tensor(rows, device=training.device))
    known = {task.name: int(known_of(targets, task).sum()) for task in tasks.configs}
    kept: list[dict[str, Tensor]] = []
    loss = ridge * penalty_of(network)
    total, term = 0.0, 0.0
    for batch in training.batches(rows, together=settings.patches.together, most=settings.patches.most, draw=draw):
        found = forward(network, batch)
        if found.communities is not None:
            modularity = found.communities.loss.sum() / len(rows)
            loss = loss + settings.modularity.weight * modularity
            term += float(modularity.detach())
        if mirror is not None:
            loss = loss + mirror(network, found) * len(batch.rows) / len(rows)
        if tasks.by_batch:
            kept.append(found.tasks)
            continue
        loss = loss + task_loss(found.tasks, training.targets.take(batch.rows), tasks, known=known)
        total += float(loss.detach())
        loss.backward()  # type: ignore[no-untyped-call]
        loss = torch.zeros((), device=training.device)
    if tasks.by_batch:
        joined = {name: torch.cat([one[name] for one in kept]) for name in kept[0]}
        loss = loss + task_loss(joined, targets, tasks)
        total = float(loss.detach())
        loss.backward()  # type: ignore[no-untyped-call]
    return total, term


def _mirror(network: UMEML, settings: UmemlSettings) -> MirrorLosses:
    try:
        return MirrorLosses(settings.mirror, network.config).to(network.kinds.device)
    except ValueError as error:
        raise RequestError(f"umeml: {error}.") from error


@torch.no_grad()
def outputs_of(network: UMEML, patients: Patients, *, together: int) -> dict[str, Tensor]:
    """Outputs of all heads for all patients, in their order, from all patches."""
    network.eval()
    found = [forward(network, batch).tasks for batch in patients.batches(np.arange(len(patients)), together=together)]
    return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def validation_loss(network: UMEML, patients: Patients | None, tasks: Tasks, settings: UmemlSettings) -> float:
    """Loss of the tasks on all patches of the validation part; NaN without one."""
    if patients is None:
        return math.nan
    return float(task_loss(outputs_of(network, patients, together=settings.patches.together), patients.targets, tasks))


def _rate(step: int, warm: int, total: int) -> float:
    """Linear warm-up, then a cosine to 0."""
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def _decayed(network: UMEML, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices; none for biases, norms, and the direct columns, which have their ridge penalty."""
    with_decay: list[torch.nn.Parameter] = []
    without: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        decays = parameter.ndim > 1 and not (name.startswith("heads.") and ".direct." in name)
        (with_decay if decays else without).append(parameter)
    return [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]
