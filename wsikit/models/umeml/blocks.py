"""Attention blocks of UMEML: pre-norm self-attention with a key mask, and attention of a few queries to many patches.

Axes: B patients, K queries, N patches, T tokens, h heads, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SHARPNESS = 4.0
"""Factor of the first scores where queries compete. A competition that is soft at the start stays soft: all prototypes
then are the mean of the slide."""


class FeedForward(nn.Module):
    """LayerNorm, linear, GELU, dropout, linear; added to its input (B, T, d)."""

    def __init__(self, width: int, *, hidden: int, drop: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(drop), nn.Linear(hidden, width)
        )
        self.drop = nn.Dropout(drop)

    def forward(self, tokens: Tensor) -> Tensor:
        added: Tensor = tokens + self.drop(self.body(tokens))
        return added


class SelfAttentionBlock(nn.Module):
    """Pre-norm transformer block. Keys where `mask` (B, T) is False are not attended to."""

    def __init__(self, width: int, *, heads: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.heads, self.drop_p = heads, drop
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(drop)
        self.feed = FeedForward(width, hidden=hidden, drop=drop)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        b, t, d = tokens.shape
        q, k, v = self.qkv(self.norm(tokens)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        keys = None if mask is None else mask[:, None, None, :]
        # a row whose keys are all masked would be NaN; task tokens are never masked, so there is none
        found = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=keys, dropout_p=self.drop_p if self.training else 0.0
        )
        fed: Tensor = self.feed(tokens + self.drop(self.out(found.transpose(1, 2).reshape(b, t, d))))
        return fed


class QueryAttention(nn.Module):
    """Multi-head attention of few queries (B, K, d) to many patches (B, N, d), in memory linear in N.

    The usual keys W_k x and values W_v x of every patch are never made. As q·(W_k x) = (W_kᵀ q)·x and
    Σ a (W_v x) = W_v Σ a x, the projections move to the K queries and their K results. This is the same function with
    the same weights, at K·h instead of 2·d multiplications per number of a patch.

    Parameters
    ----------
    width, heads : int
        d, h.
    normalisation : "slots" or "patches"
        See `wsikit.models.umeml.config.PatchConfig`.
    pooling : "heads" or "shared"
        Each head sums the patches by its own weights; or all by the mean of the heads' weights, which costs 1/h.
    """

    def __init__(self, width: int, *, heads: int, normalisation: str, pooling: str = "heads") -> None:
        super().__init__()
        self.heads, self.normalisation, self.pooling = heads, normalisation, pooling
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        # biases of keys and values have no effect of their own: the former cancels in the softmax over patches, the
        # latter is a part of the bias of `out`
        self.key, self.value = (nn.Parameter(torch.empty(width, width)) for _ in range(2))
        # scores start as inner products of queries and patches, rotated: a query near a group of patches finds it
        nn.init.orthogonal_(self.key)
        with torch.no_grad():
            self.query.weight.copy_(SHARPNESS * self.key if normalisation == "slots" else self.key)
        nn.init.xavier_uniform_(self.value)

    def forward(
        self, queries: Tensor, patches: Tensor, mask: Tensor | None, keep: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the queries found (B, K, d), and the scores (B, N, h, K); see `attention_of` and `assignment_of`.

        `mask`, bool (B, N), is True where there is a patch; None: everywhere. A patient without any finds zeros.
        `keep` (B, d) multiplies the patches' features, as dropout does, without a pass over them.
        """
        b, k, d = queries.shape
        h = self.heads
        q = self.query(queries).view(b, k, h, d // h)
        q = torch.einsum("bkhe,hed->bhkd", q, self.key.view(h, d // h, d)) * (d // h) ** -0.5
        if keep is not None:
            q = q * keep[:, None, None, :]
        scores = (patches @ q.reshape(b, h * k, d).transpose(1, 2)).view(b, -1, h, k)
        if self.normalisation == "slots":
            weights = scores.softmax(dim=3)
            if mask is not None:
                weights = weights * mask[:, :, None, None]
            sums = weights.sum(dim=1).clamp_min(torch.finfo(weights.dtype).tiny)  # (B, h, K)
        else:
            if mask is not None:
                scores = scores.masked_fill(~mask[:, :, None, None], torch.finfo(scores.dtype).min)
            weights = scores.softmax(dim=1)
            if mask is not None:  # a patient without patches
                weights = weights * mask.any(dim=1)[:, None, None, None]
            sums = weights.new_ones(b, h, k)
        if self.pooling == "heads":
            found = (weights.flatten(2).transpose(1, 2) @ patches).view(b, h, k, d) / sums[..., None]
        else:
            # mean over the heads of weights / sums, as a product with (B, h·K, K): one pass over the patches' weights
            mean = (torch.eye(k, device=sums.device) / (h * sums[..., None])).view(b, h * k, k)
            shared = weights.flatten(2) @ mean  # (B, N, K)
            found = (shared.transpose(1, 2) @ patches)[:, None].expand(-1, h, -1, -1)
        if keep is not None:
            found = found * keep[:, None, None, :]
        found = torch.einsum("bhkd,hed->bkhe", found, self.value.view(h, d // h, d))
        result: Tensor = self.out(found.reshape(b, k, d))
        return result, scores


def assignment_of(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Which query a patch belongs to, (B, K, N): softmax over the queries, mean over the heads; 0 for padding.

    `scores` (B, N, h, K), `mask` bool (B, N).

    >>> assignment_of(torch.zeros(1, 3, 2, 4), None)[0, :, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    shares = scores.softmax(dim=3).mean(dim=2).transpose(1, 2)
    return shares if mask is None else shares * mask[:, None, :]


def attention_of(scores: Tensor, mask: Tensor | None, normalisation: str) -> Tensor:
    """Which patches a query found, (B, K, N): mean over the heads; sums to 1 over the patches, 0 for padding."""
    there = torch.ones_like(scores[:, :, 0, 0], dtype=torch.bool) if mask is None else mask
    there = there[:, :, None, None]
    if normalisation == "slots":
        shares = scores.softmax(dim=3) * there
        weights = shares / shares.sum(dim=1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
    else:
        weights = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(dim=1) * there
    return weights.mean(dim=2).transpose(1, 2)
