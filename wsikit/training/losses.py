"""What MMLNB is taught: fused, image and text losses and the gate's. Pure functions of a batch's output."""

from __future__ import annotations

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
    """alpha·CE(fused) + (1−alpha)·CE(image) + lambda_text·CE(text) + lambda_gate·BCE(c, own text, head right).

    `labels` is int64 (B,); `present` and `own` are bool (B,): there is a caption, and it is the patch's own. A swapped
    caption teaches the gate to close, whatever it says, and the text head nothing; a missing one teaches neither.
    `weight`, float32 (C,), is how much each class counts in the cross-entropies.
    """
    loss = alpha * functional.cross_entropy(out.logits, labels, weight=weight)
    loss = loss + (1 - alpha) * functional.cross_entropy(out.logits_img, labels, weight=weight)
    if lambda_text and own.any():
        loss = loss + lambda_text * functional.cross_entropy(out.logits_txt[own], labels[own], weight=weight)
    if lambda_gate and present.any():
        right = ((out.logits_txt.detach().argmax(dim=1) == labels) & own)[present].float()
        c = out.reliability[present].float().mean(dim=1).clamp(1e-6, 1 - 1e-6)
        # by hand, as autocast forbids binary_cross_entropy
        loss = loss - lambda_gate * (right * c.log() + (1 - right) * (1 - c).log()).mean()
    return loss
