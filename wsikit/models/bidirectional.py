"""Two sets of tokens that attend to themselves and to each other: IRENE's bidirectional multimodal attention.

Zhou et al., Nat Biomed Eng 2023 (arXiv 2306.00864). In a block, each side asks with one query both its own tokens and
those of the other side; the mean of both answers updates it. Two such blocks are followed by plain self-attention over
all tokens. `published=True` uses one output projection for both sides, as the published code does; there, that of the
second side has no effect.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.clinical_tokens import ClinicalColumns, ClinicalRows, ClinicalTokens


class BidirectionalBlock(nn.Module):
    """Update tokens a (B, N, d) and b (B, M, d) by self- and cross-attention; both results have the same shapes.

    Parameters
    ----------
    dim, heads
        d, and heads of the attention; d is a multiple of it.
    hidden
        Width of the feed-forward layers.
    dropout
        Rate within the feed-forward layers and on the attention's output.
    published
        One output projection for both sides.

    >>> block = BidirectionalBlock(8, heads=2, hidden=16)
    >>> seen = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    >>> a, b = block(torch.randn(2, 5, 8), torch.randn(2, 3, 8), *seen)
    >>> tuple(a.shape), tuple(b.shape)
    ((2, 5, 8), (2, 3, 8))
    """

    def __init__(self, dim: int, *, heads: int, hidden: int, dropout: float = 0.0, published: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"tokens of width {dim} in {heads} heads: the width must be a multiple of the heads")
        self.heads, self.published = heads, published
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(dim, dim) for _ in range(1 if published else 2))
        self.drop = nn.Dropout(dropout)
        self.feed = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim)
            )
            for _ in range(2)
        )

    def forward(self, a: Tensor, b: Tensor, seen_a: Tensor, seen_b: Tensor) -> tuple[Tensor, Tensor]:
        """`seen_a` bool (B, N), `seen_b` bool (B, M): True where there is a token; each row of both has one or more."""
        sides, seen = (a, b), (seen_a, seen_b)
        parts = [self._split(self.qkv[k](self.norm[k](side))) for k, side in enumerate(sides)]  # each: q, k, v
        found = []
        for own, side in enumerate(sides):
            query = parts[own][0]
            answers = [
                functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[k][:, None, None, :])
                for k, (_, key, value) in enumerate(parts)
            ]
            mixed = (0.5 * (answers[0] + answers[1])).transpose(1, 2).flatten(2)  # (B, n, d)
            side = side + self.drop(self.out[0 if self.published else own](mixed))
            found.append(side + self.drop(self.feed[own](side)))
        return found[0], found[1]

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three of (B, heads, n, d / heads) from (B, n, 3 d)."""
        batch, n, width = qkv.shape
        q, k, v = qkv.reshape(batch, n, 3, self.heads, width // (3 * self.heads)).permute(2, 0, 3, 1, 4)
        return q, k, v


class BidirectionalFusion(nn.Module):
    """Classes of a patient from a bag of patch features and a clinical row, (B, classes) logits.

    Parameters
    ----------
    features
        Width of the patch features.
    columns
        The clinical columns.
    classes
        Number of classes.
    dim, heads, dropout
        Of all tokens and layers; the feed-forward layers have 2 · dim.
    bidirectional, depth
        Number of bidirectional blocks (published: 2) and of self-attention layers over all tokens (published: 10).
    published
        See `BidirectionalBlock`.

    >>> columns = ClinicalColumns(("age",))
    >>> model = BidirectionalFusion(features=16, columns=columns, classes=3)
    >>> bags, seen = torch.randn(2, 7, 16), torch.ones(2, 7, dtype=torch.bool)
    >>> tuple(model(bags, seen, columns.read([{"age": 3}, {}])).shape)
    (2, 3)
    """

    def __init__(
        self,
        *,
        features: int,
        columns: ClinicalColumns,
        classes: int,
        dim: int = 64,
        heads: int = 4,
        bidirectional: int = 2,
        depth: int = 2,
        dropout: float = 0.1,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.clinical = ClinicalTokens(columns, dim)
        self.patches = nn.Linear(features, dim)
        self.cls = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = nn.ModuleList(
            BidirectionalBlock(dim, heads=heads, hidden=2 * dim, dropout=dropout, published=published)
            for _ in range(bidirectional)
        )
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, 2 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, bags: Tensor, seen: Tensor, rows: ClinicalRows) -> Tensor:
        """`bags` float (B, N, features), `seen` bool (B, N): False for padding. No position of a patch is used."""
        batch = len(bags)
        # padding may hold anything, also NaN
        patches = self.patches(torch.where(seen[..., None], bags, 0.0))
        patches = torch.cat([self.cls.expand(batch, 1, -1), patches], dim=1)
        seen = torch.cat([seen.new_ones(batch, 1), seen], dim=1)
        row, known = self.clinical(rows)
        for block in self.blocks:
            patches, row = block(patches, row, seen, known)
        tokens, present = torch.cat([patches, row], dim=1), torch.cat([seen, known], dim=1)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=~present)
        logits: Tensor = self.head(tokens[:, 0])
        return logits
