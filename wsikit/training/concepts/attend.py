"""Training of the attention of a concept head and of its linear layer, together: loss = cross-entropy of the class +
mean over the axes of the cross-entropy of the option (Explicd, arXiv 2406.05596).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.concept_attention import ConceptAttention, concept_loss
from wsikit.models.concept_criteria import Criteria
from wsikit.training.concepts.config import AttendSettings
from wsikit.training.heads.fits import Labels, standard

Floats = npt.NDArray[np.float32]

_AT_ONCE = 256
_KEEP = 0.9
"""Share of the former mean that a batch keeps, in the running means of scores by option."""


@dataclass(frozen=True)
class Attended:
    """What training gives."""

    attention: ConceptAttention
    weight: npt.NDArray[np.float64]
    """(S, C)"""
    bias: npt.NDArray[np.float64]
    """(C,)"""
    set_to: npt.NDArray[np.float64]
    """(S, S): mean scores of the training patches of each option, in the columns of its axis."""
    selection: dict[str, Any]


def train_attention(
    training: tuple[Floats, Labels, Labels],
    validation: tuple[Floats, Labels, Labels],
    criteria: Criteria,
    anchors: npt.NDArray[np.floating],
    settings: AttendSettings,
    *,
    n_classes: int,
    seed: int,
    on_epoch: Callable[[int, float, float], None] = lambda epoch, loss, accuracy: None,
) -> Attended:
    """Train on tokens (N, T, D), classes (N,) and options (N, K); the epoch with the best balanced accuracy on the
    validation part is kept."""
    tokens, labels, concepts = training
    columns = criteria.columns
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    attention = ConceptAttention(
        tokens.shape[2], torch.from_numpy(np.asarray(anchors, np.float32)), columns,
        width=settings.width, heads=settings.heads, dropout=settings.dropout,
    )  # fmt: skip
    mean, scale = standard(tokens.reshape(-1, tokens.shape[2]))
    attention.mean.copy_(torch.from_numpy(mean))
    attention.scale.copy_(torch.from_numpy(scale))
    layer = nn.Linear(criteria.n_options, n_classes)
    learnt = [*attention.parameters(), *layer.parameters()]
    optimizer = torch.optim.AdamW(learnt, lr=settings.lr, weight_decay=settings.weight_decay)
    running = torch.zeros(criteria.n_options, criteria.n_options)
    best: tuple[float, int, dict[str, Tensor], dict[str, Tensor]] = (-1.0, 0, {}, {})
    curve: list[dict[str, float]] = []
    for epoch in range(settings.epochs):
        attention.train()
        losses = []
        for rows in np.array_split(rng.permutation(len(tokens)), -(-len(tokens) // settings.batch)):
            scores = attention(torch.from_numpy(tokens[rows]))
            known = torch.from_numpy(concepts[rows])
            _update(running, scores.detach(), known, columns)
            shown = _intervened(scores, known, running, columns, settings.interventions, rng)
            loss = functional.cross_entropy(layer(shown), torch.from_numpy(labels[rows]))
            loss = loss + concept_loss(scores, known, columns)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        accuracy = _balanced(attention, layer, validation[0], validation[1], n_classes)
        curve.append({"loss": round(float(np.mean(losses)), 4), "balanced_accuracy": round(accuracy, 4)})
        on_epoch(epoch, curve[-1]["loss"], accuracy)
        if accuracy > best[0]:
            best = (accuracy, epoch, copy.deepcopy(attention.state_dict()), copy.deepcopy(layer.state_dict()))
        if epoch - best[1] >= settings.patience:
            break
    attention.load_state_dict(best[2])
    layer.load_state_dict(best[3])
    attention.eval()
    set_to = mean_scores(scores_of_tokens(attention, tokens), concepts, columns)
    chosen = {"epoch": best[1] + 1, "chosen_by": "balanced accuracy on the validation part", "curve": curve}
    return Attended(
        attention,
        layer.weight.detach().double().numpy().T.copy(),
        layer.bias.detach().double().numpy(),
        set_to,
        chosen,
    )


@torch.inference_mode()
def scores_of_tokens(attention: ConceptAttention, tokens: Floats) -> npt.NDArray[np.float64]:
    """Scores (N, S) of tokens (N, T, D)."""
    starts = range(0, len(tokens), _AT_ONCE)
    parts = [attention(torch.from_numpy(tokens[first : first + _AT_ONCE])).double().numpy() for first in starts]
    return np.concatenate(parts)


def mean_scores(
    scores: npt.NDArray[np.float64], concepts: Labels, columns: tuple[slice, ...]
) -> npt.NDArray[np.float64]:
    """Mean scores of the patches of each option in the columns of its axis, (S, S); of an option without patches, the
    mean of all, with the axis' greatest score moved to it."""
    found = np.zeros((scores.shape[1],) * 2)
    for axis, of_axis in enumerate(columns):
        part = scores[:, of_axis]
        for option in range(part.shape[1]):
            rows = concepts[:, axis] == option
            if rows.any():
                values = part[rows].mean(axis=0)
            else:
                values = part.mean(axis=0)
                greatest = int(values.argmax())
                values[[option, greatest]] = values[[greatest, option]]
            found[of_axis.start + option, of_axis] = values
    return found


def _update(running: Tensor, scores: Tensor, known: Tensor, columns: tuple[slice, ...]) -> None:
    """Move the running mean scores of each option towards those of a batch."""
    for axis, of_axis in enumerate(columns):
        for option in range(of_axis.stop - of_axis.start):
            rows = known[:, axis] == option
            if bool(rows.any()):
                row, new = running[of_axis.start + option, of_axis], scores[rows, of_axis].mean(dim=0)
                started = bool(row.abs().sum() > 0)
                row.copy_(_KEEP * row + (1 - _KEEP) * new if started else new)


def _intervened(
    scores: Tensor,
    known: Tensor,
    running: Tensor,
    columns: tuple[slice, ...],
    share: float,
    rng: np.random.Generator,
) -> Tensor:
    """Scores with those of some axes replaced by the mean scores of the true option."""
    if not share:
        return scores
    parts = []
    drawn = torch.from_numpy(rng.random(known.shape) < share) & (known >= 0)
    for axis, of_axis in enumerate(columns):
        true = running[of_axis, of_axis][known[:, axis].clamp(min=0)]
        parts.append(torch.where(drawn[:, axis, None], true, scores[:, of_axis]))
    return torch.cat(parts, dim=1)


def _balanced(attention: ConceptAttention, layer: nn.Linear, tokens: Floats, labels: Labels, n_classes: int) -> float:
    attention.eval()
    with torch.inference_mode():
        called = layer(torch.from_numpy(scores_of_tokens(attention, tokens)).float()).argmax(dim=1).numpy()
    recalls = [
        float((called[labels == label] == label).mean()) for label in range(n_classes) if (labels == label).any()
    ]
    return float(np.mean(recalls))
