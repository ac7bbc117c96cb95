"""Second token sets of UMEML: groups of genes, learned groups, a row of values, features of sentences.

Each module maps its input to tokens (B, T, d) and a mask (B, T), True where there is a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.models.umeml.blocks import SelfAttentionBlock
from wsikit.models.umeml.config import GroupsConfig, LearnedGroupsConfig, RowConfig, SequenceConfig

AnyTokens = GroupsConfig | LearnedGroupsConfig | RowConfig | SequenceConfig


class GroupTokens(nn.Module):
    """A self-normalising network per group of columns: linear, ELU, alpha dropout, twice (MCAT's SNN).

    All groups are one product over padded indices, so 50 gene sets cost as one layer.
    """

    index: Tensor
    there: Tensor

    def __init__(self, config: GroupsConfig, width: int) -> None:
        super().__init__()
        if not config.groups or not all(config.groups):
            raise ValueError("groups: give at least one group, each with at least one column")
        longest = max(len(group) for group in config.groups)
        index = torch.zeros(len(config.groups), longest, dtype=torch.long)
        there = torch.zeros(len(config.groups), longest)
        for row, group in enumerate(config.groups):
            index[row, : len(group)] = torch.tensor(group)
            there[row, : len(group)] = 1
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("there", there, persistent=False)
        scale = there.sum(dim=1).rsqrt()[:, None, None]  # LeCun: variance 1 / inputs, as SNNs need
        self.first = nn.Parameter(torch.randn(len(config.groups), longest, width) * scale)
        self.second = nn.Parameter(torch.randn(len(config.groups), width, width) * width**-0.5)
        self.biases = nn.Parameter(torch.zeros(2, len(config.groups), width))
        self.drop = nn.AlphaDropout(config.drop)

    @torch.no_grad()
    def start_from(self, loadings: Tensor) -> None:
        """Start with weights by which correlated columns have similar tokens, whatever group they are in.

        `loadings` (columns, r): products of two rows approximate the correlation of two columns, as loadings of
        principal components do. The first layer maps them to the width by one random matrix, the second layer is equal
        for all groups; both keep the variance of the random start.
        """
        width = self.first.shape[2]
        mapped = loadings @ torch.randn(loadings.shape[1], width, device=loadings.device)  # (columns, d)
        mapped = mapped[self.index] * self.there[:, :, None]
        variance = mapped.square().sum(dim=(1, 2), keepdim=True) / width
        self.first.copy_(mapped / variance.sqrt().clamp_min(1e-6))
        self.second.copy_(self.second[:1].expand_as(self.second))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values, float (B, columns), NaN where one is missing: it then adds nothing."""
        grouped = values.nan_to_num(0.0)[:, self.index] * self.there  # (B, G, longest)
        first = self.drop(functional.elu(torch.einsum("bgi,gid->bgd", grouped, self.first) + self.biases[0]))
        tokens = self.drop(functional.elu(torch.einsum("bgi,gid->bgd", first, self.second) + self.biases[1]))
        return tokens, _measured(values, tokens)


class LearnedGroupTokens(nn.Module):
    """Groups that are learned: token g is the sum over columns of membership · value · embedding, then a layer."""

    def __init__(self, config: LearnedGroupsConfig, width: int) -> None:
        super().__init__()
        self.membership = nn.Parameter(torch.randn(config.columns, config.groups))
        self.embedding = nn.Parameter(torch.randn(config.columns, width) * (config.columns / config.groups) ** -0.5)
        self.bias = nn.Parameter(torch.zeros(config.groups, width))
        self.second = nn.Linear(width, width)
        self.drop = nn.AlphaDropout(config.drop)

    def groups(self) -> Tensor:
        """Membership of each column, (columns, groups); sums to 1 over the groups."""
        return self.membership.softmax(dim=1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values, float (B, columns), NaN where one is missing."""
        filled = values.nan_to_num(0.0)
        # (B, columns) · (columns, G·d), without a (B, columns, d) array
        weights = (self.groups()[:, :, None] * self.embedding[:, None, :]).flatten(1)
        first = (filled @ weights).view(len(values), *self.bias.shape) + self.bias
        tokens = self.drop(functional.elu(self.second(self.drop(functional.elu(first)))))
        return tokens, _measured(values, tokens)


class RowTokens(nn.Module):
    """One token per value: value · vector + vector (FT-Transformer's numerical features); NaN has its own vector."""

    def __init__(self, config: RowConfig, width: int) -> None:
        super().__init__()
        self.scale, self.shift, self.missing = (
            nn.Parameter(torch.randn(config.columns, width) * width**-0.5) for _ in range(3)
        )
        self.drop = nn.Dropout(config.drop)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Values, float (B, columns), NaN where one is missing."""
        known = ~values.isnan()
        tokens = values.nan_to_num(0.0)[:, :, None] * self.scale + self.shift
        tokens = torch.where(known[:, :, None], tokens, self.missing)
        return self.drop(tokens), _measured(values, tokens)


class SequenceTokens(nn.Module):
    """Features of a sequence, such as sentences, projected to the common width."""

    def __init__(self, config: SequenceConfig, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(config.width, width)
        self.drop = nn.Dropout(config.drop)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features, float (B, T, D); rows of NaN are padding."""
        there = ~features.isnan().any(dim=2)
        tokens = self.drop(self.project(features.nan_to_num(0.0)))
        return tokens * there[:, :, None], there


def _measured(values: Tensor, tokens: Tensor) -> Tensor:
    """Bool (B, T): a patient whose whole row is NaN has no token of this set."""
    return (~values.isnan()).any(dim=1, keepdim=True).expand(-1, tokens.shape[1])


class TokenSet(nn.Module):
    """A second token set: its tokens, then transformer blocks over them."""

    def __init__(self, config: AnyTokens, width: int, *, hidden: int = 2) -> None:
        super().__init__()
        self.first: nn.Module
        if isinstance(config, GroupsConfig):
            self.first = GroupTokens(config, width)
        elif isinstance(config, LearnedGroupsConfig):
            self.first = LearnedGroupTokens(config, width)
        elif isinstance(config, RowConfig):
            self.first = RowTokens(config, width)
        else:
            self.first = SequenceTokens(config, width)
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads=config.heads, hidden=hidden * width, drop=config.drop)
            for _ in range(config.layers)
        )

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, d) and bool (B, T), True where there is a token."""
        tokens, there = self.first(values)
        # a row without any token attends to its padding, which the caller masks: no NaN
        keys = there | ~there.any(dim=1, keepdim=True)
        for block in self.blocks:
            tokens = block(tokens, keys)
        return tokens, there
