"""The pathology encoder of UMEML: learned queries gather a patient's patches to prototypes.

Axes: B patients, N patches (padded), K prototypes, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.umeml.blocks import FeedForward, QueryAttention, assignment_of, attention_of
from wsikit.models.umeml.config import PatchConfig


@dataclass(frozen=True)
class Prototypes:
    """What the encoder makes of the patches of B patients."""

    tokens: Tensor
    """(B, K, d)."""
    patches: Tensor
    """(B, N, d): the projected patches, without dropout."""
    mask: Tensor | None
    """Bool (B, N), True where there is a patch; None: everywhere."""
    scores: Tensor
    """(B, N, h, K): of the last layer, before any softmax."""
    normalisation: str

    @property
    def attention(self) -> Tensor:
        """(B, K, N): which patches a prototype is made of; sums to 1 over the patches of a patient that has any."""
        return attention_of(self.scores, self.mask, self.normalisation)

    @property
    def assignment(self) -> Tensor:
        """(B, K, N): which prototype a patch belongs to; sums to 1 over the prototypes, 0 for padding."""
        return assignment_of(self.scores, self.mask)


class PathologyEncoder(nn.Module):
    """Linear and ReLU on each patch; then layers of attention of the queries to the patches.

    The assignment is the competition of the last layer itself, mean over its heads, so it is trained by every loss.
    Permuting patches or adding padding changes no prototype.

    Parameters
    ----------
    config : PatchConfig
    width : int
        d.
    """

    mean: Tensor
    """(D,), and `scale`: mean and standard deviation of the features in the training part; set by the training."""
    scale: Tensor

    def __init__(self, config: PatchConfig, width: int) -> None:
        super().__init__()
        self.normalisation = config.normalisation
        self.project = nn.Linear(config.width, width)
        nn.init.kaiming_normal_(self.project.weight)
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(config.width))
        self.drop = config.drop
        self.queries = nn.Parameter(torch.empty(config.prototypes, width))
        nn.init.normal_(self.queries)  # as long as a LayerNorm's output: equal queries would stay equal
        self.attend = nn.ModuleList(
            QueryAttention(width, heads=config.heads, normalisation=config.normalisation, pooling=config.pooling)
            for _ in range(config.layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.layers))
        self.feed = nn.ModuleList(FeedForward(width, hidden=2 * width, drop=config.drop) for _ in range(config.layers))

    @torch.no_grad()
    def start_from(self, centres: Tensor) -> None:
        """Start the queries at these places of the feature space, (K, D), such as the centres of k-means."""
        self.queries.copy_(self._seen(centres))

    def _seen(self, patches: Tensor) -> Tensor:
        # standardised features times W are features times W / scale: no pass over the patches for it
        weight = self.project.weight / self.scale
        bias = self.project.bias - weight @ self.mean
        return functional.linear(patches, weight, bias).relu_()

    def forward(self, patches: Tensor, mask: Tensor | None = None) -> Prototypes:
        """Patches, float (B, N, D), and bool (B, N), True where there is one; None: everywhere."""
        seen = self._seen(patches)
        keep = self._dropped(seen) if self.training and self.drop else None
        tokens = self.queries.expand(len(patches), -1, -1)
        scores = tokens.new_zeros(0)
        for attend, norm, feed in zip(self.attend, self.norms, self.feed, strict=True):
            found, scores = attend(norm(tokens), seen, mask, keep)
            tokens = feed(tokens + found)
        return Prototypes(tokens, seen, mask, scores, self.normalisation)

    def _dropped(self, seen: Tensor) -> Tensor:
        """Dropout of whole features of a patient, (B, d). That of single values would average out over a bag."""
        kept = torch.rand(seen.shape[0], seen.shape[2], device=seen.device) >= self.drop
        return kept / (1 - self.drop)
