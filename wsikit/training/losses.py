"""Losses of MMLNB: fused, image, text, gate, and contrast of image features. Pure functions of a batch's output."""

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


def supervised_contrast(features: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, arXiv 2004.11362, L_out of equation 2).

    −1/|P(i)| · Σ_{p in P(i)} log( exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ) ), the mean over the patches i with a
    partner; z are the normalised features, P(i) the other patches of the class of i. 0 if no patch has a partner.

    Parameters
    ----------
    features : Tensor
        (B, D), of any length but 0.
    labels : Tensor
        int64 (B,).
    temperature : float
        τ.

    >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> right, wrong = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    >>> bool(supervised_contrast(features, right) < supervised_contrast(features, wrong))
    True
    """
    near = functional.normalize(features.float(), dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    partners = (labels[:, None] == labels[None, :]) & ~itself
    anchors = partners.any(dim=1)
    if not bool(anchors.any()):
        return features.sum() * 0.0
    likeness = (near @ near.T / temperature).masked_fill(itself, -torch.inf)
    log_share = likeness.log_softmax(dim=1).masked_fill(~partners, 0.0)[anchors]
    return -(log_share.sum(dim=1) / partners[anchors].sum(dim=1)).mean()


def _share_of_text(out: PRMFOutput, labels: Tensor) -> Tensor:
    """(B,) in [0, 1]: p_text(y) / (p_text(y) + p_image(y)); computed from logarithms, as both may underflow."""
    rows = labels.unsqueeze(1)
    text, image = (
        functional.log_softmax(logits.detach().float(), dim=1).gather(1, rows).squeeze(1)
        for logits in (out.logits_txt, out.logits_img)
    )
    return torch.sigmoid(text - image)
