"""BERT in plain torch, with the parameter names of transformers' `BertModel`; importing transformers takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-12  # of the norms of every published BERT


class _Embeddings(nn.Module):
    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, ids: Tensor) -> Tensor:
        places = self.position_embeddings.weight[: ids.shape[1]]
        x: Tensor = self.LayerNorm(self.word_embeddings(ids) + places + self.token_type_embeddings.weight[0])
        return x


class _Looking(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=given[:, None, None, :])
        return seen.transpose(1, 2).flatten(2)


class _Output(nn.Module):
    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(given, width)
        self.LayerNorm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(x) + shortcut)
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": _Looking(width, heads), "output": _Output(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _Output(hidden, width)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x, given), x)
        out: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return out


class Bert(nn.Module):
    """Ids (K, L) and where they are not filling (K, L) to the pooled text (K, width)."""

    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, *, hidden: int, positions: int) -> None:
        super().__init__()
        self.embeddings = _Embeddings(vocabulary, width, positions)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(width, heads, hidden) for _ in range(layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, ids: Tensor, given: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, given)
        pooled: Tensor = torch.tanh(self.pooler["dense"](x[:, 0]))
        return pooled
