"""What MMLNB is taught: fused, image and text losses and the gate's. Pure functions of a batch's output."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsikit.models.prmf import PRMFOutput


def loss_of(
    out: PRMFOutput,
    labels: Tensor,
    *,
    present: Tensor,
    own: Tensor,
    alpha: float,
    lambda_text: float = 0.0,
    lambda_gate: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """alpha·CE(fused) + (1−alpha)·CE(image) + lambda_text·CE(text) + lambda_gate·BCE(c, what the text is worth).

    `labels` is int64 (B,); `present` and `own` are bool (B,): there is a caption, and it is the patch's own. A swapped
    caption teaches the gate to close, whatever it says, and the text head nothing; a missing one teaches neither.
    `weight`, float32 (C,), is how much each class counts in the cross-entropies.

    What an own text is worth is its share of the evidence for the truth, p_text(y) / (p_text(y) + p_image(y)). Were it
    whether the text head is right, a text that is right wherever the image is would take the image's place.
    """
    loss = alpha * functional.cross_entropy(out.logits, labels, weight=weight)
    loss = loss + (1 - alpha) * functional.cross_entropy(out.logits_img, labels, weight=weight)
    if lambda_text and own.any():
        loss = loss + lambda_text * functional.cross_entropy(out.logits_txt[own], labels[own], weight=weight)
    if lambda_gate and present.any():
        worth = (_share_of_text(out, labels) * own)[present]
        c = out.reliability[present].float().mean(dim=1).clamp(1e-6, 1 - 1e-6)
        # by hand, as autocast forbids binary_cross_entropy
        loss = loss - lambda_gate * (worth * c.log() + (1 - worth) * (1 - c).log()).mean()
    return loss


def _share_of_text(out: PRMFOutput, labels: Tensor) -> Tensor:
    """(B,) in [0, 1]: p_text(y) / (p_text(y) + p_image(y)); by logarithms, as both may vanish."""
    rows = labels.unsqueeze(1)
    text, image = (
        functional.log_softmax(logits.detach().float(), dim=1).gather(1, rows).squeeze(1)
        for logits in (out.logits_txt, out.logits_img)
    )
    return torch.sigmoid(text - image)
