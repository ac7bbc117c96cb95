"""Losses of MMLNB: fused, image, text and gate. Pure functions of a batch's output."""

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
    """alpha·CE(fused) + (1−alpha)·CE(image) + lambda_text·CE(text) + lambda_gate·BCE(c, value of the text).

    `labels` is int64 (B,); `present` and `own` are bool (B,): a caption is present; it is the patch's own. A swapped
    caption trains the gate to close, whatever its content, and does not train the text head; a missing caption trains
    neither. `weight`, float32 (C,), are the class weights of the cross-entropies.

    The value of an own text is its share of the evidence for the truth, p_text(y) / (p_text(y) + p_image(y)). If the
    target were whether the text head is correct, a text that is correct wherever the image is would replace the image.
    """
    loss = alpha * functional.cross_entropy(out.logits, labels, weight=weight)
    loss = loss + (1 - alpha) * functional.cross_entropy(out.logits_img, labels, weight=weight)
    if lambda_text and own.any():
        loss = loss + lambda_text * functional.cross_entropy(out.logits_txt[own], labels[own], weight=weight)
    if lambda_gate and present.any():
        worth = (_share_of_text(out, labels) * own)[present]
        c = out.reliability[present].float().mean(dim=1).clamp(1e-6, 1 - 1e-6)
        # written out, as autocast does not allow binary_cross_entropy
        loss = loss - lambda_gate * (worth * c.log() + (1 - worth) * (1 - c).log()).mean()
    return loss


def _share_of_text(out: PRMFOutput, labels: Tensor) -> Tensor:
    """(B,) in [0, 1]: p_text(y) / (p_text(y) + p_image(y)); computed from logarithms, as both may underflow."""
    rows = labels.unsqueeze(1)
    text, image = (
        functional.log_softmax(logits.detach().float(), dim=1).gather(1, rows).squeeze(1)
        for logits in (out.logits_txt, out.logits_img)
    )
    return torch.sigmoid(text - image)
