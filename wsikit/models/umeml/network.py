"""UMEML's network: the branches, the community loss, the unified decoder and the heads.

Missing modalities: their tokens are replaced by one learned token, and their own keys are masked, so the prediction
for a patient without genes is that of a run without genes. Axes: B patients, N patches, n nodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsikit.models.bidirectional import BidirectionalBlock
from wsikit.models.umeml.config import UmemlConfig, token_count
from wsikit.models.umeml.decoder import Product, UnifiedDecoder
from wsikit.models.umeml.heads import TaskHead
from wsikit.models.umeml.modularity import Communities, CommunityLoss
from wsikit.models.umeml.pathology import PathologyEncoder, Prototypes
from wsikit.models.umeml.tokens import TokenSet
from wsikit.models.umeml.wide import SlideColumns


@dataclass(frozen=True)
class UmemlOutput:
    """What the network returns for B patients."""

    tasks: dict[str, Tensor]
    """Output of each task's head; see `wsikit.models.umeml.heads.TaskHead`."""
    states: Tensor
    """(B, M, d): the decoder's state of each task's token."""
    prototypes: Prototypes | None
    """None without a pathology branch or without patches in this batch."""
    communities: Communities | None
    """None if the weight of the loss is 0, or fewer than two nodes exist."""
    nodes: Tensor
    """(B, n, d): prototypes, then second tokens, before the decoder."""
    node_mask: Tensor
    """Bool (B, n), True where there is a node that is used."""
    is_prototype: Tensor
    """Bool (n,)."""


