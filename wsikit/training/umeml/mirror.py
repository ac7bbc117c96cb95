"""Two losses of MIRROR (arXiv 2503.00374) as further terms of UMEML's training: retention of masked tokens, cluster KL.

MIRROR has an encoder for each modality. Here the nodes of UMEML's graph, prototypes and second tokens, are the tokens
of the two modalities, and its decoder's blocks reconstruct those that are masked, also from the other modality. What
is learnt for it (mask, places, output layer, centres) is left behind after the training. Axes: B patients, n nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.umeml.config import UmemlConfig, token_count
from wsikit.models.umeml.network import UMEML, UmemlOutput
from wsikit.training.fusion_losses import cluster_kl, draw_mask, mask_tokens, retention
from wsikit.training.umeml.settings import MirrorSettings

TEMPERATURE = 0.1
"""Cosines to the centres are divided by it."""


class MirrorLosses(nn.Module):
    """Weighted sum of both losses for a batch; `settings` name their weights.

    Raises
    ------
    ValueError
        The network has one modality only: then there is nothing that could agree or be kept.
    """

    def __init__(self, settings: MirrorSettings, config: UmemlConfig) -> None:
        super().__init__()
        if config.patches is None or not config.tokens:
            raise ValueError("mirror: needs slides and tables; set its weights to 0")
        self.settings, width = settings, config.width
        nodes = config.patches.prototypes + sum(map(token_count, config.tokens.values()))
        self.masked = nn.Parameter(torch.randn(width) * 0.02)
        self.places = nn.Parameter(torch.randn(nodes, width) * 0.02)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.centres = nn.Parameter(torch.randn(settings.centres, width))

    def forward(self, network: UMEML, found: UmemlOutput) -> Tensor:
        """The weighted sum, a scalar: a mean over the batch's patients or tokens."""
        total = found.nodes.sum() * 0.0
        if self.settings.retention:
            total = total + self.settings.retention * self.retention(network, found)
        if self.settings.cluster:
            total = total + self.settings.cluster * self.cluster(found)
        return total

    def retention(self, network: UMEML, found: UmemlOutput) -> Tensor:
        """Sum over both modalities of the squared error of their masked tokens, as the decoder reconstructs them.

        The targets are the tokens at a mean of 0 and a variance of 1, without gradient: else tokens would shrink.
        """
        sides = (found.node_mask & found.is_prototype, found.node_mask & ~found.is_prototype)
        masks = [draw_mask(side, share=self.settings.masked) for side in sides]
        tokens = mask_tokens(found.nodes, masks[0] | masks[1], self.masked)
        tokens = tokens + self.places[-tokens.shape[1] :]  # prototypes come first, and may be absent from a batch
        keys = found.node_mask | ~found.node_mask.any(dim=1, keepdim=True)  # a row without keys would be NaN
        for block in network.decoder.blocks:
            tokens = block(tokens, keys)
        made = self.out(tokens)
        target = functional.layer_norm(found.nodes.detach(), made.shape[-1:])
        return retention(made, target, masks[0]) + retention(made, target, masks[1])

    def cluster(self, found: UmemlOutput) -> Tensor:
        """Symmetric KL of the assignments of both modalities' mean tokens to centres, over patients who have both."""
        means = []
        both = torch.ones_like(found.node_mask[:, 0])
        for side in (found.node_mask & found.is_prototype, found.node_mask & ~found.is_prototype):
            both = both & side.any(dim=1)
            means.append((found.nodes * side[:, :, None]).sum(dim=1) / side.sum(dim=1).clamp_min(1)[:, None])
        if not both.any():
            return found.nodes.sum() * 0.0
        centres = functional.normalize(self.centres, dim=1)
        first, second = (functional.normalize(mean[both], dim=1) @ centres.T / TEMPERATURE for mean in means)
        return cluster_kl(first, second)
