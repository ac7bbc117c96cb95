"""Attention blocks of UMEML: pre-norm self-attention with a key mask, and attention of a few queries to many patches.

Axes: B patients, K queries, N patches, T tokens, h heads, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    """

    def __init__(self, width: int, *, heads: int, normalisation: str) -> None:
        super().__init__()
        self.heads, self.normalisation = heads, normalisation
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        # biases of keys and values have no effect of their own: the former cancels in the softmax over patches, the
        # latter is a part of the bias of `out`
        self.key, self.value = (nn.Parameter(torch.empty(width, width)) for _ in range(2))
        for weight in (self.key, self.value):
            nn.init.xavier_uniform_(weight)

    def forward(self, queries: Tensor, patches: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the queries found (B, K, d); attention (B, K, N), each row sums to 1 over the patches; assignment
        (B, K, N), each patch's sums to 1 over the queries. Both are means over the heads, 0 for padding.

        `mask`, bool (B, N), is True where there is a patch. A patient without any finds zeros.
        """
        b, k, d = queries.shape
        h = self.heads
        q = self.query(queries).view(b, k, h, d // h)
        q = torch.einsum("bkhe,hed->bhkd", q, self.key.view(h, d // h, d)) * (d // h) ** -0.5
        scores = (q.reshape(b, h * k, d) @ patches.transpose(1, 2)).view(b, h, k, -1)
        there = mask[:, None, None, :]
        shares = scores.softmax(dim=2)  # over the queries, for each patch
        if self.normalisation == "slots":
            kept = shares * there
            weights = kept / kept.sum(dim=3, keepdim=True).clamp_min(torch.finfo(kept.dtype).tiny)
        else:
            weights = scores.masked_fill(~there, float("-inf")).softmax(dim=3).nan_to_num(0.0)
        found = (weights.reshape(b, h * k, -1) @ patches).view(b, h, k, d)
        found = torch.einsum("bhkd,hed->bkhe", found, self.value.view(h, d // h, d))
        result: Tensor = self.out(found.reshape(b, k, d))
        return result, weights.mean(dim=1), shares.mean(dim=1) * mask[:, None, :]
