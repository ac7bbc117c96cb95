"""Losses of a bag: classes, ordered classes, values, survival in discrete time, and MIL(α, β) on patches.

z (K,) are the logits of a slide; every loss is a scalar, of one slide.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsikit.models.mil_pooling import assigned, evidence_scores


def class_loss(z: Tensor, label: int) -> Tensor:
    """Cross-entropy of logits (C,)."""
    return functional.cross_entropy(z[None], torch.tensor([label], device=z.device))


def ordinal_loss(z: Tensor, cuts: Tensor, label: int) -> Tensor:
    """Sum of the binary cross-entropies of "higher than class k", with logits z − cut k.

    Cao, Mirjalili and Raschka 2020 (CORAL): one score for all thresholds.
    """
    above = (label > torch.arange(len(cuts), device=z.device)).to(z.dtype)
    return functional.binary_cross_entropy_with_logits(z[0] - cuts, above, reduction="sum")


def value_loss(z: Tensor, value: float) -> Tensor:
    """Squared error."""
    return (z[0] - value) ** 2


def hazard_loss(z: Tensor, levels: Tensor, interval: int, event: bool) -> Tensor:
    """Negative log-likelihood of a time in discrete time.

    The hazard of interval j is σ(level j + z): proportional odds (Cox 1972, section 8), so one value per slide orders
    all slides. `interval` is that of the event or of the end of observation; who is censored in an interval has
    survived it, as in Zadeh and Schmid 2020.
    """
    logits = levels + z[0]
    survived = functional.softplus(logits)  # −log(1 − h)
    if event:
        return survived[:interval].sum() + functional.softplus(-logits[interval])
    return survived[: interval + 1].sum()


def assigned_loss(logits: Tensor, label: int, alpha: float, beta: float) -> Tensor:
    """MIL(α, β): cross-entropy of patches with logits (n, C), mean over the patches that are used.

    Every patch of a slide of class 0 is of class 0. In a slide of class c, of the patches ranked by their log odds of
    c, the top share α is of class c and the bottom share β of class 0 (`wsikit.models.mil_pooling.assigned`).
    """
    n = len(logits)
    if label == 0:
        return functional.cross_entropy(logits, torch.zeros(n, dtype=torch.long, device=logits.device))
    two = logits.detach().cpu().double().numpy()[:, [0, label]]
    positive, negative = (
        torch.as_tensor(part, dtype=logits.dtype).to(logits.device)
        for part in assigned(evidence_scores(two, "classes", "alpha_beta"), alpha, beta)
    )
    logs = functional.log_softmax(logits, dim=1)
    loss = -(positive * logs[:, label] + negative * logs[:, 0]).sum()
    return loss / (positive.sum() + negative.sum())
