"""Parts of a CoCa: pooling by learned queries, and a causal text transformer with a class token at its end."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class QueryPool(nn.Module):
    """Learned queries that attend to the tokens of an image: (B, N, context) to (B, queries, width)."""

    def __init__(self, width: int, context: int, *, heads: int = 8, queries: int = 1) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(queries, width))
        self.attn = nn.MultiheadAttention(width, heads, kdim=context, vdim=context, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.ln_k(tokens)
        queries = self.ln_q(self.query).expand(len(tokens), -1, -1)
        pooled: Tensor = self.attn(queries, keys, keys, need_weights=False)[0]
        return pooled


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=nn.GELU(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, width); mask, bool (B, L, L), is true where a row may not look."""
        normed = self.ln_1(x)
        per_head = mask.repeat_interleave(self.heads, 0)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=per_head)[0]
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _Blocks(nn.Module):
    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class CausalText(nn.Module):
    """Causal text transformer; a learned class token, put after the ids, gathers the text.

    The class token looks at the places one to the right of the ids that are not filling: at one filling token more,
    and (unless the text fills the context) not at itself. This is how CoCa's models of open_clip were trained, and
    with another mask their features would be others.
    """

    def __init__(self, width: int, layers: int, heads: int, *, vocabulary: int, context: int, out: int) -> None:
        super().__init__()
        self.text_projection = nn.Parameter(torch.zeros(width, out))
        self.cls_emb = nn.Parameter(torch.zeros(width))
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.zeros(context, width))
        self.transformer = _Blocks(width, layers, heads)
        self.ln_final = nn.LayerNorm(width)

    def forward(self, ids: Tensor, given: Tensor) -> Tensor:
        """Ids, int64 (K, context - 1), and where they are not filling, bool of the same shape, to (K, out)."""
        length = ids.shape[1] + 1
        class_token = self.cls_emb.expand(len(ids), 1, -1)
        x = torch.cat([self.token_embedding(ids), class_token], dim=1) + self.positional_embedding[:length]
        mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1).repeat(len(ids), 1, 1)
        mask[:, -1, 1:] = ~given
        pooled: Tensor = self.ln_final(self.transformer(x, mask)[:, -1]) @ self.text_projection
        return pooled
