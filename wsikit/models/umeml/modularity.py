"""Prototype assignment and the modularity loss of UMEML.

The paper gives L = −(1/2e)·(α·Tr(W S^pᵀ S^p) + β·Tr(W S^gᵀ S^g)) and defines neither W, e, S nor their shapes. Here the
nodes are the prototypes and second tokens of one patient, W is Newman's modularity matrix of their graph, and S are
soft assignments of nodes to communities. For a hard assignment −L is the modularity of the partition.
Axes: B patients, n nodes, C communities, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.umeml.config import ModularityConfig


def cosine_graph(nodes: Tensor, mask: Tensor, *, least: float = 0.0) -> Tensor:
    """Weights of the edges (B, n, n): what the cosines have above `least`, without loops, 0 at masked nodes.

    `nodes` is (B, n, d), `mask` bool (B, n), True where there is a node.
    """
    unit = functional.normalize(nodes, dim=2)
    weights = (unit @ unit.transpose(1, 2) - least).relu()
    there = (mask[:, :, None] & mask[:, None, :]) & ~torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
    return weights * there


def modularity_matrix(adjacency: Tensor) -> tuple[Tensor, Tensor]:
    """Newman's W = A − k kᵀ / 2e (B, n, n) and 2e (B,), the sum of A. A graph without edges has W = 0 and 2e = 0.

    `adjacency` (B, n, n) is symmetric, not negative.

    >>> W, twice_edges = modularity_matrix(torch.tensor([[[0.0, 2.0], [2.0, 0.0]]]))
    >>> W.tolist(), twice_edges.tolist()
    ([[[-1.0, 1.0], [1.0, -1.0]]], [4.0])
    """
    degree = adjacency.sum(dim=2)
    twice_edges = degree.sum(dim=1)
    divisor = torch.where(twice_edges > 0, twice_edges, 1.0)
    expected = degree[:, :, None] * degree[:, None, :] / divisor[:, None, None]
    return adjacency - expected, twice_edges


def modularity(adjacency: Tensor, assignment: Tensor) -> Tensor:
    """Tr(W Sᵀ S) / 2e, (B,): the modularity of the assignment (B, C, n); 0 for a graph without edges.

    >>> pair = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    >>> modularity(pair, torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])).tolist()
    [-0.5]
    """
    W, twice_edges = modularity_matrix(adjacency)
    trace = torch.einsum("bci,bij,bcj->b", assignment, W, assignment)
    return trace / torch.where(twice_edges > 0, twice_edges, 1.0)


def collapse(assignment: Tensor, mask: Tensor) -> Tensor:
    """DMoN's collapse term (arXiv 2006.16904, eq. 8), (B,): √C/n · ‖Σ_n S‖ − 1. 0 if communities are of equal size,
    √C − 1 if all nodes are in one.

    >>> collapse(torch.eye(2)[None], torch.ones(1, 2, dtype=torch.bool)).abs().max() < 1e-6
    tensor(True)
    """
    sizes = (assignment * mask[:, None, :]).sum(dim=2)  # (B, C)
    nodes = mask.sum(dim=1).clamp_min(1)
    found: Tensor = assignment.shape[1] ** 0.5 * sizes.norm(dim=1) / nodes - 1
    return torch.where(mask.any(dim=1), found, 0.0)


@dataclass(frozen=True)
class Communities:
    """Communities of the nodes of B patients."""

    loss: Tensor
    """(B,): the modularity term with the collapse guard, before γ."""
    pathology: Tensor
    """(B, C, n) or, in variant "blocks", with zeros at second tokens: S^p."""
    genomics: Tensor
    """(B, C, n): S^g."""
    adjacency: Tensor
    """(B, n, n)."""
    mask: Tensor
    """Bool (B, n)."""


class CommunityLoss(nn.Module):
    """Assignments by the cosines of nodes and learned centres, and their loss.

    "views": S^p and S^g have centres of their own and assign all nodes. "blocks": one set of centres; S^p is zero at
    second tokens and S^g at prototypes, so that edges between the modalities enter neither trace.
    """

    def __init__(self, config: ModularityConfig, width: int) -> None:
        super().__init__()
        self.config = config
        sets = 2 if config.variant == "views" else 1
        self.centres = nn.Parameter(torch.randn(sets, config.communities, width))

    def assign(self, nodes: Tensor, view: int) -> Tensor:
        """(B, C, n): softmax over the communities."""
        centres = functional.normalize(self.centres[view], dim=1)
        cosines = centres @ functional.normalize(nodes, dim=2).transpose(1, 2)
        return (cosines / self.config.temperature).softmax(dim=1)

    def forward(self, nodes: Tensor, mask: Tensor, is_prototype: Tensor) -> Communities:
        """`nodes` (B, n, d), `mask` bool (B, n), `is_prototype` bool (n,): True for prototypes, else second tokens."""
        config = self.config
        if config.centre:
            for of in (is_prototype, ~is_prototype):
                there = (mask & of)[:, :, None]
                mean = (nodes * there).sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True).clamp_min(1)
                nodes = nodes - mean * there
        adjacency = cosine_graph(nodes.detach() if config.detach else nodes, mask, least=config.least)
        first = self.assign(nodes, 0)
        second = self.assign(nodes, 1) if config.variant == "views" else first
        if config.variant == "blocks":
            first, second = first * is_prototype, second * ~is_prototype
        terms = nodes.new_zeros(len(nodes))
        for weight, shares, of in ((config.alpha, first, is_prototype), (config.beta, second, ~is_prototype)):
            counted = mask if config.variant == "views" else mask & of
            terms = terms - weight * modularity(adjacency, shares)
            terms = terms + weight * config.collapse * collapse(shares, counted)
        return Communities(terms, first, second, adjacency, mask)