class UMEML(nn.Module):
    """The network of `UmemlConfig`. All parts that a configuration leaves out are not built."""

    def __init__(self, config: UmemlConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pathology = None if config.patches is None else PathologyEncoder(config.patches, width)
        self.tokens = nn.ModuleDict({name: TokenSet(part, width) for name, part in config.tokens.items()})
        self.kinds = nn.Parameter(torch.randn(len(config.modalities), width) * 0.02)
        self.missing = nn.Parameter(torch.randn(len(config.modalities), width) * 0.02)
        self.communities = CommunityLoss(config.modularity, width) if config.modularity.weight else None
        self.exchange = nn.ModuleList(
            BidirectionalBlock(
                width,
                heads=config.decoder.heads,
                hidden=config.decoder.hidden * width,
                dropout=config.decoder.drop,
            )
            for _ in range(config.decoder.bidirectional)
        )
        to_patches = config.patches is not None and config.patches.cross_attention
        self.decoder = UnifiedDecoder(config.decoder, width, tasks=len(config.tasks), patches=to_patches)
        self.product: Product | None = None
        if config.patches is not None and config.decoder.product:
            counts = config.patches.prototypes, sum(map(token_count, config.tokens.values()))
            self.product = Product(counts, width, config.decoder.product, drop=config.decoder.drop)
        self.wide = SlideColumns(config) if config.patches is not None and config.patches.centres else None
        columns = len(config.direct) + (self.wide.count if self.wide is not None else 0)
        self.heads = nn.ModuleDict({task.name: TaskHead(task, width, columns) for task in config.tasks})

    def forward(
        self,
        patches: Tensor | None = None,
        patch_mask: Tensor | None = None,
        values: Mapping[str, Tensor] | None = None,
        *,
        present: Tensor | None = None,
        direct: Tensor | None = None,
        registers: bool = True,
    ) -> UmemlOutput:
        """Predict B patients.

        Parameters
        ----------
        patches : Tensor, optional
            Float (B, N, D), padded. None: no patient of this batch has any.
        patch_mask : Tensor, optional
            Bool (B, N), True where there is a patch; default: all.
        values : mapping
            Input of each second token set, by name; one that is not named is missing for the whole batch.
        present : Tensor, optional
            Bool (B, modalities), in the order of `config.modalities`: which modalities of each patient are used;
            default: those that have at least one patch or token. In training, modality dropout removes further ones.
        direct : Tensor, optional
            Float (B, q): columns that enter the heads directly.
        registers : bool
            False leaves the register tokens out, as is allowed in use.
        """
        values = values or {}
        batch = self._batch(patches, values)
        sets: list[tuple[Tensor, Tensor]] = []
        prototypes = None
        for name in self.config.modalities:
            if name == "patches" and patches is not None and self.pathology is not None:
                prototypes = self.pathology(patches, patch_mask)
                has = patches.new_full((batch, 1), patches.shape[1] > 0, dtype=torch.bool)
                has = has if patch_mask is None else patch_mask.any(dim=1, keepdim=True)
                has = has.expand(-1, prototypes.tokens.shape[1])
                sets.append((prototypes.tokens, has))
            elif name in values:
                sets.append(self.tokens[name](values[name]))
            else:
                empty = self.kinds.new_zeros(batch, 0, self.config.width)
                sets.append((empty, empty.new_zeros(batch, 0, dtype=torch.bool)))
        used = torch.stack([there.any(dim=1) for _, there in sets], dim=1)  # (B, modalities)
        if present is not None:
            used = used & present
        if self.training and self.config.modality_dropout:
            used = used & _kept(used, self.config.tables, self.config.modality_dropout)
        sequence, keys, nodes = self._join(sets, used)
        communities = None
        if self.communities is not None and nodes[0].shape[1] > 1:
            communities = self.communities(*nodes)
        seen = None
        if prototypes is not None:
            there = torch.ones_like(prototypes.patches[:, :, 0], dtype=torch.bool) if patch_mask is None else patch_mask
            seen = (prototypes.patches, there & used[:, :1])
        if direct is not None:
            owners = [self.config.modalities.index(name) for name in self.config.direct]
            direct = direct * used[:, owners]
        if self.wide is not None:
            given = self.kinds.new_zeros(batch, len(self.config.direct)) if direct is None else direct
            direct = torch.cat([given, self.wide(patches, patch_mask, values, used)], dim=1)
        states = self.decoder(sequence, keys, patches=seen, registers=registers)
        if self.product is not None and self.product.fits(nodes[2]):
            states = states + self.product(*nodes)[:, None, :]
        outputs = {
            task.name: self.heads[task.name](states[:, number], direct) for number, task in enumerate(self.config.tasks)
        }
        return UmemlOutput(outputs, states, prototypes, communities, *nodes)

    def _batch(self, patches: Tensor | None, values: Mapping[str, Tensor]) -> int:
        unknown = sorted(set(values) - set(self.config.tokens))
        if unknown or (patches is not None and self.pathology is None):
            raise ValueError(f"inputs {unknown or ['patches']}: the network has {', '.join(self.config.modalities)}")
        for given in (patches, *values.values()):
            if given is not None:
                return len(given)
        raise ValueError("give patches, or the values of at least one token set")

    def _join(
        self, sets: list[tuple[Tensor, Tensor]], used: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The decoder's sequence and its key mask; nodes of the graph, their mask, and which are prototypes."""
        tokens, masks, of = [], [], []
        for number, (one, there) in enumerate(sets):
            tokens += [one + self.kinds[number], (self.missing[number] + self.kinds[number]).expand(len(one), 1, -1)]
            masks += [there & used[:, number, None], ~used[:, number, None]]
            of += [number] * one.shape[1]
        is_prototype = torch.tensor(
            [self.config.modalities[number] == "patches" for number in of], dtype=torch.bool, device=used.device
        )
        nodes = torch.cat([one for one, _ in sets], dim=1)
        node_mask = torch.cat(masks[::2], dim=1)
        # each side has its learned token where it is missing, so no side is empty
        first, second = torch.cat(tokens[:2], dim=1), torch.cat(tokens[2:] or [tokens[0][:, :0]], dim=1)
        seen = torch.cat(masks[:2], dim=1), torch.cat(masks[2:] or [masks[0][:, :0]], dim=1)
        for block in self.exchange:
            first, second = block(first, second, *seen)
        return torch.cat([first, second], dim=1), torch.cat(masks, dim=1), (nodes, node_mask, is_prototype)


def _kept(used: Tensor, tables: tuple[int, ...], probability: float) -> Tensor:
    """Which modalities (B, modalities) stay: of a patient with several tables, one is dropped with `probability`."""
    of = torch.tensor(tables, device=used.device)
    has = torch.zeros_like(used, dtype=torch.long).index_add_(1, of, used.long()) > 0  # (B, tables)
    chance = torch.rand(has.shape, device=used.device).masked_fill(~has, -1.0)
    drop = (torch.rand(len(used), device=used.device) < probability) & (has.sum(dim=1) > 1)
    return ~(drop[:, None] & (of[None, :] == chance.argmax(dim=1)[:, None]))
