"""Train one network on bags: the slides of the training folds, stopped by those of the validation fold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wsikit.errors import RequestError
from wsikit.models.mil_network import MilNetwork
from wsikit.models.umeml.losses import cox_loss
from wsikit.training.mil.cohort import Bag
from wsikit.training.mil.config import MilTrainConfig
from wsikit.training.mil.losses import assigned_loss, class_loss, hazard_loss, ordinal_loss, value_loss

_HELD_AT_ONCE = 16


@dataclass(frozen=True)
class MilEpoch:
    """What an epoch reports."""

    fold: int
    epoch: int
    loss: float
    """Mean over the training slides, weighted by class."""
    validation: float
    """The same over the validation slides."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """One trained network."""

    arrays: dict[str, npt.NDArray[np.float32]]
    """As `wsikit.models.mil` names them, without the member's number."""
    epoch: int
    """From 0, the one that was kept."""
    validation: float
    """Its loss on the validation slides."""
    seconds: float


@dataclass(frozen=True)
class Targets:
    """How labels become targets of a loss."""

    weights: tuple[float, ...] = ()
    """Of each class; empty: equal."""
    centre: float = 0.0
    spread: float = 1.0
    """regression: values are learned as (value − centre) / spread."""
    times: tuple[float, ...] = ()
    """survival: inner ends of the intervals."""

    @classmethod
    def of(cls, bags: Sequence[Bag], config: MilTrainConfig) -> Targets:
        """From the training slides."""
        values = np.array([bag.value for bag in bags])
        if config.task == "regression":
            return cls(centre=float(values.mean()), spread=float(values.std()) or 1.0)
        if config.task == "survival":
            if config.mil.survival == "cox":
                return cls()
            return cls(times=intervals(values, np.array([bag.event for bag in bags]), config.mil.intervals))
        if config.training.class_weights == "none":
            return cls()
        counts = np.bincount([bag.label for bag in bags], minlength=len(config.codes))
        return cls(weights=tuple((len(bags) / (np.count_nonzero(counts) * np.maximum(counts, 1))).tolist()))

    def interval(self, time: float) -> int:
        """Number of the interval that holds a time; an end belongs to the later interval."""
        return int(np.searchsorted(self.times, time, side="right"))


def intervals(times: npt.NDArray[np.floating], events: npt.NDArray[np.bool_], n: int) -> tuple[float, ...]:
    """Inner ends of n intervals with about equally many events in each; of all times where nothing happened.

    >>> intervals(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True] * 4), 2)
    (2.5,)
    """
    known = times[events] if events.any() else times
    return tuple(np.unique(np.quantile(known, np.arange(1, n) / n)).tolist())


