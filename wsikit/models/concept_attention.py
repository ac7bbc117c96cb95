"""Concepts by attention: one query per axis attends to the tokens of a patch and is compared with the anchors of the
axis' options (Gao, Liu and Wu 2024, "Aligning human knowledge with visual concepts towards explainable medical image
classification", arXiv 2406.05596). Axes: B patches, T tokens of width D, K axes, S options of all axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_SCALE = 100.0
"""Upper limit of the factor of the cosines, as in CLIP."""


class ConceptAttention(nn.Module):
    """Tokens (B, T, D) to scaled cosines with the anchors (B, S).

    Parameters
    ----------
    token_width
        D.
    anchors : float (S, E)
        Places of the options' texts; normalised here, and never trained.
    columns
        Per axis the columns of its options, as `Criteria.columns`.
    width, heads
        Of the attention.
    """

    anchors: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        token_width: int,
        anchors: Tensor,
        columns: Sequence[slice],
        *,
        width: int = 64,
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.register_buffer("anchors", functional.normalize(anchors.float(), dim=1))
        self.register_buffer("mean", torch.zeros(token_width))
        self.register_buffer("scale", torch.ones(token_width))
        self.of_tokens = nn.Linear(token_width, width)
        self.queries = nn.Parameter(torch.randn(len(self.columns), width) / width**0.5)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.project = nn.Linear(width, anchors.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, tokens: Tensor) -> Tensor:
        cosines: Tensor = self.cosines(tokens)[0]
        return cosines * self.log_scale.exp().clamp(max=MAX_SCALE)

    def cosines(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines (B, S), and the attention of each axis to the tokens (B, K, T), which sums to 1 over T."""
        x = self.of_tokens((tokens - self.mean) / self.scale)  # (B, T, width)
        queries = self.queries.expand(len(x), -1, -1)
        read, weights = self.attention(queries, x, x)
        hidden = self.norm(queries + read)
        hidden = self.last_norm(hidden + self.mixed(hidden))
        seen = functional.normalize(self.project(hidden), dim=2)  # (B, K, E)
        found = [seen[:, axis] @ self.anchors[columns].T for axis, columns in enumerate(self.columns)]
        return torch.cat(found, dim=1), weights


def concept_loss(scores: Tensor, labels: Tensor, columns: Sequence[slice]) -> Tensor:
    """Mean over the axes of the cross-entropy of their options: scores (B, S), labels (B, K), below 0 where unknown.

    An axis without any label in the batch adds 0 and is not counted.

    >>> scores = torch.tensor([[0.0, 0.0, 5.0, 0.0]])
    >>> round(float(concept_loss(scores, torch.tensor([[1, -1]]), [slice(0, 2), slice(2, 4)])), 4)
    0.6931
    """
    losses = [
        functional.cross_entropy(scores[known, columns_of], labels[known, axis])
        for axis, columns_of in enumerate(columns)
        if bool((known := labels[:, axis] >= 0).any())
    ]
    return torch.stack(losses).mean() if losses else scores.sum() * 0.0
