"""The unified decoder of UMEML: task tokens, registers and the tokens of all modalities in one sequence.

Axes: B patients, T tokens of all modalities, R registers, M tasks, d width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsikit.models.umeml.blocks import FeedForward, QueryAttention, SelfAttentionBlock
from wsikit.models.umeml.config import DecoderConfig


class UnifiedDecoder(nn.Module):
    """Blocks of self-attention over the whole sequence; optionally the task tokens and registers attend to patches.

    Parameters
    ----------
    config : DecoderConfig
    width : int
        d.
    tasks : int
        M.
    patches : bool
        Whether task tokens and registers also attend to the patches in each block.
    """

    def __init__(self, config: DecoderConfig, width: int, *, tasks: int, patches: bool) -> None:
        super().__init__()
        self.n_tasks = tasks
        self.tasks = nn.Parameter(torch.randn(tasks, width) * 0.02)
        self.registers = nn.Parameter(torch.randn(config.registers, width) * 0.02)
        hidden = config.hidden * width
        self.blocks = nn.ModuleList(
            SelfAttentionBlock(width, heads=config.heads, hidden=hidden, drop=config.drop) for _ in range(config.layers)
        )
        self.to_patches = nn.ModuleList(
            _PatchStep(config, width, hidden) for _ in range(config.layers if patches else 0)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        *,
        patches: tuple[Tensor, Tensor] | None = None,
        registers: bool = True,
    ) -> Tensor:
        """State of each task's token (B, M, d).

        `tokens` (B, T, d); `mask` bool (B, T), True where there is one; `patches`: features (B, N, d) and mask (B, N).
        `registers` False leaves the registers out of the sequence.
        """
        own = torch.cat([self.tasks, self.registers]) if registers else self.tasks
        own = own.expand(len(tokens), -1, -1)
        n_own = own.shape[1]
        sequence = torch.cat([own, tokens], dim=1)
        keys = torch.cat([mask.new_ones(len(mask), n_own), mask], dim=1)
        for number, block in enumerate(self.blocks):
            sequence = block(sequence, keys)
            if len(self.to_patches) and patches is not None:
                own = self.to_patches[number](sequence[:, :n_own], *patches)
                sequence = torch.cat([own, sequence[:, n_own:]], dim=1)
        state: Tensor = self.norm(sequence[:, : self.n_tasks])
        return state


class Product(nn.Module):
    """A low-rank product of two modalities: U vec(P) ∘ V vec(G), mapped to the width; 0 where one is missing.

    Parameters
    ----------
    nodes : tuple of int
        Prototypes and second tokens.
    width, rank : int
        d, r.
    """

    def __init__(self, nodes: tuple[int, int], width: int, rank: int, *, drop: float) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.randn(n, width, rank) * (n * width) ** -0.5) for n in nodes)
        self.drop, self.out = nn.Dropout(drop), nn.Linear(rank, width, bias=False)

    def fits(self, is_prototype: Tensor) -> bool:
        """Whether a batch has all nodes; without a modality, or one of its sets, there is no product."""
        return (int(is_prototype.sum()), int((~is_prototype).sum())) == (len(self.first), len(self.second))

    def forward(self, nodes: Tensor, mask: Tensor, is_prototype: Tensor) -> Tensor:
        """(B, d) from nodes (B, n, d), their mask, bool (B, n), and which are prototypes, bool (n,)."""
        known = self.drop(nodes) * mask[:, :, None]
        left = torch.einsum("bkd,kdr->br", known[:, is_prototype], self.first)
        right = torch.einsum("bgd,gdr->br", known[:, ~is_prototype], self.second)
        made: Tensor = self.out(left * right)
        return made


class _PatchStep(nn.Module):
    def __init__(self, config: DecoderConfig, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attend = QueryAttention(width, heads=config.heads, normalisation="patches")
        self.feed = FeedForward(width, hidden=hidden, drop=config.drop)

    def forward(self, own: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
        found, _ = self.attend(self.norm(own), patches, mask)
        # without patches nothing is added, not even the bias: the same as a run without them
        there = mask.any(dim=1)[:, None, None]
        fed: Tensor = torch.where(there, self.feed(own + found), own)
        return fed
