"""Losses that keep and compare two modalities of a patient: masked-token retention, style and cluster terms of MIRROR.

Wang et al., IEEE TMI 2025 (arXiv 2503.00374). Pure functions; "slide" and "RNA" of the paper are any two sets of
tokens or vectors here. `published=True` is the form of the published code, for comparison. The default differs from
it in two places: the style term takes exp(logstd) for the variance there, and assignments that underflow give an
infinite cluster term.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MASKED_SHARE = 0.75
"""Share of tokens that are masked, as published for both modalities."""
WEIGHTS = {"alignment": 0.5, "retention_slide": 0.1, "retention_rna": 0.1, "style": 0.1, "cluster": 0.2}
"""Weights of the terms in the published sum. Alignment is the symmetric contrastive loss."""


def draw_mask(present: Tensor, *, share: float = MASKED_SHARE, generator: torch.Generator | None = None) -> Tensor:
    """Draw the tokens to mask, bool (B, N): of the n tokens of a row that are present, all but ⌊(1 − share)·n⌋.

    One token of each row is kept at least, as there is nothing to reconstruct the others from otherwise. Padding is
    never masked.

    Parameters
    ----------
    present
        bool (B, N), True where there is a token.
    share
        0 to 1.
    generator
        For masks that can be drawn again.

    >>> mask = draw_mask(torch.tensor([[True] * 8, [True] * 4 + [False] * 4]), share=0.75)
    >>> mask.sum(dim=1).tolist(), mask[1, 4:].any().item()
    ([6, 3], False)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share {share} of masked tokens: it must lie between 0 and 1")
    order = torch.rand(present.shape, generator=generator, device=present.device).masked_fill(~present, 2.0)
    rank = order.argsort(dim=1).argsort(dim=1)  # padding comes last
    n = present.sum(dim=1)
    kept = ((1 - share) * n + 1e-6).floor().clamp(min=1)
    return present & (rank >= kept[:, None])


def mask_tokens(tokens: Tensor, mask: Tensor, token: Tensor) -> Tensor:
    """(B, N, d) tokens with `token` (d,) in place of those of `mask` (bool, (B, N)).

    >>> mask_tokens(torch.ones(1, 2, 3), torch.tensor([[False, True]]), torch.zeros(3)).tolist()
    [[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]
    """
    return torch.where(mask[..., None], token.to(tokens.dtype), tokens)


def retention(reconstructed: Tensor, target: Tensor, mask: Tensor, *, published: bool = False) -> Tensor:
    """Mean squared error of the masked tokens: Σ m·mean_d (r − t)² / Σ m. Visible tokens and padding do not count.

    Parameters
    ----------
    reconstructed, target
        (B, N, d) tokens, or (B, N) values of a vector, such as genes.
    mask
        bool (B, N), True where the token was masked.
    published
        0 / 0 = NaN where nothing is masked, as published. The default gives 0.

    >>> r, t = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 0.0]])
    >>> retention(r, t, torch.tensor([[True, False]])).item()
    4.0
    """
    error = (reconstructed - target) ** 2
    if error.ndim == mask.ndim + 1:
        error = error.mean(dim=-1)
    if error.shape != mask.shape:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for tokens of shape {tuple(reconstructed.shape)}")
    count = mask.sum()
    return (error * mask).sum() / (count if published else count.clamp(min=1))


def style_kl(mean: Tensor, logstd: Tensor, *, published: bool = False) -> Tensor:
    """KL(N(mean, exp(logstd)²) ‖ N(0, 1)), summed over the dimensions, mean of the batch.

    ½ Σ_k (exp(2s) + m² − 1 − 2s). `published`: ½ Σ_k (exp(s) + m² − 1 − s), which takes exp(logstd) for the variance:
    its minimum is the same, elsewhere it is another function of s.

    Parameters
    ----------
    mean, logstd
        (B, K).

    >>> half = torch.tensor([[0.5]]).log()
    >>> round(style_kl(torch.zeros(1, 1), half).item(), 4)  # ½ (0.25 − 1 + 2 ln 2)
    0.3181
    >>> round(style_kl(torch.zeros(1, 1), half, published=True).item(), 4)  # ½ (0.5 − 1 + ln 2)
    0.0966
    """
    log_variance = logstd if published else 2 * logstd
    return 0.5 * (log_variance.exp() + mean**2 - 1.0 - log_variance).sum(dim=1).mean()


def cluster_kl(first: Tensor, second: Tensor, *, published: bool = False) -> Tensor:
    """Symmetric KL divergence of two soft assignments to K prototypes: ½ (KL(p‖q) + KL(q‖p)), mean of the batch.

    It is smallest where both modalities of a patient have the same prototypes, and also where both assign all patients
    to all of them equally: use it with a term that keeps the assignments apart, such as alignment.

    Parameters
    ----------
    first, second
        (B, K) scores before softmax, of one modality each.
    published
        The logarithm of the softmax, as published: infinite where a probability underflows to 0. The default is finite.

    >>> p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> round(cluster_kl(p, q).item(), 4)  # ½ (½ ln 2 + ½ ln ⅔ + ¼ ln ½ + ¾ ln 1½)
    0.1373
    """
    if first.shape != second.shape:
        raise ValueError(f"assignments of shapes {tuple(first.shape)} and {tuple(second.shape)}: they must be equal")
    if published:
        p, q = first.softmax(dim=-1), second.softmax(dim=-1)
        log_p, log_q = p.log(), q.log()
    else:
        log_p, log_q = functional.log_softmax(first, dim=-1), functional.log_softmax(second, dim=-1)
        p, q = log_p.exp(), log_q.exp()
    backward = functional.kl_div(log_p, q, reduction="batchmean")  # KL(q ‖ p)
    forward = functional.kl_div(log_q, p, reduction="batchmean")
    return 0.5 * (forward + backward)