def fit_member(
    training: Sequence[Bag],
    validation: Sequence[Bag],
    config: MilTrainConfig,
    targets: Targets,
    *,
    fold: int = 0,
    device: str = "cpu",
    on_epoch: Callable[[MilEpoch], None] = lambda record: None,
) -> Fitted:
    """Train one network; equal arguments give equal weights on the CPU.

    The weights of the epoch with the lowest loss on the validation slides are kept. Of regressions the last layer is
    turned back to the unit of the values.

    Raises
    ------
    RequestError
        Of Cox's model: if a part has no event while another of its slides is observed for longer.
    """
    begun = time.perf_counter()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = config.training
    if config.mil.survival == "cox":
        for name, part in (("training", training), ("validation", validation)):
            _check_comparable(part, f"fold {fold + 1}, {name} slides")
    torch.manual_seed(settings.seed * 1000 + fold)
    rng = np.random.default_rng([settings.seed, fold])
    network = new_network(training[0].features.shape[1], config, targets).to(device)
    standardise(network, training)
    data = [torch.as_tensor(bag.features).to(device) for bag in training]
    held = [torch.as_tensor(bag.features).to(device) for bag in validation]
    cuts = [network.first_cut, network.steps]
    others = [one for name, one in network.named_parameters() if name not in ("first_cut", "steps")]
    # few numbers with a long way to go, and no reason to be small
    groups: list[dict[str, Any]] = [{"params": others}, {"params": cuts, "lr": 10 * settings.lr, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)
    best, kept, state = math.inf, 0, {name: value.clone() for name, value in network.state_dict().items()}
    for epoch in range(settings.epochs):
        network.train()
        order, total = rng.permutation(len(training)), 0.0
        for first in range(0, len(order), settings.batch):
            chosen = order[first : first + settings.batch]
            parts = [_sample(data[index], settings.patches, rng) for index in chosen]
            loss = step_loss(network, parts, [training[index] for index in chosen], config, targets)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(chosen)
        found = mean_loss(network, held, validation, config, targets)
        on_epoch(MilEpoch(fold, epoch, total / len(order), found))
        if found < best:
            best, kept = found, epoch
            state = {name: value.clone() for name, value in network.state_dict().items()}
        elif epoch - kept >= settings.patience:
            break
    network.load_state_dict(state)
    arrays = network.arrays()
    if config.task == "regression":
        arrays["weight"] = (arrays["weight"] * targets.spread).astype(np.float32)
        arrays["bias"] = (arrays["bias"] * targets.spread + targets.centre).astype(np.float32)
    return Fitted(arrays, kept, best, time.perf_counter() - begun)


def new_network(width: int, config: MilTrainConfig, targets: Targets) -> MilNetwork:
    """The untrained network for features of this width."""
    settings = config.mil
    return MilNetwork(
        width,
        hidden=settings.hidden,
        attention=settings.attention,
        outputs=len(config.codes) if config.task == "classes" else 1,
        pooling=settings.pooling,
        task=config.task,
        alpha=settings.alpha,
        cuts=_cuts(config, targets),
        dropout=settings.dropout,
    )


def _cuts(config: MilTrainConfig, targets: Targets) -> int:
    """Thresholds of ordered classes, or levels of the hazard."""
    if config.task == "ordinal":
        return len(config.codes) - 1
    return len(targets.times) + 1 if config.task == "survival" and config.mil.survival == "discrete" else 0


def _check_comparable(bags: Sequence[Bag], where: str) -> None:
    times, events = np.array([bag.value for bag in bags]), np.array([bag.event for bag in bags])
    if not events.any() or (times[events].min() >= times).all():
        raise RequestError(
            f"{where}: no event while another slide is observed for longer, which Cox's model compares. Give fewer "
            "folds, more slides with an event, or mil: {survival: discrete}."
        )


def standardise(network: MilNetwork, bags: Sequence[Bag]) -> None:
    """Set mean and scale of the features, over all patches of the bags."""
    total = np.concatenate([bag.features for bag in bags]).astype(np.float64)
    scale = total.std(axis=0)
    network.mean.copy_(torch.as_tensor(total.mean(axis=0), dtype=torch.float32))
    network.scale.copy_(torch.as_tensor(np.where(scale > 1e-8, scale, 1.0), dtype=torch.float32))


def _sample(x: Tensor, most: int | None, rng: np.random.Generator) -> Tensor:
    """At most so many patches of a bag, drawn at random."""
    if most is None or len(x) <= most:
        return x
    return x[torch.as_tensor(rng.choice(len(x), most, replace=False)).to(x.device)]


def step_loss(
    network: MilNetwork, parts: Sequence[Tensor], bags: Sequence[Bag], config: MilTrainConfig, targets: Targets
) -> Tensor:
    """The loss of the slides of a step, a scalar: the mean over them; of Cox's model that of their events, with these
    slides as those at risk."""
    if config.mil.survival == "cox":
        return _cox_loss(slide_risks(network, parts), bags)
    return bag_losses(network, parts, bags, config, targets).mean()


def slide_risks(network: MilNetwork, parts: Sequence[Tensor]) -> Tensor:
    """(B,) logits of slides from the features of their patches, of a network with one output."""
    return torch.stack([network.pooled(scores, logits)[0] for scores, logits in _by_slide(network, parts)])


def _by_slide(network: MilNetwork, parts: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Scores and logits of the patches of each slide; the network sees all patches at once."""
    scores, logits = network(torch.cat(list(parts)))
    lengths = [len(part) for part in parts]
    return list(zip(scores.split(lengths), logits.split(lengths), strict=True))


def _cox_loss(risks: Tensor, bags: Sequence[Bag]) -> Tensor:
    """Cox's loss of log risks (B,); ties as Efron, as slides of one patient have one time."""
    times = torch.tensor([bag.value for bag in bags], dtype=torch.float64, device=risks.device)
    events = torch.tensor([bag.event for bag in bags], dtype=torch.bool, device=risks.device)
    return cox_loss(risks, times, events)


def bag_losses(
    network: MilNetwork, parts: Sequence[Tensor], bags: Sequence[Bag], config: MilTrainConfig, targets: Targets
) -> Tensor:
    """(B,) losses of slides from the features of their patches."""
    losses = [
        bag_loss(network, scores, logits, bag, config, targets)
        for (scores, logits), bag in zip(_by_slide(network, parts), bags, strict=True)
    ]
    return torch.stack(losses)


def bag_loss(
    network: MilNetwork, scores: Tensor, logits: Tensor, bag: Bag, config: MilTrainConfig, targets: Targets
) -> Tensor:
    """The loss of one slide from scores (N,) and logits (N, K) of its patches, times the weight of its class."""
    weight = targets.weights[bag.label] if targets.weights else 1.0
    if config.mil.pooling == "alpha_beta":
        return weight * assigned_loss(logits, bag.label, config.mil.alpha, config.mil.beta)
    z = network.pooled(scores, logits)
    if config.task == "classes":
        return weight * class_loss(z, bag.label)
    if config.task == "ordinal":
        return weight * ordinal_loss(z, network.cuts, bag.label)
    if config.task == "regression":
        return value_loss(z, (bag.value - targets.centre) / targets.spread)
    return hazard_loss(z, network.cuts, targets.interval(bag.value), bag.event)


@torch.no_grad()
def mean_loss(
    network: MilNetwork, data: Sequence[Tensor], bags: Sequence[Bag], config: MilTrainConfig, targets: Targets
) -> float:
    """Mean loss of slides; Cox's model compares all of them."""
    network.eval()
    cox = config.mil.survival == "cox"
    found = []
    for first in range(0, len(data), _HELD_AT_ONCE):
        some = slice(first, first + _HELD_AT_ONCE)
        of = slide_risks(network, data[some]) if cox else bag_losses(network, data[some], bags[some], config, targets)
        found.append(of)
    every = torch.cat(found)
    return float(_cox_loss(every, bags) if cox else every.mean())
