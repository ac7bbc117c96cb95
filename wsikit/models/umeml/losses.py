"""Losses of UMEML's tasks: discrete-time survival, Cox with ties, ordered classes. Axes: B patients, T intervals.

Times are in months, or any unit; only their order and their interval count.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def log_survival(logits: Tensor) -> Tensor:
    """log S_t = Σ_{u ≤ t} log(1 − h_u), (B, T), of hazards h = sigmoid(`logits`), computed without overflow.

    >>> log_survival(torch.zeros(1, 2)).exp().tolist()
    [[0.5, 0.25]]
    """
    return functional.logsigmoid(-logits).cumsum(dim=1)


def discrete_nll(logits: Tensor, interval: Tensor, censored: Tensor, *, uncensored_share: float = 0.0) -> Tensor:
    """Negative log-likelihood of discrete hazards (Zadeh and Schmid 2020, as in MCAT), mean over the patients.

    ℓ = −(1 − c)·[log S_{y−1} + log h_y] − c·log S_y, with S_{−1} = 1. Everything is computed from logits, so a hazard
    of 0 or 1 gives no infinity; a patient censored in the last interval is finite.

    Parameters
    ----------
    logits : Tensor
        (B, T), one hazard per interval.
    interval : Tensor
        int64 (B,): y, the interval of the event or of censoring, 0 to T − 1.
    censored : Tensor
        Bool (B,): c.
    uncensored_share : float
        α_s: the loss is (1 − α_s)·(all) + α_s·(uncensored); 0, and MCAT's `nll_surv` default.
    """
    survived = log_survival(logits)
    rows = torch.arange(len(logits), device=logits.device)
    before = torch.where(interval > 0, survived[rows, (interval - 1).clamp_min(0)], 0.0)
    event = -(before + functional.logsigmoid(logits[rows, interval]))
    every = torch.where(censored, -survived[rows, interval], event)
    only = torch.where(censored, 0.0, event)
    return ((1 - uncensored_share) * every + uncensored_share * only).mean()


def discrete_risk(logits: Tensor) -> Tensor:
    """Risk −Σ_t S_t, (B,): minus the expected number of intervals survived. Higher means earlier."""
    return -log_survival(logits).exp().sum(dim=1)


def cox_loss(log_risk: Tensor, time: Tensor, event: Tensor, *, ties: str = "efron") -> Tensor:
    """Negative log partial likelihood of Cox's model, mean over the events; 0 if there is none.

    Parameters
    ----------
    log_risk : Tensor
        (B,).
    time : Tensor
        (B,): of event or censoring.
    event : Tensor
        Bool (B,).
    ties : "efron" or "breslow"
        How events at equal times are treated. A patient censored at the time of an event is at risk then.
    """
    order = torch.argsort(time, descending=True, stable=True)
    risk, when, died = log_risk[order], time[order], event[order]
    # the last row of each distinct time, in descending order, has everyone at risk before it
    _, group, counts = torch.unique_consecutive(when, return_inverse=True, return_counts=True)
    at_risk = torch.logcumsumexp(risk, dim=0)[counts.cumsum(0) - 1]  # (times,)
    deaths = torch.zeros_like(at_risk).index_add_(0, group, died.to(risk.dtype))
    if ties == "breslow":
        terms = deaths * at_risk
        return (torch.where(deaths > 0, terms, 0.0).sum() - risk[died].sum()) / deaths.sum().clamp_min(1)
    rows = torch.nonzero(died).squeeze(1)
    if not len(rows):
        return log_risk.sum() * 0.0
    of = group[rows]
    # Efron: the l-th of m tied events has l/m of the tied events' risk taken out of the risk set
    first = torch.zeros_like(counts).index_add_(0, of, torch.ones_like(of)).cumsum(0)
    rank = torch.arange(len(rows), device=rows.device) - (first - deaths.to(first.dtype))[of]
    share = rank / deaths[of]
    shift = risk.detach().max()
    tied = torch.zeros_like(at_risk).index_add(0, of, (risk[rows] - shift).exp())
    left = (at_risk[of] - shift).exp() - share * tied[of]
    smallest = torch.finfo(left.dtype).tiny
    return (left.clamp_min(smallest).log() + shift - risk[rows]).sum() / len(rows)


def ordinal_loss(score: Tensor, cuts: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy of cumulative logits (proportional odds, McCullagh 1980): P(class > k) = sigmoid(score − cut_k).

    `score` (B,), `cuts` (C − 1,) increasing, `labels` int64 (B,), `weight` (C,) per class.
    """
    return functional.nll_loss(ordinal_log_probs(score, cuts), labels, weight=weight)


def ordinal_log_probs(score: Tensor, cuts: Tensor) -> Tensor:
    """Logarithms of the class probabilities (B, C) of cumulative logits.

    >>> [round(p, 3) for p in ordinal_log_probs(torch.zeros(1), torch.tensor([-1.0, 1.0])).exp()[0].tolist()]
    [0.269, 0.462, 0.269]
    """
    above = score[:, None] - cuts  # (B, C − 1)
    first = functional.logsigmoid(-above[:, :1])
    last = functional.logsigmoid(above[:, -1:])
    # log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − e^(b − a)), without cancellation
    between = (cuts[1:] - cuts[:-1]).clamp_min(1e-6)
    middle = functional.logsigmoid(above[:, :-1]) + functional.logsigmoid(-above[:, 1:])
    middle = middle + torch.log1p(-torch.exp(-between))
    return torch.cat([first, middle, last], dim=1)
